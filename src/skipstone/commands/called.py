"""How a command is typed, for every message and page that says so: the way in which this one was."""

import argparse
import os

_BY_NAME = "SKIPSTONE_CALLED"  # in the environment, which the processes of a launcher have, too


def by_name() -> None:
    """Note that this command was called as `skipstone <name>`, which works in any folder."""
    os.environ[_BY_NAME] = "skipstone"


def called(name: str) -> list[str]:
    """The two words that begin a command: skipstone train, or python train.py where a checkout's file was called."""
    if _BY_NAME in os.environ:
        return ["skipstone", name]
    return ["python", "train.py" if name == "train" else f"scripts/{name}.py"]


def parser(name: str, text: str) -> argparse.ArgumentParser:
    """For a command without Hydra. text: the script's docstring, which has the command as a checkout types it."""
    typed = " ".join(called(name))
    text = text.replace(f"python scripts/{name}.py", typed)
    return argparse.ArgumentParser(prog=typed, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
