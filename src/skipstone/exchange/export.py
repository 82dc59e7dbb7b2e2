"""Our networks for others: a pipeline folder that diffusers loads, or plain safetensors; and the way to the Hub."""

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from skipstone.exchange import diffusers, names
from skipstone.network.adapt import Adapted
from skipstone.network.unet import UNet, VelocityUNet
from skipstone.process import ForwardProcess
from skipstone.store import files

FORMS = ("diffusers", "safetensors", "onnx")
_WEIGHTS, _ONNX, _FORMAT = "model.safetensors", "model.onnx", {"format": "pt"}
_CLASSES = {UNet: "epsilon", VelocityUNet: "v_prediction"}
_PREDICTS = {"v": "v_prediction", "x0": "sample"}


def writer(form: str, net: nn.Module, process: ForwardProcess) -> Callable[[Path], None]:
    """What writes a network in one of FORMS into a folder, which exists.

    Raises ValueError for a network that cannot be so, before any folder is there.
    """
    predicts = None
    if type(net) is Adapted:  # others get the network itself
        net, predicts = net.net, _PREDICTS[net.predicts]
    if form == "diffusers":
        scheduler = _scheduler(net, process)
        scheduler["prediction_type"] = predicts or scheduler["prediction_type"]
        return partial(_write_pipeline, net, scheduler, diffusers.config_of(net))
    if form == "onnx":
        return partial(_write_onnx, net, _onnx())
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


def _onnx() -> ModuleType:
    """torch.onnx, where it works."""
    try:
        import onnxscript  # noqa: F401, which torch.onnx takes
    except ImportError as error:
        raise ValueError("to=onnx needs onnx and onnxscript: pip install 'skipstone[export]'.") from error
    return torch.onnx


def _write_onnx(net: nn.Module, onnx: ModuleType, folder: Path) -> None:
    """eps = net(x, t) for any batch: x float32 [n, C, H, W], t int64 [n]."""
    net = copy.deepcopy(net).eval().to(memory_format=torch.contiguous_format)
    x, t = torch.zeros(2, net.channels, net.image_size, net.image_size), torch.zeros(2, dtype=torch.int64)
    batch = torch.export.Dim("n")
    names = {"input_names": ["x", "t"], "output_names": ["eps"], "dynamic_shapes": ({0: batch}, {0: batch})}
    with files.replacing(folder / _ONNX) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that x and t share the name of their first axis
        try:
            onnx.export(net, (x, t), path, **names, dynamo=True, external_data=False, verbose=False)
        except onnx.OnnxExporterError as error:
            why = str(error).strip().splitlines()[0]
            raise ValueError(f"torch cannot write this network as ONNX ({why}): export to=safetensors.") from error


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
