"""The main job of a checkout: python train.py schedule=exp eta=0.0. What it does stands in scripts/train.py."""

from skipstone.__main__ import run

if __name__ == "__main__":
    run("train")
