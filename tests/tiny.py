"""A training of seconds, for tests that cut it off: in their own process, or in one that may be killed."""

import logging
import sys

import torch
from forks import FORKS

from skipstone import ForwardProcess, UNet, noise
from skipstone.data import ImageSet
from skipstone.network import placement
from skipstone.store import claims, models
from skipstone.training.checkpoints import resume
from skipstone.training.fit import fit
from skipstone.training.module import Recipe

TRAINER = dict(
    accelerator="cpu",
    devices=1,
    strategy="auto",
    precision="32-true",
    compile=False,
    kernels=False,
    max_steps=6,
    gradient_clip_val=1.0,
    accumulate_grad_batches=1,
    val_check_interval=0.5,
    log_every_n_steps=1,
    checkpoint_every_n_steps=2,
    enable_progress_bar=False,
)
RECIPE = Recipe(batch_size=4, learning_rate=1e-3, warmup=2, decay="cosine", weight_decay=0.0, ema_decay=0.9)


def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet("random", pixels[:16], pixels[16:], flip=True)


def build():
    torch.manual_seed(1)
    return UNet(8, 1, base=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.1)


def train(folder, callbacks=(), recipe=RECIPE, **trainer):
    settings = placement.resolve(TRAINER | trainer)
    net = build()
    found = resume.latest(folder, claims.key_of(folder), net)
    process = ForwardProcess(noise.linear(50))
    return fit(net, process, images(), recipe, settings, 0, folder, callbacks=callbacks, found=found)


def ensure(outputs, steps, fresh=False, **trainer):
    """The stored model; says when it begins to train, and when it is done."""
    weights = {"dataset": {"name": "tiny", "fingerprint": "0"}, "steps": steps}

    def begin(folder):
        print("trains", flush=True)
        return train(folder, max_steps=steps, **trainer)

    folder = models.ModelStore(outputs).ensure(weights, begin, fresh)
    print("done", flush=True)
    return folder


class Process:
    """`ensure` in a process of its own, which writes what it says into the file `said`. Named as subprocess names."""

    def __init__(self, said, outputs, steps, fresh=False, **trainer):
        self.said = said
        self._process = FORKS.Process(target=_run, args=(said, outputs, steps, fresh), kwargs=trainer)
        self._process.start()
        self.pid, self.kill = self._process.pid, self._process.kill

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        return self.poll()

    def lines(self):
        return self.said.read_text().splitlines() if self.said.exists() else []


def _run(said, outputs, steps, fresh, **trainer):
    sys.stdout = sys.stderr = said.open("w", buffering=1)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
    placement.use_threads(1)
    ensure(outputs, steps, fresh, **trainer)
