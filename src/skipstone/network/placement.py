"""What `trainer=auto` means on this machine, decided once and before anything is keyed or built."""

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from skipstone import kernels
from skipstone.network import compiling
from skipstone.network.adapt import Adapted
from skipstone.network.unet import UNet

log = logging.getLogger(__name__)

_THREADS = torch.get_num_threads()
_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def resolve(trainer: dict[str, Any]) -> dict[str, Any]:
    """The trainer settings with accelerator, precision, kernels and compile made concrete; the rest is passed through.

    auto is CUDA in bf16-mixed with our own kernels where there is a GPU, the CPU in float32 elsewhere. Raises
    ValueError for an accelerator that is not here, and for a precision or strategy that is not supported.
    """
    accelerator = trainer["accelerator"]
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise ValueError(f"trainer.accelerator={accelerator!r} is not supported: choose auto, cpu or gpu.")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if seen is None else f" (CUDA_VISIBLE_DEVICES={seen})"
        raise ValueError(
            f"trainer.accelerator={accelerator} asks for CUDA, and there is none here{hidden}: use trainer=cpu or "
            "trainer=auto."
        )
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    concrete = {"accelerator": "cuda" if gpu else "cpu"}
    precision = str(trainer["precision"])
    if precision == "auto":
        precision = "bf16-mixed" if gpu else "32-true"
    precision = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true"}.get(precision, precision)
    if precision not in ("32-true", "bf16-mixed", "16-mixed"):
        # the average of the weights must not be kept in less than float32, and tables are computed in more
        raise ValueError(f"precision={precision} is not supported: choose 32-true, bf16-mixed or 16-mixed.")
    concrete["precision"] = precision
    if trainer["compile"] == "auto":
        concrete["compile"] = gpu
    if trainer["kernels"] is True and not (gpu and kernels.there()):
        raise ValueError(
            "kernels=true asks for a GPU of Hopper or later and for Triton, which are not both here: use kernels=auto."
        )
    if trainer["kernels"] == "auto":
        concrete["kernels"] = gpu and kernels.there()
    if trainer["strategy"] not in ("auto", "ddp_spawn"):
        raise ValueError(
            f"trainer.strategy={trainer['strategy']} is not supported: it would run the whole command once per device; "
            "leave it at auto."
        )
    if trainer.get("num_nodes", 1) != 1:
        raise ValueError(f"trainer.num_nodes={trainer['num_nodes']} is not supported: one host trains; leave it out.")
    concrete["devices"] = _devices(trainer["devices"], max(1, torch.cuda.device_count()) if gpu else None)
    several = len(_numbers(concrete["devices"])) > 1
    if several and gpu:
        raise ValueError(
            f"trainer.devices={trainer['devices']} is not supported on GPUs yet: set trainer.devices=1, or a list such "
            "as [1] for another GPU than the first."
        )
    if trainer["strategy"] == "auto" and several:
        # Devices other than the first run nothing but the training, which is what Lightning's spawning strategy does.
        concrete["strategy"] = "ddp_spawn"
    return {**trainer, **concrete}


def alone(
    device: str = "auto", precision: str = "auto", compile: bool | str = "auto", kernels: bool | str = "auto"
) -> dict[str, Any]:
    """The resolved settings under which a finished network is sampled on one device.

    Raises ValueError for a device, a precision or kernels that are unknown or not here.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={device} is unknown: choose auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda asks for CUDA, and there is none here: use device=cpu or device=auto.")
    one = {"accelerator": device, "devices": 1, "strategy": "auto"}
    return resolve({**one, "precision": precision, "compile": compile, "kernels": kernels})


def _devices(devices: Any, there: int | None) -> int | list[int]:
    """A number of devices, or a list of GPUs.  there: how many GPUs there are; None for the CPU, which has processes.

    -1 and "auto" are all GPUs, and one process on the CPU. Raises ValueError for anything that is not there.
    """
    allowed = "a number of processes" if there is None else f"a number of GPUs, or a list such as [0]; {there} are here"
    wrong = ValueError(f"trainer.devices={devices} must be {allowed}.")
    if devices in (-1, "-1", "auto"):
        return there or 1
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if isinstance(devices, list) and there is not None:
        fits = [type(number) is int and 0 <= number < there for number in devices]
        if not devices or not all(fits) or len(set(devices)) < len(devices):
            raise wrong
        return devices
    if type(devices) is not int or devices < 1 or (there is not None and devices > there):
        raise wrong
    return devices


def _numbers(devices: int | list[int]) -> Sequence[int]:
    return devices if isinstance(devices, list) else range(devices)


def reference(trainer: dict[str, Any]) -> dict[str, Any]:
    """The resolved trainer with nothing that makes it fast: float32, without our kernels, not compiled."""
    return trainer | {"precision": "32-true", "kernels": False, "compile": False}


def is_reference(trainer: dict[str, Any]) -> bool:
    """Whether the resolved trainer is that already."""
    return trainer == reference(trainer)


def use_threads(n: int | None) -> None:
    """Let torch use n threads on the CPU, or None for as many as it would by itself; never more than those."""
    torch.set_num_threads(min(n or _THREADS, _THREADS))


def device(trainer: dict[str, Any]) -> torch.device:
    """The one device on which a resolved trainer's model is sampled: the first that it trains on."""
    devices = trainer["devices"]
    first = devices[0] if isinstance(devices, list) and trainer["accelerator"] == "cuda" else None
    return torch.device(trainer["accelerator"], first)


def place(net: nn.Module, trainer: dict[str, Any], num_steps: int) -> nn.Module:
    """The network on the resolved trainer's device, in the form in which it is sampled over T = num_steps steps.

    With our kernels that is a copy. Otherwise it is compiled (in place, names kept) if the trainer says so, and where
    the precision is mixed it is wrapped, so that whoever calls it needs no autocast.
    """
    if _around_ours(net):
        return Adapted(place(net.net, trainer, num_steps), net.predicts, net.process)
    net = layout(net).to(device(trainer))
    if has_kernels(net, trainer):
        return sampler(net, trainer, num_steps)
    if trainer["compile"]:
        net.compile()
    mixed = _MIXED.get(trainer["precision"])
    return net if mixed is None else _Mixed(net, mixed)


def fast(
    model: nn.Module,
    num_steps: int | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    compile: bool | str = "auto",
    kernels: bool | str = "auto",
    threads: int | None = None,
) -> nn.Module:
    """The network where and how the commands sample it: eps = fast(model)(x, t).

    With CUDA that is bf16-mixed and, on a GPU of Hopper or later, our kernels in a copy of the network, else compiled.
    Without CUDA the network is returned itself, eager and in float32. What it became is logged at level INFO.

    model:      in eval mode, as skipstone.load gives it; moved, and compiled in place
    num_steps:  T of its process; None: what load found, or 1000 for a network that is not from there
    device:     auto, cpu or cuda
    precision:  auto, 32-true, bf16-mixed or 16-mixed
    compile:    auto (with CUDA), True or False
    kernels:    auto, True or False; True wants a GPU of Hopper or later
    threads:    of torch on the CPU, for this whole process and never more than it has; None: what the model was
                trained with, if that is known

    The result takes x: float32 [N, C, H, W] on that device, and t: int64 or float64 [N], and gives eps: float32.
    Raises ValueError for settings that are unknown or not here, and for what is no torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"fast takes a torch.nn.Module, not {type(model).__name__}: the first of what load returns.")
    trainer = alone(device, precision, compile, kernels)
    threads = threads or getattr(model, "threads", None)
    if threads is not None and trainer["accelerator"] == "cpu":
        torch.set_num_threads(min(threads, torch.get_num_threads()))
    own = model.net if _around_ours(model) else model
    form = "our kernels" if has_kernels(own, trainer) else "compiled" if trainer["compile"] else "eager"
    log.info("the network is sampled with %s in %s, %s", trainer["accelerator"], trainer["precision"], form)
    return place(model, trainer, num_steps or getattr(model, "num_steps", 1000))


class _Mixed(nn.Module):
    """eps of a float32 network, evaluated under autocast."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype
        self.classes, self.null_label = getattr(net, "classes", 0), getattr(net, "null_label", None)

    def forward(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return self.net(x, t, *labels)


def sampler(net: nn.Module, trainer: dict[str, Any], num_steps: int) -> nn.Module:
    """What samples a network that lies on the device: a copy with our kernels, or itself."""
    if _around_ours(net):
        return Adapted(sampler(net.net, trainer, num_steps), net.predicts, net.process)
    if not has_kernels(net, trainer):
        return net
    from skipstone.network import fused  # imports Triton

    with compiling.announced("our kernels, to sample the network", trainer):
        return fused.Sampler(net, num_steps, _MIXED.get(trainer["precision"], torch.float32))


def _around_ours(net: nn.Module) -> bool:
    """Whether it is a network of ours with elementwise arithmetic around it, which is left as it is."""
    return type(net) is Adapted and isinstance(net.net, UNet)


def has_kernels(net: nn.Module, trainer: dict[str, Any]) -> bool:
    """Whether this network is trained and sampled with our kernels: a plain UNet whose norms they can hold."""
    if not trainer["kernels"] or not isinstance(net, UNet) or type(net).forward is not UNet.forward:
        return False
    pixels = (net.image_size // net.patch) ** 2
    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    widest = max(norm.num_channels // norm.num_groups for norm in norms)
    return _power_of_two(pixels) * _power_of_two(widest) <= kernels.HELD and net.conv_out.out_channels <= 16


def _power_of_two(n: int) -> int:
    """The smallest that is not less."""
    return 1 << (n - 1).bit_length()


def layout(net: nn.Module) -> nn.Module:
    """The network in the memory layout that convolutions like."""
    return net.to(memory_format=torch.channels_last)


def autocast(trainer: dict[str, Any]) -> AbstractContextManager:
    """The context in which a resolved trainer's network is evaluated outside Lightning's loops."""
    mixed = _MIXED.get(trainer["precision"])
    return nullcontext() if mixed is None else torch.autocast(trainer["accelerator"], mixed)
