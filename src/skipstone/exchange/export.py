"""Our networks for others: a pipeline folder that diffusers loads, or plain safetensors; and the way to the Hub."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from skipstone.exchange import diffusers, names
from skipstone.network.unet import UNet, VelocityUNet
from skipstone.process import ForwardProcess
from skipstone.store import files

FORMS = ("diffusers", "safetensors")
_WEIGHTS, _FORMAT = "model.safetensors", {"format": "pt"}
_CLASSES = {UNet: "epsilon", VelocityUNet: "v_prediction"}


def writer(form: str, net: nn.Module, process: ForwardProcess) -> Callable[[Path], None]:
    """What writes a network in one of FORMS into a folder, which exists.

    Raises ValueError for a network that cannot be so, before any folder is there.
    """
    if form == "diffusers":
        return partial(_write_pipeline, net, _scheduler(net, process), diffusers.config_of(net))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    return lambda folder: files.write(folder / _WEIGHTS, save(tensors, _FORMAT))


def _scheduler(net: nn.Module, process: ForwardProcess) -> dict[str, Any]:
    if type(net) not in _CLASSES:
        raise ValueError("this network is none that diffusers' UNet2DModel can be: export to=safetensors.")
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": process.num_steps,
        "trained_betas": process.betas.tolist(),
        "prediction_type": _CLASSES[type(net)],
        "clip_sample": False,
        "set_alpha_to_one": True,  # the last step is to clean data
        "steps_offset": 0,
    }


def _write_pipeline(net: UNet, scheduler: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    for part in ("unet", "scheduler"):
        (folder / part).mkdir()
    _json(scheduler, folder / "scheduler" / diffusers.SCHEDULER)
    _json(config, folder / "unet" / diffusers.CONFIG)
    files.write(folder / "unet" / diffusers.WEIGHTS[0], save(names.from_ours(net, names.diffusers), _FORMAT))
    index = {"scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    _json({"_class_name": "DDIMPipeline"} | index, folder / diffusers.PIPELINE)  # last: it makes the folder a pipeline


def push(folder: Path, repository: str) -> None:
    """Upload the folder to the Hugging Face Hub. Raises ValueError where that cannot be done."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ImportError as error:
        raise ValueError(f"push={repository} needs huggingface_hub: pip install huggingface_hub.") from error
    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"push={repository} failed, and the folder {folder} is kept: {why}") from error


def _json(content: Mapping[str, Any], path: Path) -> None:
    files.write(path, (json.dumps(content, indent=2) + "\n").encode())
