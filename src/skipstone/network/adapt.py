"""Anything that predicts becomes a network that predicts eps, the one thing that the engine asks for."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from skipstone.network.unet import VelocityUNet
from skipstone.process import ForwardProcess

PREDICTS = ("eps", "v", "x0", "edm")


class Adapted(nn.Module):
    """eps of another network: see `adapt`."""

    def __init__(
        self,
        net: Callable[..., Any],
        predicts: str,
        process: ForwardProcess | None,
        classes: int | None = None,
        null_label: int | None = None,
    ) -> None:
        super().__init__()
        self.net, self.predicts, self.process = net, predicts, process
        if classes is None:
            classes, null_label = getattr(net, "classes", 0), getattr(net, "null_label", None)
        self.classes, self.null_label = classes, null_label
        self.recordable = getattr(net, "recordable", False)  # see engine.slots
        for name in ("channels", "image_size"):  # of its images, where it says so
            if hasattr(net, name):
                setattr(self, name, getattr(net, name))

    def forward(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        """x: [N, C, H, W]; t: [N]; labels as the network takes them. Returns eps, like x."""
        if self.predicts == "edm":
            signal, noise = _roots(x, t, self.process)
            denoised = self._call(x / signal, (noise / signal).flatten(), *labels)
            return eps_of("x0", denoised, x, t, self.process)
        return eps_of(self.predicts, self._call(x, t, *labels), x, t, self.process)

    def _call(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        """The network's output for x, in x's dtype: the tensor in it, and of it the half that is no variance."""
        parameters = self.net.parameters() if isinstance(self.net, nn.Module) else ()
        own = next((p.dtype for p in parameters if p.is_floating_point()), x.dtype)
        if t.is_floating_point():
            t = t.to(own)
        output = self.net(x.to(own), t, *labels)
        if isinstance(output, tuple):
            output = output[0]
        output = getattr(output, "sample", output)
        if not isinstance(output, Tensor):
            raise ValueError(f"the network gave a {type(output).__name__}, in which there is no tensor: wrap it.")
        if output.shape[1] == 2 * x.shape[1]:
            output = output[:, : x.shape[1]]  # the other half is a learned variance (Nichol & Dhariwal 2021)
        return output.to(x.dtype)


def gives(net: Callable[..., Any], predicts: str) -> str:
    """What comes out of a network of ours that is trained to predict this: a VelocityUNet makes eps of its v itself."""
    return "eps" if isinstance(net, VelocityUNet) else predicts


def eps_of(predicts: str, output: Tensor, x: Tensor, t: Tensor, process: ForwardProcess | None) -> Tensor:
    """eps of what a network of x_t and t gave, in the dtype of x. predicts, process: as for `adapt`, without "edm"."""
    if predicts == "eps":
        return output
    signal, noise = _roots(x, t, process)
    if predicts == "v":
        return noise * x + signal * output  # Salimans & Ho 2022, section 4
    return (x - signal * output) / noise


def target_of(predicts: str, x0: Tensor, eps: Tensor, t: Tensor, process: ForwardProcess) -> Tensor:
    """What a network that predicts eps, v or x0 is trained to give. x0, eps: [N, C, H, W]; t: int64 [N]."""
    if predicts == "v":
        signal, noise = _roots(x0, t, process)
        return signal * eps - noise * x0
    return x0 if predicts == "x0" else eps


def _roots(x: Tensor, t: Tensor, process: ForwardProcess) -> tuple[Tensor, Tensor]:
    """√ᾱ_t and √(1−ᾱ_t), as [N, 1, 1, 1] of x's dtype."""
    signal, noise = process.roots(t)
    return signal.to(x.dtype).view(-1, 1, 1, 1), noise.to(x.dtype).view(-1, 1, 1, 1)


def adapt(
    net: Callable[..., Any],
    predicts: str = "eps",
    process: ForwardProcess | None = None,
    *,
    classes: int | None = None,
    null_label: int | None = None,
) -> Adapted:
    """A network that predicts eps, from one that predicts something of the same image.

    net:         called with x [N, C, H, W], in its own dtype, and t [N]. It gives a tensor like x, an object with such
                 a tensor in `.sample`, or a tuple that begins with it. Of twice as many channels the first half is
                 taken: the other is a learned variance.
    predicts:    "eps"; "v", that is √ᾱ eps − √(1−ᾱ) x0; "x0"; or "edm": net(x_0 + σ eps, σ) gives x0, where
                 σ = √((1−ᾱ)/ᾱ) (Karras et al. 2022, without its labels)
    process:     whose ᾱ_t that is; only for "eps" it can be left out
    classes:     of the labels, int64 [N], that it takes as a third argument; by default its own attribute `classes`
    null_label:  the label with which it is unconditional, for guidance; by default its own attribute

    Returns a module eps = model(x, t, labels) around `net`, which stays as it is. Raises ValueError for anything else.
    """
    if not callable(net):
        raise ValueError(f"net={type(net).__name__} must be callable as net(x, t): give the network itself.")
    if predicts not in PREDICTS:
        raise ValueError(f"predicts={predicts!r} is unknown: choose {', '.join(PREDICTS[:-1])} or {PREDICTS[-1]}.")
    if process is None and predicts != "eps":
        raise ValueError(f"predicts={predicts!r} needs the process whose alpha_bar the network was trained on.")
    return Adapted(net, predicts, process, classes, null_label)
