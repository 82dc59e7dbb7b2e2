"""Files of weights from elsewhere, read without running anything that is in them."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def contents(path: Path) -> Any:
    """What a .safetensors file or one of torch.save holds: tensors in containers.

    Raises ValueError for a file that is damaged, and, naming it, for one that asks for more than that.
    """
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} asks for more than tensors, and nothing in it is run: {_found(error)}") from error
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or holds no weights: fetch it again.") from error


def _found(error: Exception) -> str:
    """What torch found, without its advice to run the file all the same."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it names {found[1]}." if found else "it is no plain state dict."
