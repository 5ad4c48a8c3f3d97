"""--template: a prompt text, or a file that holds one."""

from pathlib import Path

from algorithms.prompts import QUESTION
from jobs.driver.command import UserError


def read_template(template: str | None) -> str | None:
    """The text of a template. Raises UserError where it has no place for the question."""
    if template is None or QUESTION in template:
        return template
    try:
        text = Path(template).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--template {template!r} has no {QUESTION} in it, and is no file that can be read") from None
    if QUESTION not in text:
        raise UserError(f"--template {template} has no {QUESTION} in it")
    return text
