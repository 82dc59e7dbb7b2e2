"""The same work done by diffusers: its UNet2DModel of the same architecture, its pipeline and its scheduler.

As shipped is what its documentation shows: DDIMPipeline, float32, eager. Careful is the best that a user gets who reads
on: the network in the precision of the job, channels_last, compiled where ours is, in a bare loop.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn

from skipstone import UNet
from skipstone.network import placement
from skipstone.network.unet import attention_levels
from skipstone.studies.speed import clock
from skipstone.studies.speed.clock import Contender
from skipstone.studies.speed.report import installed
from skipstone.studies.speed.subject import Subject

PAPER = 35_746_307  # parameters of the network beside which we measure unless told otherwise


def wanted(subject: Subject, asked: bool | None) -> bool:
    """Whether to measure diffusers. asked: None for where it is installed and the network is the papers'.

    Raises ValueError where it was asked for and cannot be.
    """
    plain = get_class(subject.config.model._target_) is UNet and subject.config.model.patch == 1
    if asked and not installed("diffusers"):
        raise ValueError("--peer asks for diffusers, which is not installed: pip install diffusers.")
    if asked and not plain:
        raise ValueError("--peer asks for a network that diffusers has: choose model=unet_cifar10.")
    if asked is not None:
        return asked
    return bool(installed("diffusers")) and plain and _size(subject) == PAPER


def _size(subject: Subject) -> int:
    return sum(parameter.numel() for parameter in subject.network().parameters())


def network(subject: Subject) -> nn.Module:
    """UNet2DModel with the architecture of the subject's plain UNet, to the last parameter, and random weights.

    diffusers has one number of groups for all its norms, which is ours from 128 channels up.
    """
    from diffusers import UNet2DModel

    model = subject.config.model
    sizes = [model.image_size // 2**i for i in range(len(model.multipliers))]
    levels = attention_levels(model.attention, sizes)
    attends = [i in levels for i in range(len(sizes))]
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=model.image_size,
        in_channels=model.channels,
        out_channels=model.channels,
        block_out_channels=[model.base * m for m in model.multipliers],
        layers_per_block=model.blocks,
        down_block_types=["AttnDownBlock2D" if there else "DownBlock2D" for there in attends],
        up_block_types=["AttnUpBlock2D" if there else "UpBlock2D" for there in attends[::-1]],
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=min(32, model.base // 4),
        dropout=model.dropout,
    )
    ours, theirs = _size(subject), sum(parameter.numel() for parameter in net.parameters())
    if ours != theirs:
        raise ValueError(f"diffusers' network has {theirs} parameters, and ours {ours}: they do not compare.")
    return net


Draw = Callable[[int, int, float], object]  # draws n images in so many steps at an eta


def samplers(subject: Subject) -> dict[str, Callable[[], Draw]]:
    """By name, what builds each way to sample; as it costs memory and time, built when its turn comes."""
    return {
        "diffusers, as shipped": partial(_shipped, subject),
        f"diffusers, {_care(subject)}": partial(_careful, subject),
    }


def _care(subject: Subject) -> str:
    return f"{_dtype(subject)}".removeprefix("torch.") + (", compiled" if subject.settings["compile"] else "")


def _dtype(subject: Subject) -> torch.dtype:
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(subject.settings["precision"], torch.float32)


def _scheduler(subject: Subject, **settings: Any) -> Any:
    from diffusers import DDIMScheduler

    betas = subject.process.betas.numpy()
    return DDIMScheduler(num_train_timesteps=len(betas), trained_betas=betas, **settings)


def _shipped(subject: Subject) -> Draw:
    from diffusers import DDIMPipeline

    pipeline = DDIMPipeline(network(subject).to(subject.device).eval(), _scheduler(subject))
    pipeline.set_progress_bar_config(disable=True)

    def draw(n: int, steps: int, eta: float) -> object:
        with torch.autocast(subject.device.type, enabled=False):
            return pipeline(batch_size=n, num_inference_steps=steps, eta=eta, output_type="np")

    return draw


def _careful(subject: Subject) -> Draw:
    net = network(subject).to(subject.device, _dtype(subject), memory_format=torch.channels_last).eval()
    if subject.settings["compile"]:
        net.compile()
    scheduler = _scheduler(subject, clip_sample=False)

    @torch.no_grad()
    def draw(n: int, steps: int, eta: float) -> Tensor:
        scheduler.set_timesteps(steps)
        x = torch.randn(n, *subject.shape, device=subject.device)
        with torch.autocast(subject.device.type, enabled=False):
            for t in scheduler.timesteps:
                eps = net(x.to(_dtype(subject)), t, return_dict=False)[0]
                x = scheduler.step(eps.float(), t, x, eta=eta, return_dict=False)[0]
        return x

    return draw


def trainer(subject: Subject, steps: int) -> Contender:
    """A bare loop over diffusers' network: data on the device, mixed precision, fused Adam, clip, foreach EMA."""
    name, batch = f"diffusers, {_care(subject)}", subject.recipe.batch_size
    made: list[Callable[[int], object]] = []

    def warm_up() -> None:
        made.append(training_loop(subject, subject.images.train))
        clock.seconds(lambda: made[0](2), subject.device)

    def one_round() -> list[float]:
        return [clock.seconds(lambda: made[0](steps), subject.device)]

    n = steps * batch
    return Contender(name, one_round, n, n, 3 * subject.flop * n, warm_up, peer=True)


def training_loop(subject: Subject, images: Tensor) -> Callable[[int], object]:
    """A function that trains diffusers' network so many steps on uint8 images [N, C, H, W], which go to the device."""
    device, recipe = subject.device, subject.recipe
    net = network(subject).to(device, memory_format=torch.channels_last).train()
    if subject.settings["compile"]:
        net.compile()
    images = images.to(device)
    levels = _scheduler(subject).alphas_cumprod.to(device)
    parameters = list(net.parameters())
    averaged = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)

    def step() -> None:
        x0 = images[torch.randint(len(images), (recipe.batch_size,), device=device)].float() / 127.5 - 1
        x0 = torch.where(torch.rand(len(x0), 1, 1, 1, device=device) < 0.5, x0.flip(-1), x0)
        t, eps = torch.randint(len(levels), (len(x0),), device=device), torch.randn_like(x0)
        level = levels[t].view(-1, 1, 1, 1)
        with placement.autocast(subject.settings):
            predicted = net(level.sqrt() * x0 + (1 - level).sqrt() * eps, t, return_dict=False)[0]
        (predicted.float() - eps).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - recipe.ema_decay)

    return lambda steps: [step() for _ in range(steps)]
