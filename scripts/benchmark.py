"""Speed here: python scripts/benchmark.py training | checkpoint | sampling | grid | startup [overrides as for train.py]

training: steps a second of Lightning's fit over those of a bare loop with the same module, optimizer, clip and EMA.
checkpoint: seconds of a checkpoint over those of the steps between two of them, by trainer.checkpoint_every_n_steps.
sampling: seconds of engine.sample over those of as many bare calls of the network at the same batch.
grid: seconds of a grid of 4 taus × 3 etas × 200 images, all cells in one batch that stays full and one cell after the
other, over those of the bare calls at batch evaluation.batch_size that its evaluations amount to.
startup: seconds of --help and --cfg job, and from the command to the end of the first training step.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).parents[1]
WARM_UP = 10
BLOCK = 10


def training(rounds: int, steps: int, overrides: list[str]) -> None:
    """Alternate the two loops, so that both meet the same neighbours; compare medians of the steps' times."""
    import logging

    logging.disable(logging.WARNING)
    fit_times, bare_times = [], []
    for _ in range(rounds):
        fit_times += _fit_times(steps, overrides)
        bare_times += _bare_times(steps, overrides)
    fit, bare = statistics.median(fit_times), statistics.median(bare_times)
    print(f"bare loop    {1 / bare:7.2f} steps/s")
    print(f"trainer.fit  {1 / fit:7.2f} steps/s")
    print(f"fit / bare   {bare / fit:7.3f}   ({rounds} rounds of {steps} steps, medians)")


def _module(overrides: list[str]):  # noqa: ANN202
    """The job's module, data, trainer settings and evaluation settings."""
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from skipstone import ForwardProcess
    from skipstone.training import hardware
    from skipstone.training.module import DiffusionModule, Recipe

    OmegaConf.register_new_resolver("pid", os.getpid, replace=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides)
    trainer = hardware.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    recipe = Recipe(**config.training)
    torch.manual_seed(0)
    hardware.use_threads(trainer["threads"])
    net = hardware.place(instantiate(config.model), trainer)
    module = DiffusionModule(net, ForwardProcess(instantiate(config.noise)), recipe, 0, config.dataset.flip)
    return module, instantiate(config.dataset), trainer, config.evaluation


def _fit_times(steps: int, overrides: list[str]) -> list[float]:
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    from skipstone.training.data import ImageData
    from skipstone.training.ema import EMA
    from skipstone.training.fit import build_trainer

    times = []

    class Clock(lightning.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            times.append(time.perf_counter())

    module, images, settings, _ = _module(overrides)
    steps += WARM_UP + 1
    settings |= {"limit_val_batches": 0}
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [Clock(), EMA(module.recipe.ema_decay)]
        trainer = build_trainer(settings, [CSVLogger(folder)], callbacks)
        trainer.fit(module, ImageData(images, module.recipe.batch_size, 0, steps))
    return _differences(times)


def checkpoint(rounds: int, steps: int, overrides: list[str]) -> None:
    """One training of the job, without validation, that saves after every block of steps; medians of both."""
    import logging

    import lightning
    import torch

    from skipstone.training.curve import Curve
    from skipstone.training.data import ImageData
    from skipstone.training.ema import EMA
    from skipstone.training.fit import build_trainer
    from skipstone.training.survival import Survival

    logging.disable(logging.WARNING)
    module, images, settings, _ = _module(overrides)
    every, steps = settings["checkpoint_every_n_steps"], rounds * steps
    saves, blocks, began = [], [], [time.perf_counter()]

    class Clock(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
            if trainer.global_step % BLOCK == 0:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                before = time.perf_counter()
                blocks.append((before - began[0]) / BLOCK)
                trainer.save_checkpoint(survival.path)
                began[0] = time.perf_counter()
                saves.append(began[0] - before)

    with tempfile.TemporaryDirectory() as folder:
        curve = Curve(Path(folder))
        survival = Survival(Path(folder), "benchmark", curve, every=steps + 1)
        trainer = build_trainer(
            settings | {"limit_val_batches": 0}, [curve], [survival, Clock(), EMA(module.recipe.ema_decay)]
        )
        trainer.fit(module, ImageData(images, module.recipe.batch_size, 0, steps))
        size = survival.path.stat().st_size / 2**20
    save, step = statistics.median(saves[1:]), statistics.median(blocks[1:])
    print(f"a step        {1e3 * step:9.2f} ms")
    print(f"a checkpoint  {1e3 * save:9.2f} ms   ({size:.1f} MiB; {len(saves) - 1} of them, medians)")
    print(f"share         {save / (save + every * step):9.3%}   of the time, one every {every} steps")


def _bare_times(steps: int, overrides: list[str]) -> list[float]:
    import torch

    from skipstone.training import hardware
    from skipstone.training.data import StepSampler

    module, images, settings, _ = _module(overrides)
    device = hardware.device(settings)
    module.to(device)
    recipe = module.recipe
    averaged = [parameter.detach().clone() for parameter in module.net.parameters()]
    optimizer = torch.optim.AdamW(
        module.net.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    times = []
    for step, indices in enumerate(StepSampler(len(images.train), recipe.batch_size, WARM_UP + steps + 1, 0)):
        times.append(time.perf_counter())
        optimizer.zero_grad()
        with hardware.autocast(settings):
            loss = module.loss(images.train[torch.as_tensor(indices)].to(device), step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.net.parameters(), settings["gradient_clip_val"])
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, list(module.net.parameters()), 1 - recipe.ema_decay)
    return _differences(times)


def _differences(times: list[float]) -> list[float]:
    """Seconds a step over each block of steps: on a GPU, single steps only time how fast they are queued."""
    return [(after - before) / BLOCK for before, after in pairwise(times[WARM_UP::BLOCK])]


def sampling(rounds: int, steps: int, overrides: list[str]) -> None:
    """Alternate calls and samples of `steps` rows at batch 64; compare medians."""
    import torch

    from skipstone import engine, schedules, solvers
    from skipstone.training import hardware

    module, images, settings, _ = _module(overrides)
    device = hardware.device(settings)
    net = module.net.to(device).eval()
    table = solvers.DDIM().table(module.process, schedules.Linspace(steps)(module.process.num_steps))
    x = torch.randn(64, *images.shape, device=device)
    t = torch.full((64,), 500, device=device)

    def bare() -> None:
        for _ in range(table.nfe):
            net(x, t)

    times: dict[str, list[float]] = {"bare": [], "sample": []}
    with torch.no_grad():
        for _ in range(rounds + 1):
            for name, call in (("bare", bare), ("sample", lambda: engine.sample(net, table, start=x))):
                times[name].append(_seconds(call, device))
    bare_time, sample_time = (statistics.median(times[name][1:]) for name in ("bare", "sample"))
    print(f"network alone  {64 * table.nfe / bare_time:9.0f} evaluations/s")
    print(f"engine.sample  {64 * table.nfe / sample_time:9.0f} evaluations/s")
    print(f"sample / bare  {sample_time / bare_time:9.3f}   ({rounds} rounds of {table.nfe} rows, medians)")


def grid(rounds: int, calls: int, overrides: list[str]) -> None:
    """Alternate single calls, the packed grid and the grid cell by cell; compare medians."""
    import torch

    from skipstone import engine, schedules, solvers
    from skipstone.training import hardware

    module, images, settings, evaluation = _module(overrides)
    device, size, n = hardware.device(settings), evaluation.batch_size, 200
    net, process = module.net.to(device).eval(), module.process
    tables = [
        solvers.DDIM(eta).table(process, schedules.Exp(tau)(process.num_steps))
        for tau in (5, 10, 20, 50)
        for eta in (0.0, 0.5, 1.0)
    ]
    ideal = sum(table.nfe for table in tables) * n / size  # calls of a full batch
    x = torch.randn(size, *images.shape, device=device)
    t = torch.full((size,), 500, device=device)

    def packed() -> None:
        engine.sample_many(net, tables, n, images.shape, batch_size=size)

    def by_cell() -> None:
        for table in tables:
            engine.sample(net, table, n, images.shape, batch_size=size)

    ways = {"network": lambda: [net(x, t) for _ in range(calls)], "sample_many": packed, "cell by cell": by_cell}
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad(), hardware.autocast(settings):
        for _ in range(WARM_UP):
            net(x, t)
        for _ in range(rounds):
            for name, call in ways.items():
                times[name].append(_seconds(call, device))
    seconds = {name: statistics.median(measured) for name, measured in times.items()}
    least = ideal * seconds.pop("network") / calls
    print(f"{ideal:.1f} calls of the network at batch {size}: {least:.2f} s   ({rounds} rounds, medians)")
    for name, measured in seconds.items():
        print(
            f"{name:12} {measured:8.2f} s  {measured / least:6.3f} of that  {len(tables) * n / measured:7.1f} images/s"
        )


def _seconds(call: Callable[[], object], device: "torch.device") -> float:
    """Of a call and all the work that it leaves on the device."""
    import torch

    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def startup(rounds: int, overrides: list[str]) -> None:
    """Medians over fresh processes; the checkpoint that is written after step 1 marks its end."""
    for flags in (["--help"], ["--cfg", "job"]):
        print(f"{' '.join(flags):12} {statistics.median(_command_seconds(flags) for _ in range(rounds)):6.1f} s")
    print(f"{'first step':12} {statistics.median(_first_step_seconds(overrides) for _ in range(rounds)):6.1f} s")


def _command_seconds(flags: list[str]) -> float:
    began = time.time()
    subprocess.run([sys.executable, ROOT / "train.py", *flags], check=True, stdout=subprocess.DEVNULL)
    return time.time() - began


def _first_step_seconds(overrides: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"paths.outputs={folder}", "trainer.checkpoint_every_n_steps=1", "trainer.max_steps=1"]
        few = ["evaluation.taus=[500]", "tau=500", "evaluation.images=2", "evaluation.fine_images=1"]
        began = time.time()
        command = [sys.executable, ROOT / "train.py", *settings, *few, *overrides]
        environment = {**os.environ, "WANDB_MODE": "offline"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        (checkpoint,) = Path(folder).glob("models/*/last.ckpt")
        return checkpoint.stat().st_mtime - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["training", "checkpoint", "sampling", "grid", "startup"])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of each loop in each round, or calls of the network")
    arguments = parser.parse_intermixed_args()
    if arguments.what == "training":
        training(arguments.rounds, arguments.steps, arguments.overrides)
    elif arguments.what == "checkpoint":
        checkpoint(arguments.rounds, arguments.steps, arguments.overrides)
    elif arguments.what == "sampling":
        sampling(arguments.rounds, arguments.steps, arguments.overrides)
    elif arguments.what == "grid":
        grid(arguments.rounds, arguments.steps, arguments.overrides)
    else:
        startup(arguments.rounds, arguments.overrides)


if __name__ == "__main__":
    main()
