"""What a graph is built from: settings, students, policies; and how it scales."""

import json
import socket
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from ray.serve.config import AutoscalingContext
from ray.serve.schema import ServeDeploySchema
from transformers import AutoModelForCausalLM

from actors.errors import UserError
from algorithms.voting.policy import Policy
from algorithms.voting.stopping import Beta, BetaWeighted, Fixed
from serve import __main__ as command
from serve.app import build, prepare
from serve.metrics_page import merged
from serve.policies import Policies, load_policies
from serve.scaling import SamplesInFlight, replicas_for
from serve.settings import Settings, StudentSettings

CONFIG = Path(__file__).parents[2] / "serve/config.yaml"


# --- settings


def test_one_student_is_described_by_the_settings_beside_it():
    settings = Settings.model_validate({"student": "m", "max_batch": 3, "engine": "openai", "url": "http://x/v1"})
    assert settings.students == {
        "sluice": StudentSettings(student="m", max_batch=3, engine="openai", url="http://x/v1")
    }
    assert Settings().students["sluice"].student == "smollm2"


@pytest.mark.parametrize(
    ("values", "needle"),
    [
        ({"student": "m", "engine": "gpu"}, "engine=gpu is none of transformers, vllm, openai"),
        ({"student": "m", "engine": "openai"}, "engine=openai needs url="),
        ({"student": "m", "url": "http://x"}, "url does nothing with engine=transformers"),
        ({"student": "m", "max_model_len": 5}, "max_model_len does nothing with engine=transformers"),
        ({"student": "m", "students": {"a": {"student": "m"}}}, "give `students` or student, not both"),
        ({"adaptive": {"max_samples": 0}}, "greater than or equal to 1"),
        ({"adaptive": {"max_samples": 65}}, "adaptive.max_samples=65 is above its limit of 64"),
        ({"ingress": {"min_replicas": 5}}, "min_replicas=5 is more than max_replicas=4"),
        (
            {"student": "m", "engine": "openai", "url": "http://x", "threads": 2},
            "threads does nothing with engine=openai",
        ),
        ({"student": "m", "engine": "vllm", "patience_seconds": 2}, "patience_seconds does nothing with engine=vllm"),
        ({"student": "m", "replicas": {"num_gpus": 2}}, "engine=transformers computes on one GPU"),
        ({"wings": 2}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense(values, needle):
    with pytest.raises(ValidationError, match=needle):
        Settings.model_validate(values)


def test_the_config_for_clusters_is_one_that_ray_serve_and_the_graph_take():
    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    [application] = config.applications
    assert application.import_path == "serve.app:build"
    settings = Settings.model_validate(application.args)
    assert settings.students["sluice"].engine == "vllm"
    assert config.http_options.request_timeout_s > settings.limits.max_deadline_seconds


# --- the command


def test_words_and_files_become_settings(tmp_path):
    file = tmp_path / "graph.yaml"
    file.write_text("adaptive: {max_samples: 8, parallel: 2}\nranker: r\n")
    words = [str(file), "adaptive.max_samples=4", "student=runs/nce", "port=9000", "log_requests=true"]
    assert command.read_arguments(words) == {
        "adaptive": {"max_samples": 4, "parallel": 2},
        "ranker": "r",
        "student": "runs/nce",
        "port": 9000,
        "log_requests": True,
    }
    assert command.read_arguments([str(CONFIG)])["policy"] == "/shared/runs/votes"


def test_a_port_that_is_taken_is_one_line(monkeypatch, capsys, byte_model):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["serve", f"student={byte_model}", f"port={port}"])
        with pytest.raises(SystemExit) as left:
            command.main()
    assert left.value.code == 2
    assert f"serve: cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["nothing"], "nothing is no KEY=VALUE and cannot be read"),
        (["port=high"], "port=high is not a number"),
        (["student=no/such/model/anywhere"], "no/such/model/anywhere"),
        (["adaptive.max_samples=0"], "adaptive.max_samples: Input should be greater than or equal to 1"),
        (["engine=openai"], "engine=openai needs url="),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(monkeypatch, capsys, words, needle):
    monkeypatch.setattr("sys.argv", ["serve", *words])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert needle in told
    assert told.count("\n") == 1


def test_help_lists_every_setting(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["serve", "--help"])
    command.main()
    told = capsys.readouterr().out
    assert all(name in told for name in [*Settings.model_fields, *StudentSettings.model_fields])


# --- students


@pytest.fixture
def adapter(byte_model, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(byte_model), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_peft_folder_brings_its_base(adapter, byte_model):
    prepared = prepare("sluice", StudentSettings(student=str(adapter)))
    assert prepared.make_engine.adapter == str(adapter)
    assert prepared.make_engine.model.path == byte_model
    assert prepared.lineage["adapter"]["kind"] == "LORA"


def test_a_student_without_its_base(adapter):
    settings = json.loads((adapter / "adapter_config.json").read_text())
    for base, needle in [(None, "does not name the model"), ("/no/such/base", "'/no/such/base' does not exist")]:
        (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
        with pytest.raises(UserError, match=needle):
            build(Settings(student=str(adapter)))


def test_two_adapters_on_one_student(adapter):
    with pytest.raises(UserError, match="has an adapter of its own"):
        build(Settings(student=str(adapter), adapter=str(adapter)))


def test_vllm_serves_no_nat(adapter, byte_model, monkeypatch, tmp_path):
    package = tmp_path / "packages" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(package.parent))
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "NAT", "gate_dim": 2}))
    monkeypatch.setattr("actors.engines.build.check_adapter", lambda *_: {})
    with pytest.raises(UserError, match="is of kind NAT: vLLM serves only LORA"):
        build(Settings(student=byte_model, adapter=str(adapter), engine="vllm"))


def test_a_graph_is_built_without_loading_weights(byte_model):
    application = build(Settings(student=byte_model, ranker="no/such/ranker"))
    assert application._bound_deployment.name == "Adaptive"


def test_keys_may_be_required(byte_model, monkeypatch, caplog):
    monkeypatch.delenv("SLUICE_API_KEYS", raising=False)
    with pytest.raises(UserError, match="require_keys: set SLUICE_API_KEYS where the graph is built"):
        build(Settings(student=byte_model, require_keys=True))
    build(Settings(student=byte_model))
    assert "anyone who reaches the endpoint may ask" in caplog.text
    monkeypatch.setenv("SLUICE_API_KEYS", "one, two")
    caplog.clear()
    build(Settings(student=byte_model, require_keys=True))
    assert "anyone" not in caplog.text


def test_naming_one_setting_of_a_section_keeps_the_others():
    settings = Settings.model_validate({"ingress": {"num_cpus": 0.5}, "ranker_replicas": {"num_gpus": 1}})
    assert (settings.ingress.max_replicas, settings.ranker_replicas.max_replicas) == (4, 4)


# --- policies


def save_policies(folder, **policies):
    folder.mkdir()
    (folder / "policies.json").write_text(json.dumps({name: each.to_json() for name, each in policies.items()}))
    return str(folder)


def test_an_evaluation_decides_if_it_is_named(tmp_path):
    counted, scored = Policy("sc", Beta(0.9)), Policy("asc", BetaWeighted(0.8))
    run = save_policies(tmp_path / "votes", beta=counted, **{"beta-weighted": scored})
    assert load_policies(run, "beta", 0.95, has_ranker=False) == Policies(counted, counted)
    found = load_policies(run, "beta-weighted", 0.95, has_ranker=True)
    assert found == Policies(scored, Policies.default(0.95).counted)
    with pytest.raises(UserError, match="reads a ranker's scores: give ranker= too"):
        load_policies(run, "beta-weighted", 0.95, has_ranker=False)
    with pytest.raises(UserError, match="has no rule gain: choose among beta, beta-weighted"):
        load_policies(run, "gain", 0.95, has_ranker=True)


def test_policies_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(UserError, match="holds no policies"):
        load_policies(str(tmp_path), "gain", 0.95, has_ranker=True)
    (tmp_path / "policies.json").write_text('{"gain": {"version": 9}}')
    with pytest.raises(UserError, match="version 9"):
        load_policies(str(tmp_path), "gain", 0.95, has_ranker=True)


def test_a_request_may_ask_for_a_confidence_and_a_minimum():
    chosen = Policies(Policy("asc", Fixed(4, maximum=8)), Policy("sc", Fixed(4, maximum=8))).chosen(12, 3, 0.9)
    assert chosen.scored == Policy("asc", BetaWeighted(0.9, minimum=3, maximum=12))
    assert chosen.counted == Policy("sc", Beta(0.9, minimum=3, maximum=12))
    kept = Policies.default(0.95).chosen(6, None, None)
    assert kept.counted.rule == Beta(0.95, maximum=6)
    with pytest.raises(ValueError, match="min_samples=5 is more than max_samples=4"):
        Policies.default(0.95).chosen(4, 5, None)


# --- scaling and metrics


@pytest.mark.parametrize(
    ("samples", "capacity", "utilization", "replicas"),
    [(0, 8, 0.8, 0), (1, 8, 0.8, 1), (6.4, 8, 0.8, 1), (6.5, 8, 0.8, 2), (64, 8, 1.0, 8), (65, 8, 1.0, 9)],
)
def test_replicas_for_samples_in_flight(samples, capacity, utilization, replicas):
    assert replicas_for(samples, capacity, utilization) == replicas


@pytest.mark.parametrize(("told", "replicas"), [({}, 5), ({"capacity": {"a": 4.0, "b": 8.0}}, 7)])
def test_a_replica_tells_its_own_capacity(told, replicas):
    """40 samples: 40 / (10 * 0.8) = 5, and 40 / (6 * 0.8) = 8.3 at a mean capacity of 6."""
    context = AutoscalingContext(
        deployment_id=None, deployment_name="s", app_name="a", current_num_replicas=2, target_num_replicas=2,
        running_replicas=[], total_num_requests=40.0 if not told else 33.6, total_queued_requests=None,
        aggregated_metrics=told, raw_metrics=None, capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=9,
        policy_state={}, last_scale_up_time=None, last_scale_down_time=None, current_time=None, config=None,
    )  # fmt: skip
    assert SamplesInFlight(10, 0.8)(context) == (replicas, {})


def test_the_metrics_of_several_nodes_are_one_page():
    page = (
        "# HELP ray_sluice_x_total Things.\n# TYPE ray_sluice_x_total counter\nray_sluice_x_total{{node=\"{0}\"}} 1.0\n"
        "# HELP ray_other Not ours.\n# TYPE ray_other gauge\nray_other 2\n"
        "# TYPE ray_sluice_s histogram\n"
        "ray_sluice_s_bucket{{le=\"1\",node=\"{0}\"}} 3\nray_sluice_s_count{{node=\"{0}\"}} 3\n"
    )  # fmt: skip
    assert merged([page.format("a"), "", page.format("b")]) == (
        "# HELP ray_sluice_x_total Things.\n# TYPE ray_sluice_x_total counter\n"
        'ray_sluice_x_total{node="a"} 1.0\nray_sluice_x_total{node="b"} 1.0\n'
        "# TYPE ray_sluice_s histogram\n"
        'ray_sluice_s_bucket{le="1",node="a"} 3\nray_sluice_s_count{node="a"} 3\n'
        'ray_sluice_s_bucket{le="1",node="b"} 3\nray_sluice_s_count{node="b"} 3\n'
    )
