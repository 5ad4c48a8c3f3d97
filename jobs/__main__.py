"""The `sluice` command: `sluice VERB ...` runs what `python -m jobs.VERB ...` runs. Alone it lists the verbs."""

import ast
import importlib
import signal
import sys
from pathlib import Path

from jobs import VERBS


def summary(verb: str) -> str:
    """The first line of a verb's docstring, read without importing the verb."""
    source = (Path(__file__).parent / f"{verb}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]


def main() -> None:
    """Run one verb in this process."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `sluice | head` ends quietly
        print(
            "usage: sluice VERB [flags]\n\nThe verbs, in the order of the work (sluice VERB --help lists the flags):\n"
        )
        for verb in VERBS:
            print(f"  {verb:<12} {summary(verb)}")
        return
    verb = sys.argv[1].replace("-", "_")
    if verb not in VERBS:
        print(f"sluice: unknown verb {sys.argv[1]!r}; the verbs are {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"sluice {verb}", *sys.argv[2:]]
    importlib.import_module(f"jobs.{verb}").main()


if __name__ == "__main__":
    main()
