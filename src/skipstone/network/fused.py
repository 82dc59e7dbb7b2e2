"""The UNet of unet.py for a GPU: the same weights and the same function, in fewer passes over memory.

unet.py stays the reference. Its convolutions run near the limit of a GPU as they are; what surrounds them does not.
Here group norms read their input once, together with the residual sum, the bias or the time embedding before them and
the SiLU and the dropout after them; concatenations are read in their two parts; 1×1 convolutions end on the residual
stream; upsampling and the convolution after it are one transposed convolution, with four ninths of the arithmetic.

`predict` is differentiable, for training under autocast. `Sampler` evaluates with weights that are cast once.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from skipstone import kernels
from skipstone.kernels.norm import group_norm
from skipstone.kernels.patches import patches
from skipstone.kernels.project import project
from skipstone.kernels.taps import convolve_to_few
from skipstone.kernels.total import total
from skipstone.network.unet import Attention, ResBlock, UNet, Upsample

_FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
]  # fmt: skip


class Stream:
    """The residual stream x + add + bias. What is pending is summed by the norm or the product that reads it next.

    x, add: [N, C, H, W].  bias: [C], added to every pixel.
    """

    def __init__(self, x: Tensor, bias: Tensor | None = None, add: Tensor | None = None) -> None:
        self.x, self.bias, self.add = x, bias, add

    def settle(self, value: Tensor | None = None) -> Tensor:
        """[N, C, H, W], the sum, after which nothing is pending. value: it, if it is known already."""
        self.x = total(self.x, self.add, self.bias) if value is None else value
        self.add = self.bias = None
        return self.x


@dataclass(frozen=True)
class Evaluation:
    """One way through the network.

    shift: of a block, what is added to the output of conv1, as group_norm's shift and rows.
    keep: a module, a word and what makes a tensor from weights alone; returns the tensor, made now or before.
    masks: for each block in turn, which mask its dropout draws: int64 [1].
    dtype: of what passes through.
    """

    net: UNet
    shift: Callable[[ResBlock], tuple[Tensor, Tensor | None]]
    keep: Callable[[nn.Module, str, Callable[[], Tensor]], Tensor]
    masks: Iterator[Tensor]
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """The output of the network's last layer, float32 [N, channels, H, W]. x: float32, of that shape."""
        net = self.net
        h = Stream(self.first(net.conv_in, F.pixel_unshuffle(x, net.patch)))
        skips = [h]
        for i, level in enumerate(net.down):
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = self.attend(attention, self.block(block, h))
                skips.append(h)
            if i < len(net.downsamples):
                h = self.downsample(net.downsamples[i].conv, h)
                skips.append(h)
        h = self.block(net.middle2, self.attend(net.middle_attention, self.block(net.middle1, h)))
        for i, level in enumerate(net.up):
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = self.attend(attention, self.block(block, h, skips.pop()))
            if i < len(net.upsamples):
                h = self.upsample(net.upsamples[i], h, skips[-1].x.shape[-2:])
        last = net.conv_out
        return F.pixel_shuffle(convolve_to_few(self.norm(net.norm_out, h), last.weight, last.bias), net.patch)

    def first(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """The 3×3 convolution of a picture's few channels, as a matrix product with each pixel's neighbourhood."""
        n, c, height, width = x.shape
        odd = -9 * c % 8  # tensor cores want rows of a multiple of 16 bytes
        weight = self.keep(conv, "rows", lambda: F.pad(conv.weight.flatten(1), (0, odd)))
        y = F.linear(patches(x, 9 * c + odd, self.dtype), weight, conv.bias)
        return y.view(n, height, width, -1).permute(0, 3, 1, 2)

    def norm(self, norm: nn.GroupNorm, h: Stream, skip: Stream | None = None, silu: bool = True) -> Tensor:
        """silu(norm(h)), or of the concatenation [h, skip]."""
        if skip is not None:
            for side in (h, skip):
                if side.add is not None:
                    side.settle()
            return group_norm(h.x, norm, skip=skip.x, shift=self.pending(norm, h, skip), silu=silu)
        if h.add is None:
            return group_norm(h.x, norm, shift=h.bias, silu=silu)
        y, value = group_norm(h.x, norm, add=h.add, shift=h.bias, silu=silu)
        h.settle(value)
        return y

    def block(self, block: ResBlock, h: Stream, skip: Stream | None = None) -> Stream:
        y = F.conv2d(self.norm(block.norm1, h, skip), block.conv1.weight, padding=1)
        shift, rows = self.shift(block)
        p = block.dropout.p if block.training else 0.0
        mask = next(self.masks) if p else None
        y = group_norm(y, block.norm2, shift=shift, rows=rows, dropout=p, seed=mask)
        y = F.conv2d(y, block.conv2.weight, padding=1)
        if isinstance(block.shortcut, nn.Identity):
            return Stream(h.x, self.sum(block.conv2, h.bias, block.conv2.bias), add=y)
        return self.project(block.shortcut, y, h, skip, block.conv2.bias)

    def attend(self, attention: nn.Module, h: Stream) -> Stream:
        if not isinstance(attention, Attention):
            return h
        y = self.norm(attention.norm, h, silu=False)
        n, c, height, width = y.shape
        qkv = F.linear(y.permute(0, 2, 3, 1).flatten(1, 2), attention.qkv.weight.flatten(1), attention.qkv.bias)
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)  # [N, 1 head, HW, C] each
        # cuDNN's kernels are for many tokens of many channels
        with sdpa_kernel(_FASTEST_FIRST[0 if min(height * width, c) >= 64 else 1 :], set_priority=True):
            y = F.scaled_dot_product_attention(q, k, v)
        y = y.view(n, height, width, c).permute(0, 3, 1, 2)
        return self.project(attention.out, h.x, Stream(y), None, h.bias)

    def project(self, conv: nn.Conv2d, residual: Tensor, h: Stream, skip: Stream | None, bias: Tensor | None) -> Stream:
        """residual + bias + conv1×1([h, skip]), where the pending biases of h and skip go through the conv alone."""
        weight = conv.weight.flatten(1)
        bias = self.sum(conv, bias, conv.bias)
        pending = self.pending(conv, h, skip)
        if pending is not None:
            plain = bias
            bias = self.keep(conv, "through", lambda: plain + (weight * pending).sum(1))
        weight, other = weight.to(h.x.dtype), None if skip is None else skip.x
        if torch.is_grad_enabled():  # the bias stays pending: a norm has its gradient for nothing, a product has not
            return Stream(project(residual, h.x, weight, other), bias)
        return Stream(project(residual, h.x, weight, other, bias))

    def downsample(self, conv: nn.Conv2d, h: Stream) -> Stream:
        """The padding on the right and bottom alone: by a row and a column of zeros on the kernel's top and left."""
        weight = self.keep(conv, "padded", lambda: _rows_last(F.pad(conv.weight, (1, 0, 1, 0))))
        return Stream(F.conv2d(h.settle(), weight, stride=2, padding=1), conv.bias)

    def upsample(self, layer: Upsample, h: Stream, size: tuple[int, int]) -> Stream:
        x, conv = h.settle(), layer.conv
        if size == (2 * x.shape[-2], 2 * x.shape[-1]):
            weight = self.keep(conv, "doubled", lambda: doubled(conv.weight))
            return Stream(F.conv_transpose2d(x, weight, stride=2, padding=1), conv.bias)
        return Stream(F.conv2d(F.interpolate(x, size=size, mode="nearest"), conv.weight, padding=1), conv.bias)

    def sum(self, module: nn.Module, a: Tensor | None, b: Tensor) -> Tensor:
        """Of two biases."""
        return b if a is None else self.keep(module, "sum", lambda: a.float() + b.float())

    def pending(self, module: nn.Module, h: Stream, skip: Stream | None) -> Tensor | None:
        """The biases of [h, skip]: float32 [C], or None."""
        sides = [(side.x.shape[1], side.bias) for side in (h, skip) if side is not None]
        if all(bias is None for _, bias in sides):
            return None
        like = next(bias for _, bias in sides if bias is not None)
        return self.keep(
            module,
            "pending",
            lambda: torch.cat([like.new_zeros(width) if bias is None else bias for width, bias in sides]).float(),
        )


def doubled(weight: Tensor) -> Tensor:
    """The 4×4 kernel whose transposed convolution of stride 2 repeats every pixel and then convolves with `weight`.

    Along an axis, an even pixel sees x[i − 1] by w0 and x[i] by w1 + w2, an odd one x[i] by w0 + w1 and x[i + 1] by w2.
    weight: [C_out, C_in, 3, 3].  Returns [C_in, C_out, 4, 4].
    """
    for axis in (-2, -1):
        w0, w1, w2 = weight.unbind(axis)
        weight = torch.stack([w2, w1 + w2, w0 + w1, w0], dim=axis)
    return _rows_last(weight.transpose(0, 1))


def _rows_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def predict(net: UNet, x: Tensor, t: Tensor, masks: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    """eps = net(x, t, labels), differentiable, in the dtype of autocast. x, eps: float32 [N, C, H, W]; t: int64 [N].

    labels: as for UNet.  masks: int64 [residual blocks] from which dropout draws, where the network is in training mode
    and has any.
    """
    device = x.device.type
    embedding = F.silu(net.embed(t, labels, x.dtype))
    evaluate = Evaluation(
        net,
        shift=lambda block: (block.time(embedding) + block.conv1.bias, None),
        keep=lambda module, word, make: make(),
        masks=iter(() if masks is None else masks.split(1)),
        dtype=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype,
    )
    return net.read(evaluate(x), x, t)


def compile_ahead(net: UNet, masks: Tensor | None) -> None:
    """Compile the kernels of `predict`, with its gradients and without, as they are needed under this autocast."""
    device = net.conv_in.weight.device
    x = torch.zeros(1, net.channels, net.image_size, net.image_size, device=device)
    t, training = torch.zeros(1, dtype=torch.int64, device=device), net.training
    with kernels.compiled_ahead(x.device):
        torch.autograd.grad(predict(net, x, t, masks).sum(), list(net.parameters()))
        net.eval()
        with torch.no_grad():  # as at a validation
            predict(net, x, t)
    net.train(training)


class Sampler(nn.Module):
    """eps = Sampler(net, T)(x, t, labels): a network in eval mode, its weights cast once, its time embedding tabled.

    net: a UNet on a GPU, whose weights are copied: `refresh` after they have changed.  num_steps: T.
    x: float32 [N, C, H, W], t: int64 [N], or real times, float64 [N], embedded at every call; eps is float32.
    labels: as for UNet. A network of labels has no table, which would have a row per t and label.
    """

    recordable = True  # see engine.slots

    def __init__(self, net: UNet, num_steps: int, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self._dtype, self.classes, self.null_label = dtype, net.classes, net.null_label
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d) and module is not self.net.conv_out:
                module.to(dtype)
        self._blocks = [name for name, module in net.named_modules() if isinstance(module, ResBlock)]
        widths = [net.get_submodule(name).conv1.out_channels for name in self._blocks]
        self.register_buffer("table", torch.empty(num_steps, sum(widths), device=net.conv_in.weight.device))
        self.register_buffer("biases", torch.empty(sum(widths), device=net.conv_in.weight.device))  # in float32
        own = [self.net.get_submodule(name) for name in self._blocks]
        self._columns = dict(zip(own, _spans(widths), strict=True))
        self._kept: dict[tuple[nn.Module, str], tuple[Tensor, Callable[[], Tensor]]] = {}
        self.refresh(net)
        x = torch.zeros(1, net.channels, net.image_size, net.image_size, device=self.table.device)
        with kernels.compiled_ahead(x.device):
            self(x, torch.zeros(1, dtype=torch.int64, device=x.device))

    @torch.no_grad()
    def refresh(self, net: UNet) -> None:
        """Take over the weights of a network of the same form, in place: what is recorded stays valid."""
        self.net.load_state_dict(net.state_dict())
        t = torch.arange(len(self.table), device=self.table.device)
        with torch.autocast(self.table.device.type, enabled=False):
            torch.cat([net.get_submodule(name).conv1.bias for name in self._blocks], out=self.biases)
            torch.add(self._embedded(t), self.biases, out=self.table)
        for tensor, make in self._kept.values():  # in the order in which they were made, so from one another
            tensor.copy_(make())

    @torch.no_grad()
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            table, rows = self.table, t
            if t.is_floating_point() or labels is not None:
                table, rows = self._embedded(t, labels) + self.biases, torch.arange(len(t), device=t.device)
            evaluate = Evaluation(
                self.net, lambda block: (table[:, self._columns[block]], rows), self._keep, iter(()), self._dtype
            )
            return self.net.read(evaluate(x), x, t)

    def _embedded(self, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """What time and label add in all blocks, without biases: float32 [N, their channels]."""
        embedding = F.silu(self.net.embed(t, labels, torch.float32))
        return torch.cat([block.time(embedding) for block in self._columns], dim=1)

    def _keep(self, module: nn.Module, word: str, make: Callable[[], Tensor]) -> Tensor:
        if (module, word) not in self._kept:
            self._kept[module, word] = make(), make
        return self._kept[module, word][0]


def _spans(widths: list[int]) -> list[slice]:
    """Neighbouring slices of these widths."""
    ends = list(itertools.accumulate(widths))
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
