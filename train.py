"""The main job of a checkout: python train.py schedule=exp eta=0.0. What it does stands in scripts/train.py."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("scripts") / "train.py"), run_name="__main__")
