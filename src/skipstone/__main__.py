"""The command `skipstone <name> ...`, and `python -m skipstone <name> ...`: one script of scripts/ each."""

import ast
import runpy
import sys
from pathlib import Path

from skipstone.commands.called import by_name

_INSIDE = Path(__file__).with_name("scripts")  # of an installed package; a checkout has it at its root
SCRIPTS = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "scripts"


def main() -> None:
    """Run the script that the first word names as if it were typed: its help and messages stay its own."""
    scripts = sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem != "__init__")
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("skipstone <command> [settings]; skipstone <command> --help has more.\n")
        for each in scripts:
            print(f"  {each:12} {_title(each)}")
    elif name not in scripts:
        sys.exit(f"error: {name} is no command: choose one of {', '.join(scripts)}.")
    else:
        by_name()
        sys.argv[1:] = words
        run(name)


def run(name: str) -> None:
    """Run that script on the words in sys.argv."""
    runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")


def _title(name: str) -> str:
    """What it says of itself in its first line, without being imported."""
    text = ast.get_docstring(ast.parse((SCRIPTS / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition(": python")[0].rstrip(".")


if __name__ == "__main__":
    main()
