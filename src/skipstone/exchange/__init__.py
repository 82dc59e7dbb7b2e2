"""Networks from elsewhere, opened and written: the papers' checkpoints, diffusers' folders, plain weights."""

from pathlib import Path
from typing import Any

from torch import nn

from skipstone.checked import checked
from skipstone.exchange import checkpoint, diffusers, edm
from skipstone.exchange.diffusers import Theirs
from skipstone.exchange.foreign import Foreign, adopt
from skipstone.process import ForwardProcess
from skipstone.store import stored

__all__ = ["Foreign", "Theirs", "adopt", "load", "read"]

_FILES = (".ckpt", ".pt", ".pth", ".safetensors", ".pkl")


@checked
def load(
    path: str | Path,
    *,
    network: nn.Module | None = None,
    like: str | Path | None = None,
    allow: str | None = None,
) -> tuple[nn.Module, ForwardProcess]:
    """A trained network, in eval mode on the CPU, and its forward process.

    path:     a model's folder, outputs/models/<key>; a folder of diffusers, of a UNet2DModel or of a DDPM or DDIM
              pipeline around one; a .ckpt of the official DDIM repository, or of Lightning and ours; .safetensors;
              EDM's .pkl; improved-diffusion's .pt
    network:  of a model's folder: the network to give its weights to, where the class is not ours
    like:     of weights alone: a config.yaml of ours with the same network, or the folder with it
    allow:    of a model's folder: the module that its network's class is of. It is imported, and nothing else is

    Returns (eps = model(x, t), process); `skipstone.fast(model)` has it where it runs best. Raises FileNotFoundError
    where there is nothing, and ValueError, with what was found, for what cannot be read. Nothing in a file is run.
    """
    path = Path(path).expanduser()
    if ours(path):
        return stored.load(path, network, allow)
    for name, given in (("network", network), ("allow", allow)):
        if given is not None:
            raise ValueError(f"{name}= is for a folder outputs/models/<key>, and {path} is none: leave it out.")
    found = read(path, like)
    net = stored.opened(found.net, found.settings, found.process)
    net.num_steps, net.threads = found.process.num_steps, None
    return net, found.process


def ours(path: Path) -> bool:
    """Whether that is a model's folder of ours, or nothing at all, of which the store says what is missing."""
    foreign = any((path / name).is_file() for name in (diffusers.PIPELINE, diffusers.CONFIG))
    return not path.is_file() and not foreign


def read(path: str | Path, like: str | Path | None = None) -> Foreign:
    """What is at `path`, which is not ours: see `load`."""
    path = Path(path).expanduser()
    if path.is_dir():
        return diffusers.read(path)
    if path.suffix not in _FILES:
        raise ValueError(f"{path} is no file that is known here: {', '.join(_FILES)} are, and folders of diffusers.")
    if path.suffix == ".pkl":
        return edm.read(path)
    return checkpoint.read(path, None if like is None else _settings(Path(like).expanduser()))


def _settings(path: Path) -> dict[str, Any]:
    return stored.read_config(path if path.is_dir() else path.parent)
