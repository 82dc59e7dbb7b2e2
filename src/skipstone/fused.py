"""The UNet of unet.py for a GPU: the same weights and the same function, in fewer passes over memory.

unet.py stays the reference. Its convolutions run near the limit of a GPU as they are; what surrounds them does not.
Here group norms read their input once, together with the residual sum, the bias or the time embedding before them and
the SiLU and the dropout after them; concatenations are read in their two parts; 1×1 convolutions end on the residual
stream; upsampling and the convolution after it are one transposed convolution, with four ninths of the arithmetic.

`forward` is differentiable, for training under autocast. `Sampler` evaluates it with weights that are cast once.
"""

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from skipstone.kernels.norm import group_norm
from skipstone.kernels.project import project
from skipstone.kernels.taps import convolve_to_few
from skipstone.unet import Attention, ResBlock, UNet, Upsample, timestep_embedding

_FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
]  # fmt: skip

Shift = Callable[[ResBlock], tuple[Tensor, Tensor | None]]  # what is added to conv1's output: group_norm's shift, rows


class Stream:
    """The residual stream x + add + bias. What is pending is summed by the norm or the product that reads it next.

    x, add: [N, C, H, W].  bias: [C], added to every pixel.
    """

    def __init__(self, x: Tensor, bias: Tensor | None = None, add: Tensor | None = None) -> None:
        self.x, self.bias, self.add = x, bias, add

    def value(self) -> Tensor:
        """[N, C, H, W]."""
        if self.add is not None:
            self.x = self.x + self.add
        if self.bias is not None:
            self.x = self.x + self.bias[:, None, None].to(self.x.dtype)
        self.add = self.bias = None
        return self.x

    def normed(self, norm: nn.GroupNorm, silu: bool = True, skip: "Stream | None" = None) -> Tensor:
        """silu(norm(value())), or of the concatenation with `skip`."""
        if skip is not None:
            x, other = self.summed(), skip.summed()
            return group_norm(x, norm, skip=other, shift=_beside(self, skip), silu=silu)
        if self.add is None:
            return group_norm(self.x, norm, shift=self.bias, silu=silu)
        y, self.x = group_norm(self.x, norm, add=self.add, shift=self.bias, silu=silu)
        self.add = self.bias = None
        return y

    def summed(self) -> Tensor:
        """x with nothing but the bias pending."""
        return self.x if self.add is None else self.value()


def forward(net: UNet, x: Tensor, shift: Shift) -> Tensor:
    """The output of the UNet's last layer in float32, unfolded.

    x: float32 [N, channels, H, W].  shift: see Shift.
    """
    h = Stream(_first(net.conv_in, F.pixel_unshuffle(x, net.patch)))
    skips = [h]
    for i, level in enumerate(net.down):
        for block, attention in zip(level.blocks, level.attentions, strict=True):
            h = _attend(attention, _block(block, h, shift))
            skips.append(h)
        if i < len(net.downsamples):
            h = _downsample(net.downsamples[i].conv, h)
            skips.append(h)
    h = _block(net.middle2, _attend(net.middle_attention, _block(net.middle1, h, shift)), shift)
    for i, level in enumerate(net.up):
        for block, attention in zip(level.blocks, level.attentions, strict=True):
            h = _attend(attention, _block(block, h, shift, skips.pop()))
        if i < len(net.upsamples):
            h = _upsample(net.upsamples[i], h, skips[-1].x.shape[-2:])
    last = net.conv_out
    return F.pixel_shuffle(convolve_to_few(h.normed(net.norm_out), last.weight, last.bias), net.patch)


def _first(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The 3×3 convolution of a picture's few channels, as a matrix product with each pixel's neighbourhood."""
    n, c, height, width = x.shape
    patches = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # [N, C, H, W, 3, 3]
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(n, height * width, 9 * c)
    odd = -9 * c % 8  # tensor cores want rows of a multiple of 16 bytes
    y = F.linear(F.pad(patches.to(conv.weight.dtype), (0, odd)), F.pad(conv.weight.flatten(1), (0, odd)), conv.bias)
    return y.view(n, height, width, -1).permute(0, 3, 1, 2)


def _block(block: ResBlock, h: Stream, shift: Shift, skip: Stream | None = None) -> Stream:
    y = _conv(block.conv1, h.normed(block.norm1, skip=skip))
    added, rows = shift(block)
    p = block.dropout.p if block.training else 0.0
    seed = int(torch.randint(2**31, ())) if p else 0
    y = group_norm(y, block.norm2, shift=added, rows=rows, dropout=p, seed=seed)
    y = _conv(block.conv2, y)
    if isinstance(block.shortcut, nn.Identity):
        return Stream(h.x, _sum(h.bias, block.conv2.bias), add=y)
    return _project(block.shortcut, y, h, skip, block.conv2.bias)


def _attend(attention: nn.Module, h: Stream) -> Stream:
    if not isinstance(attention, Attention):
        return h
    y = h.normed(attention.norm, silu=False)
    n, c, height, width = y.shape
    qkv = F.linear(y.permute(0, 2, 3, 1).flatten(1, 2), attention.qkv.weight.flatten(1), attention.qkv.bias)
    q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)  # [N, 1 head, HW, C] each
    with sdpa_kernel(_FASTEST_FIRST, set_priority=True):
        y = F.scaled_dot_product_attention(q, k, v)
    y = y.view(n, height, width, c).permute(0, 3, 1, 2)
    return _project(attention.out, h.x, Stream(y), None, h.bias)


def _project(conv: nn.Conv2d, residual: Tensor, h: Stream, skip: Stream | None, bias: Tensor | None) -> Stream:
    """residual + bias + conv1×1([h, skip]), where the pending biases of h and skip go through the convolution alone."""
    other = None if skip is None else skip.x
    weight = conv.weight.flatten(1).to(h.x.dtype)
    pending = h.bias if skip is None else _beside(h, skip)
    if pending is not None:
        bias = _sum(bias, F.linear(pending.to(weight.dtype), weight))
    return Stream(project(residual, h.x, weight, _sum(bias, conv.bias), other))


def _conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Without the bias, which is added by what reads the result."""
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


def _downsample(conv: nn.Conv2d, h: Stream) -> Stream:
    """The padding on the right and bottom alone, as a kernel with a row and a column of zeros on the left and top."""
    return Stream(F.conv2d(h.value(), F.pad(conv.weight, (1, 0, 1, 0)), None, stride=2, padding=1), conv.bias)


def _upsample(layer: Upsample, h: Stream, size: tuple[int, int]) -> Stream:
    x, conv = h.value(), layer.conv
    if size == (2 * x.shape[-2], 2 * x.shape[-1]):
        return Stream(F.conv_transpose2d(x, doubled(conv.weight), None, stride=2, padding=1), conv.bias)
    return Stream(_conv(conv, F.interpolate(x, size=size, mode="nearest")), conv.bias)


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def _beside(h: Stream, skip: Stream) -> Tensor | None:
    """The pending biases of a concatenation."""
    if h.bias is None and skip.bias is None:
        return None
    sides = [side.x.new_zeros(side.x.shape[1]) if side.bias is None else side.bias for side in (h, skip)]
    return torch.cat([side.float() for side in sides])


def doubled(weight: Tensor) -> Tensor:
    """The 4×4 kernel whose transposed convolution of stride 2 repeats every pixel and then convolves with `weight`.

    Along an axis, an even pixel sees x[i − 1] by w0 and x[i] by w1 + w2, an odd one x[i] by w0 + w1 and x[i + 1] by w2.
    weight: [C_out, C_in, 3, 3].  Returns [C_in, C_out, 4, 4].
    """
    for axis in (-2, -1):
        w0, w1, w2 = weight.unbind(axis)
        weight = torch.stack([w2, w1 + w2, w0 + w1, w0], dim=axis)
    return weight.transpose(0, 1)


def predict(net: UNet, x: Tensor, t: Tensor) -> Tensor:
    """eps = net(x, t), differentiable, in the dtype of autocast. x, eps: float32 [N, C, H, W]; t: int64 [N]."""
    embedding = F.silu(net.time(timestep_embedding(t, net.base).to(x.dtype)))
    return net.read(forward(net, x, lambda block: (block.time(embedding) + block.conv1.bias, None)), x, t)


class Sampler(nn.Module):
    """eps = Sampler(net, T)(x, t): a network in eval mode, its weights cast once and its time embedding tabled.

    net: a UNet on a GPU, whose weights are copied: `refresh` after they have changed.  num_steps: T.
    x: float32 [N, C, H, W], t: int64 [N]; eps is float32.
    """

    recordable = True  # see engine.slots

    def __init__(self, net: UNet, num_steps: int, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.dtype = dtype
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d) and module is not self.net.conv_out:
                module.to(dtype)
        self._blocks = [name for name, module in net.named_modules() if isinstance(module, ResBlock)]
        widths = [net.get_submodule(name).conv1.out_channels for name in self._blocks]
        self.register_buffer("table", torch.empty(num_steps, sum(widths), device=net.conv_in.weight.device))
        self._columns = {
            self.net.get_submodule(name): columns for name, columns in zip(self._blocks, _spans(widths), strict=True)
        }
        self.refresh(net)

    @torch.no_grad()
    def refresh(self, net: UNet) -> None:
        """Take over the weights of a network of the same form, in place."""
        self.net.load_state_dict(net.state_dict())
        t = torch.arange(len(self.table), device=self.table.device)
        with torch.autocast(self.table.device.type, enabled=False):
            embedding = F.silu(net.time(timestep_embedding(t, net.base).float()))
            blocks = [net.get_submodule(name) for name in self._blocks]
            torch.cat([block.time(embedding) + block.conv1.bias for block in blocks], dim=1, out=self.table)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            output = forward(self.net, x, lambda block: (self.table[:, self._columns[block]], t))
        return self.net.read(output, x, t)


def _spans(widths: list[int]) -> list[slice]:
    """Neighbouring slices of these widths."""
    ends = list(itertools.accumulate(widths))
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
