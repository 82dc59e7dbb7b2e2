"""Anything that predicts becomes a network that predicts eps, the one thing that the engine asks for."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from skipstone.process import ForwardProcess

PREDICTS = ("eps", "v", "x0", "edm")


class Adapted(nn.Module):
    """eps of another network: see `adapt`."""

    def __init__(self, net: Callable[..., Any], predicts: str, process: ForwardProcess | None) -> None:
        super().__init__()
        self.net, self.predicts, self.process = net, predicts, process

    def forward(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        """x: [N, C, H, W]; t: [N]; labels as the network takes them. Returns eps, like x."""
        if self.predicts == "eps":
            return self._call(x, t, *labels)
        signal, noise = (root.to(x.dtype).view(-1, 1, 1, 1) for root in self.process.roots(t))
        if self.predicts == "edm":
            sigma = noise / signal
            denoised = self._call(x / signal, sigma.flatten(), *labels)
            return (x - signal * denoised) / noise
        output = self._call(x, t, *labels)
        if self.predicts == "v":
            return noise * x + signal * output  # Salimans & Ho 2022, section 4
        return (x - signal * output) / noise

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


def adapt(net: Callable[..., Any], predicts: str = "eps", process: ForwardProcess | None = None) -> Adapted:
    """A network that predicts eps, from one that predicts something of the same image.

    net:       called with x [N, C, H, W], in its own dtype, and t [N]. It gives a tensor like x, an object with such a
               tensor in `.sample`, or a tuple that begins with it. Of twice as many channels the first half is taken:
               the other is a learned variance.
    predicts:  "eps"; "v", that is √ᾱ eps − √(1−ᾱ) x0; "x0"; or "edm": net(x_0 + σ eps, σ) gives x0, where
               σ = √((1−ᾱ)/ᾱ) (Karras et al. 2022, without its labels)
    process:   whose ᾱ_t that is; only for "eps" it can be left out

    Returns a module eps = model(x, t) around `net`, which stays as it is. Raises ValueError for anything else.
    """
    if not callable(net):
        raise ValueError(f"net={type(net).__name__} must be callable as net(x, t): give the network itself.")
    if predicts not in PREDICTS:
        raise ValueError(f"predicts={predicts!r} is unknown: choose {', '.join(PREDICTS[:-1])} or {PREDICTS[-1]}.")
    if process is None and predicts != "eps":
        raise ValueError(f"predicts={predicts!r} needs the process whose alpha_bar the network was trained on.")
    return Adapted(net, predicts, process)
