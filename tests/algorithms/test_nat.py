"""NAT against its equations written out, as a method of PEFT's, and under a student's LoRA."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from algorithms.nat import (
    FrozenNatLinear,
    NatConfig,
    NatLinear,
    NatModel,
    inject_nat,
    load_negative,
    nat_mode,
    set_nat_mode,
)

TARGETS = ["q_proj", "v_proj"]
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def llama(**changes):
    """A random Llama with grouped-query attention; the same one every time."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = LlamaConfig(
        **(sizes | {"vocab_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2} | changes),
        initializer_range=0.3,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def randomize(model, seed, *, only=("lora_", "nat_"), but=()):
    """Give every adapter weight a value of its own, so that none hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in only) and not any(part in name for part in but):
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def nat(base=None, seed=1, **settings):
    settings = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.0, "gate_dim": 5, "target_modules": TARGETS} | settings
    model = get_peft_model(base or llama(), NatConfig(**settings))
    return (model if seed is None else randomize(model, seed)).eval()


def negative_lora(folder, seed=7, base=None, **settings):
    """A real LoRA of PEFT's in a folder, and the model that has it."""
    settings = {"r": 3, "lora_alpha": 10, "target_modules": TARGETS} | settings
    model = randomize(get_peft_model(base or llama(), LoraConfig(**settings)), seed).eval()
    model.save_pretrained(folder)
    return str(folder), model


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS % model.config.vocab_size).logits


def steps(model, count=6):
    """A few steps of Adam on arbitrary tokens."""
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(count):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# One layer


def written_out(layer, x, mode):
    """B1 as it stands, one token at a time; s and s_n are from the settings of `one_layer`."""
    positive, negative, unit = (
        getattr(layer, name)["default"] for name in ("nat_positive", "nat_negative", "nat_unit")
    )
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        w = layer.base_layer.weight @ token + layer.base_layer.bias
        h_pos = w + (6 / 4) * (positive.B @ (positive.A @ token))
        h_neg = w + (10 / 3**0.5) * (negative.B @ (negative.A @ token))  # rank-stabilised
        q = unit.W_Q @ token
        exp_pos, exp_neg = torch.exp(q @ (unit.W_K @ h_pos)), torch.exp(q @ (unit.W_K @ h_neg))
        a = exp_neg / (exp_pos + exp_neg) - 0.5
        v_pos, v_neg = (
            unit.W_2 @ (z * 0.5 * (1 + torch.erf(z / 2**0.5))) for z in (unit.W_1 @ h_pos, unit.W_1 @ h_neg)
        )
        rows.append({"mix": w + (1 - a) * v_pos + a * v_neg, "pos": h_pos, "neg": h_neg, "off": w}[mode])
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


def one_layer(size_in, size_out, scale=0.1):
    torch.manual_seed(3)
    base = nn.Sequential(nn.Linear(size_in, size_out)).double()
    config = NatConfig(
        r=4, lora_alpha=6, negative_r=3, negative_alpha=10, negative_use_rslora=True, gate_dim=7, target_modules=["0"]
    )
    layer = NatModel(base, config, "default").model[0].eval()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "nat_" in name:
                parameter.copy_(scale * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("mode", ["mix", "neg", "pos", "off"])
@pytest.mark.parametrize("sizes", [(16, 16), (16, 6), (6, 16)], ids=["square", "grouped", "wide"])
def test_a_layer_is_its_equations(sizes, mode):
    for scale in (0.1, 0.4):
        layer = one_layer(*sizes, scale)
        set_nat_mode(layer, mode)
        for leading in ((2, 5), (3,), (), (2, 1, 2)):
            x = torch.randn(*leading, sizes[0], dtype=torch.float64)
            torch.testing.assert_close(layer(x), written_out(layer, x, mode), rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_the_equations():
    layer = one_layer(8, 6)
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    assert len(wanted) == 1 + 2 + 4  # x, A_p B_p, W_Q W_K W_1 W_2
    ours = torch.autograd.grad(layer(x).square().sum(), wanted)
    theirs = torch.autograd.grad(written_out(layer, x, "mix").square().sum(), wanted)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-10, atol=1e-10)
        assert our.abs().max() > 0


def test_dropout_is_on_the_positive_side_alone():
    layer = one_layer(16, 16).train()
    layer.nat_dropout["default"].p = 0.5
    x = torch.randn(4, 16, dtype=torch.float64)
    for mode, varies in (("mix", True), ("pos", True), ("neg", False), ("off", False)):
        set_nat_mode(layer, mode)
        assert torch.equal(layer(x), layer(x)) != varies


def test_a_large_gate_saturates_and_stays_finite():
    layer = one_layer(16, 16)
    with torch.no_grad():
        layer.nat_unit["default"].W_Q.mul_(1e6)
    assert layer(torch.randn(4, 16, dtype=torch.float64)).isfinite().all()


# A model


def test_at_the_start_mix_is_the_base_model(tmp_path):
    folder, _ = negative_lora(tmp_path)
    model = nat(seed=None)
    load_negative(model, folder)
    assert torch.equal(logits(model), logits(llama()))
    with nat_mode(model, "pos"):
        assert torch.equal(logits(model), logits(llama()))
    with nat_mode(model, "neg"):
        assert not torch.equal(logits(model), logits(llama()))


def test_training_changes_all_but_the_negative_side_and_the_base(tmp_path):
    folder, m_neg = negative_lora(tmp_path / "neg")
    model = nat(seed=None, lora_dropout=0.1)
    load_negative(model, folder)
    before = weights(model)
    steps(model)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "nat_positive" in name or "nat_unit" in name}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with nat_mode(model, "neg"):
        assert torch.equal(logits(model), logits(m_neg))
    assert not torch.allclose(logits(model), logits(llama()), atol=1e-3)


def test_disabling_enabling_and_casting_leave_the_negative_side_frozen():
    model = nat(llama().to(torch.bfloat16))
    before = weights(model)
    mixed = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(llama().to(torch.bfloat16)))
    assert torch.equal(logits(model), mixed)
    model.set_requires_grad("default", True)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name in before if "nat_" not in name or "nat_negative" in name}
    assert {p.dtype for name, p in model.named_parameters() if "nat_" in name} == {torch.float32}


def test_bfloat16_trains_and_is_near_float32():
    model = nat(llama().to(torch.bfloat16), seed=None)
    steps(model)
    exact = nat(llama().to(torch.bfloat16).float(), seed=None)
    exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    assert logits(model).dtype == torch.bfloat16
    assert (logits(model) - logits(exact)).abs().mean() < 0.05 * logits(exact).abs().mean()


def test_autocast_runs_in_every_mode():
    model = nat(r=4, negative_r=2)
    for mode in ("mix", "neg", "pos"):
        with nat_mode(model, mode), torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=IDS, labels=IDS).loss
            assert loss.isfinite()
            assert loss.requires_grad == (mode != "neg")


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = nat().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients)


IN_A_NEW_PROCESS = """
import sys
import torch
from peft import PeftModel
import algorithms.nat
from tests.algorithms.test_nat import llama, logits

torch.set_num_threads(1)
model = PeftModel.from_pretrained(llama(), sys.argv[1]).eval()
mixed = logits(model)
with algorithms.nat.nat_mode(model, "neg"):
    torch.save([mixed, logits(model)], sys.argv[2])
"""


def test_a_saved_adapter_is_the_same_in_a_new_process(tmp_path):
    folder, _ = negative_lora(tmp_path / "neg")
    model = nat(target_modules=[*TARGETS, "up_proj", "down_proj"], exclude_modules=["layers.1.mlp.up_proj"])
    with pytest.raises(ValueError, match="has no weights for model"):
        load_negative(model, folder)
    folder, m_neg = negative_lora(
        tmp_path / "neg", target_modules=[*TARGETS, "up_proj", "down_proj"], exclude_modules=["layers.1.mlp.up_proj"]
    )
    load_negative(model, folder)
    model.save_pretrained(tmp_path / "nat")
    outcome = tmp_path / "logits.pt"
    arguments = [sys.executable, "-W", "error", "-c", IN_A_NEW_PROCESS, str(tmp_path / "nat"), str(outcome)]
    subprocess.run(arguments, check=True, cwd=Path(__file__).parents[2])
    mixed, neg = torch.load(outcome)
    torch.testing.assert_close(mixed, logits(model), rtol=0, atol=0)
    torch.testing.assert_close(neg, logits(m_neg), rtol=0, atol=0)


def test_a_loaded_adapter_trains_on_with_its_negative_side_frozen(tmp_path):
    nat(negative_r=2).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True)
    before = weights(model)
    steps(model)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "nat_positive" in name or "nat_unit" in name}


def test_two_adapters_live_side_by_side():
    model, other = nat(seed=1), nat(seed=2, r=2)
    expected = logits(model), logits(other)
    model.add_adapter("second", NatConfig(**(other.peft_config["default"].to_dict() | {"peft_type": None})))
    state = {name.replace(".default.", ".second."): value for name, value in other.state_dict().items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    assert torch.equal(logits(model), expected[0])
    model.set_adapter("second")
    assert torch.equal(logits(model), expected[1])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n in weights(model) if ".second." in n and "nat_negative" not in n}
    with pytest.raises(ValueError, match="only one NAT adapter can be active"):
        model.base_model.set_adapter(["default", "second"])
    model.base_model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(logits(model), expected[0])


def test_a_config_survives_pickling_and_json(tmp_path):
    config = NatConfig(target_modules=TARGETS, negative_alpha=3, negative_use_rslora=True)
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    config.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path) == config
    assert PeftConfig.from_pretrained(tmp_path).peft_type == "NAT"


def test_the_target_modules_of_known_models_are_the_papers():
    model = get_peft_model(llama(), NatConfig())
    assert {name.rpartition(".")[2] for name in model.base_model.targeted_module_names} == set(TARGETS)


# The negative side


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"r": 4, "lora_alpha": 1}], ids=str)
def test_mode_neg_is_the_loaded_lora(tmp_path, settings):
    folder, m_neg = negative_lora(tmp_path / "neg", **settings)
    model = nat()
    load_negative(model, folder)
    with nat_mode(model, "neg"):
        assert torch.equal(logits(model), logits(m_neg))
    assert not any(p.requires_grad for name, p in model.named_parameters() if "nat_negative" in name)
    config = model.peft_config["default"]
    assert (config.negative_r, config.negative_alpha, config.negative_use_rslora) == (
        m_neg.peft_config["default"].r,
        m_neg.peft_config["default"].lora_alpha,
        m_neg.peft_config["default"].use_rslora,
    )


def test_a_negative_side_for_a_tuner_without_a_peft_model(tmp_path):
    folder, m_neg = negative_lora(tmp_path)
    tuner = NatModel(llama(), NatConfig(r=3, target_modules=TARGETS), "default")
    load_negative(tuner, folder)
    set_nat_mode(tuner.model, "neg")
    assert torch.equal(logits(tuner.model), logits(m_neg))
    load_negative(tuner.model, folder)
    with pytest.raises(ValueError, match=r"has no NAT adapter 'other'; use one of its adapters, \['default'\]"):
        load_negative(tuner.model, folder, "other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_proj"]}, r"no weights for model\.layers\.0\.self_attn\.v_proj \(and 1 more\)"),
        ({"target_modules": [*TARGETS, "o_proj"]}, r"has weights for model\.layers\.0\.self_attn\.o_proj"),
        ({"base": {"num_hidden_layers": 3}}, r"has weights for model\.layers\.2"),
        ({"base": {"hidden_size": 64}}, r"lora_A\.weight has shape \(3, 64\), but the layer needs \(3, 32\)"),
        ({"base": {"num_key_value_heads": 4}}, r"lora_B\.weight has shape \(32, 3\), but the layer needs \(16, 3\)"),
        ({"use_dora": True}, "use_dora=True, which NAT cannot represent"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern="),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern="),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_loras_that_do_not_fit_are_refused_and_change_nothing(tmp_path, settings, message):
    base = llama(**settings.pop("base", {}))
    folder, _ = negative_lora(tmp_path, base=base, **settings)
    model = nat()
    before, config = weights(model), copy.deepcopy(model.peft_config["default"])
    with pytest.raises(ValueError, match=message) as caught:
        load_negative(model, folder)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert model.peft_config["default"] == config


def test_folders_that_hold_no_lora_are_refused(tmp_path):
    model = nat()
    with pytest.raises(ValueError, match=r"has no adapter_config\.json"):
        load_negative(model, tmp_path)
    nat().save_pretrained(tmp_path / "nat")
    with pytest.raises(ValueError, match="is NAT, not LORA"):
        load_negative(model, tmp_path / "nat")
    folder, _ = negative_lora(tmp_path / "neg")
    with pytest.raises(ValueError, match="negative_r=3, but NatConfig sets negative_r=4"):
        load_negative(nat(negative_r=4), folder)
    settings = Path(folder) / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"r": 2}))
    with pytest.raises(ValueError, match=r"has shape \(3, 32\), but the layer needs \(2, 32\)"):
        load_negative(model, folder)
    (Path(folder) / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be read"):
        load_negative(model, folder)


def test_without_a_negative_lora_its_side_is_zero():
    model = nat(seed=None)
    assert all(not p.any() for name, p in model.named_parameters() if "nat_negative" in name and name.endswith(".B"))
    steps(model)
    with nat_mode(model, "neg"):
        assert torch.equal(logits(model), logits(llama()))
    assert not torch.allclose(logits(model), logits(llama()), atol=1e-3)


def test_two_positive_loras_both_train(tmp_path):
    model = nat(seed=None, train_negative=True)
    before = weights(model)
    steps(model)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "nat_" in name}
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), tmp_path).eval()), logits(model))


# What cannot be


@pytest.mark.parametrize(
    "settings",
    [{"r": 0}, {"gate_dim": 0}, {"negative_r": -1}, {"lora_dropout": 1.0}],
    ids=lambda each: next(iter(each)),
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        NatConfig(**settings)


def test_other_layers_and_modules_are_refused():
    with pytest.raises(ValueError, match=r"torch\.nn\.Linear, but embed is torch\.nn\.modules\.sparse\.Embedding"):
        get_peft_model(nn.ModuleDict({"embed": nn.Embedding(3, 4)}), NatConfig(target_modules=["embed"]))
    with pytest.raises(ValueError, match="Conv1D"):
        get_peft_model(nn.ModuleDict({"c_attn": Conv1D(3, 4)}), NatConfig(target_modules=["c_attn"]))
    with pytest.raises(ValueError, match="qq_proj"):
        nat(target_modules=["qq_proj"])


def test_merging_is_refused():
    model = nat()
    for merge in (model.merge_and_unload, model.merge_adapter, next(filter(is_nat, model.modules())).merge):
        with pytest.raises(ValueError, match="NAT cannot be merged"):
            merge()


def is_nat(module):
    return isinstance(module, NatLinear)


def test_modes_are_checked_and_put_back():
    model = nat()
    mixed = logits(model)
    with pytest.raises(ValueError, match="one of mix, neg, pos, off, got 'both'"):
        set_nat_mode(model, "both")
    with pytest.raises(ValueError, match="LlamaForCausalLM has no NAT layer"):
        set_nat_mode(llama(), "neg")
    with pytest.raises(KeyError), nat_mode(model, "neg"), nat_mode(model, "off"):
        raise KeyError
    assert torch.equal(logits(model), mixed)


# Under a student


@pytest.fixture
def taught(tmp_path):
    """A saved NAT, the logits it gives in each mode, and the folder of its negative LoRA."""
    folder, _ = negative_lora(tmp_path / "neg")
    model = nat(lora_dropout=0.5)
    load_negative(model, folder)
    model.save_pretrained(tmp_path / "nat")
    expected = {}
    for mode in ("mix", "neg", "pos", "off"):
        with nat_mode(model, mode):
            expected[mode] = logits(model)
    return str(tmp_path / "nat"), expected


def test_an_injected_nat_is_off_frozen_and_the_same_in_every_mode(taught):
    folder, expected = taught
    base = inject_nat(llama().train(), folder)
    assert not base.training
    assert not any(p.requires_grad for p in base.parameters())
    assert torch.equal(logits(base), logits(llama()))
    base.train()  # has no dropout to switch on
    for mode, value in expected.items():
        with nat_mode(base, mode):
            assert torch.equal(logits(base), value)


@pytest.mark.parametrize("targets", [TARGETS, ["k_proj", "v_proj", "down_proj"], "all-linear"], ids=str)
def test_a_student_over_an_injected_nat(taught, tmp_path, targets):
    folder, expected = taught
    base = inject_nat(llama(), folder)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=targets, lora_dropout=0.1))
    set_nat_mode(model, "off")
    before = weights(model)
    steps(model)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    student = logits(model)
    with model.disable_adapter():
        for mode, value in expected.items():
            with nat_mode(model, mode):
                assert torch.equal(logits(model), value)
    assert torch.equal(logits(model), student)
    assert not torch.allclose(student, expected["off"], atol=1e-3)
    assert sum(isinstance(module, FrozenNatLinear) for module in model.modules()) == 4

    model.save_pretrained(tmp_path / "student")
    assert all(".lora_" in name for name in load_file(tmp_path / "student" / "adapter_model.safetensors"))
    plain = PeftModel.from_pretrained(llama(), tmp_path / "student").eval()
    assert torch.equal(logits(plain), student)
    again = PeftModel.from_pretrained(inject_nat(llama(), folder), tmp_path / "student").eval()
    assert torch.equal(logits(again), student)
    with again.disable_adapter(), nat_mode(again, "mix"):
        assert torch.equal(logits(again), expected["mix"])


def test_an_injected_nat_keeps_its_type_on_a_bfloat16_base(taught):
    folder, expected = taught
    base = inject_nat(llama().to(torch.bfloat16), folder)
    assert {p.dtype for name, p in base.named_parameters() if "nat_" in name} == {torch.float32}
    with nat_mode(base, "mix"):
        mixed = logits(base)
    assert mixed.dtype == torch.bfloat16
    assert (mixed - expected["mix"]).abs().mean() < 0.05 * expected["mix"].abs().mean()


def test_a_nat_that_does_not_fit_is_not_injected(taught, tmp_path):
    folder, _ = taught
    for changes, message in (
        ({"num_hidden_layers": 3}, r"no weights for model\.layers\.2\.self_attn\.q_proj"),
        ({"num_hidden_layers": 1}, r"weights for model\.layers\.1\.self_attn\.q_proj \(and 1 more\) outside the model"),
        ({"num_key_value_heads": 4}, "does not fit"),
    ):
        base = llama(**changes)
        with pytest.raises(ValueError, match=message):
            inject_nat(base, folder)
        assert not any(isinstance(module, FrozenNatLinear) for module in base.modules())
    with pytest.raises(ValueError, match="q_proj is algorithms"):
        inject_nat(inject_nat(llama(), folder), folder)
    lora, _ = negative_lora(tmp_path / "lora")
    with pytest.raises(ValueError, match="is LORA, not NAT"):
        inject_nat(llama(), lora)
    stored = Path(folder) / "adapter_model.safetensors"
    kept = {name: value for name, value in load_file(stored).items() if "nat_negative" not in name}
    save_file(kept, stored)
    with pytest.raises(ValueError, match="has no weights for"):
        inject_nat(llama(), folder)
