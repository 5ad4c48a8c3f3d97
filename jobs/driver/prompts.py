"""The flags that make a prompt of a question: --template, --instruction and --few-shot."""

import json
from pathlib import Path

from actors.errors import UserError
from algorithms.prompts import INSTRUCTION, QUESTION, PromptStyle


def prompt_style(template: str | None, instruction: str, few_shot: str | None = None) -> PromptStyle:
    """The prompts of these flags. Raises UserError for an unusable template or file of examples."""
    return PromptStyle(_template(template), instruction, _shots(few_shot) if few_shot else ())


def check_instruction(template: str | None, instruction: str) -> None:
    """Raise ValueError if both a template and an instruction are given."""
    if template is not None and instruction != INSTRUCTION:
        raise ValueError("--instruction does nothing with --template: write it into the template")


def _template(template: str | None) -> str | None:
    if template is None or QUESTION in template:
        return template
    try:
        text = Path(template).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--template {template!r} has no {QUESTION} in it and is not a readable file") from None
    if QUESTION not in text:
        raise UserError(f"--template {template}: the file has no {QUESTION} in it")
    return text


def _shots(path: str) -> tuple[tuple[str, str], ...]:
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
        shots = [json.loads(line) for line in lines if line.strip()]
        found = tuple((shot["question"], shot["solution"]) for shot in shots)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--few-shot {path} must hold JSON lines with question and solution: {error!r}") from None
    if not found or not all(isinstance(text, str) for shot in found for text in shot):
        raise UserError(f"--few-shot {path} must hold JSON lines with the texts question and solution")
    return found
