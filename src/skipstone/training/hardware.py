"""What `trainer=auto` means on this machine, decided once and before anything is keyed or built."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

_THREADS = torch.get_num_threads()


def resolve(trainer: dict[str, Any]) -> dict[str, Any]:
    """The trainer settings with accelerator, precision and compile made concrete; the rest is passed through.

    auto is CUDA in bf16-mixed and compiled where there is a GPU, the CPU in float32 elsewhere. Raises ValueError
    for an accelerator that is not here.
    """
    accelerator = trainer["accelerator"]
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise ValueError(f"trainer.accelerator={accelerator!r} is not supported: choose auto, cpu or gpu.")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={accelerator} asks for CUDA, and there is none here: use trainer=cpu or trainer=auto."
        )
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    concrete = {"accelerator": "cuda" if gpu else "cpu"}
    if trainer["precision"] == "auto":
        concrete["precision"] = "bf16-mixed" if gpu else "32-true"
    if trainer["compile"] == "auto":
        concrete["compile"] = gpu
    if trainer["strategy"] == "auto" and trainer["devices"] not in (1, "1"):
        # Devices other than the first run nothing but the training; Lightning's usual strategy would start the whole
        # command, report and all, once a device.
        concrete["strategy"] = "ddp_spawn"
    return {**trainer, **concrete}


def use_threads(n: int | None) -> None:
    """Let torch use n threads on the CPU, or None for as many as it would by itself; never more than those."""
    torch.set_num_threads(min(n or _THREADS, _THREADS))


def device(trainer: dict[str, Any]) -> torch.device:
    """The one device on which a resolved trainer's model is sampled."""
    return torch.device(trainer["accelerator"])


def place(net: nn.Module, trainer: dict[str, Any]) -> nn.Module:
    """The network on the resolved trainer's device, compiled (in place, names kept) if it says so."""
    net = layout(net).to(device(trainer))
    if trainer["compile"]:
        net.compile()
    return net


def layout(net: nn.Module) -> nn.Module:
    """The network in the memory layout that convolutions like."""
    return net.to(memory_format=torch.channels_last)


def autocast(trainer: dict[str, Any]) -> AbstractContextManager:
    """The context in which a resolved trainer's network is evaluated outside Lightning's loops."""
    mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(trainer["precision"]))
    return nullcontext() if mixed is None else torch.autocast(trainer["accelerator"], mixed)
