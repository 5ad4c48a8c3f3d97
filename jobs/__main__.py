"""The `sluice` command: `sluice VERB ...` is `python -m jobs.VERB ...`; alone it lists the verbs."""

import ast
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def verbs() -> dict[str, str]:
    """Each verb and the first line of its docstring, read without importing it."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        if not path.name.startswith("_"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = docstring.split("\n", 1)[0]
    return found


def main() -> None:
    """Run one verb in this process."""
    names = verbs()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: sluice VERB [flags]; sluice VERB --help tells the flags\n")
        for name, summary in names.items():
            print(f"  {name:<12} {summary}")
        return
    verb = sys.argv[1].replace("-", "_")
    if verb not in names:
        print(f"sluice: no verb {sys.argv[1]!r}; there are {', '.join(names)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"sluice {verb}", *sys.argv[2:]]
    runpy.run_module(f"jobs.{verb}", run_name="__main__")


if __name__ == "__main__":
    main()
