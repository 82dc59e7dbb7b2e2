"""The kernels for a GPU against torch's own words: by Triton's interpreter here, compiled where there is a GPU."""

import subprocess
import sys

import pytest
import torch
from shell import ENVIRONMENT, ROOT

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_kernels_agree_with_torch_forwards_and_backwards():
    """In a process of its own, for Triton decides at import whether it interprets."""
    pytest.importorskip("triton")
    environment = ENVIRONMENT | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "interpreted.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    apart = [(line.split()[0], float(line.split()[1])) for line in done.stdout.splitlines()]
    assert len(apart) > 40
    for name, difference in apart:
        assert difference < (1e-12 if name == "normal" else 1e-5), name
