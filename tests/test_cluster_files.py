"""cluster.yaml is one that Ray takes, opens nothing to the world, and installs what the Makefile installs."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

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


def test_nodes_install_what_the_makefile_installs(cluster):
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    targets = re.findall(r"&& make (\S+)", " ".join(cluster["setup_commands"]))
    assert targets == [".venv/.installed"]
    assert "STAMP := .venv/.installed" in makefile
    extras = re.findall(r"'\.\[(\w+)\]'", " ".join(cluster["setup_commands"]))
    assert [f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras] == [True]
