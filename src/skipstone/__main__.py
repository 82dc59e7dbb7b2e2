"""The command `skipstone <name> ...`, and `python -m skipstone <name> ...`: one script of scripts/ each."""

import ast
import runpy
import sys
from pathlib import Path

_INSIDE = Path(__file__).with_name("scripts")  # of an installed package; a checkout has it at its root
SCRIPTS = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "scripts"


def main() -> None:
    """Run the script that the first word names as if it were typed: its name, help and messages stay its own."""
    scripts = {path.stem: path for path in sorted(SCRIPTS.glob("*.py")) if path.stem != "__init__"}
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("skipstone <command> [settings]; skipstone <command> --help has more.\n")
        for stem, path in scripts.items():
            title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            print(f"  {stem:12} {title.partition(': python')[0]}")
    elif name not in scripts:
        sys.exit(f"error: {name} is no command: choose one of {', '.join(scripts)}.")
    else:
        sys.argv[1:] = words
        runpy.run_path(str(scripts[name]), run_name="__main__")


if __name__ == "__main__":
    main()
