"""A training that is cut off, at whatever moment, ends as if it had not been."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning
import pytest
import tiny
import torch
from filelock import SoftFileLease
from safetensors.torch import load_file

from skipstone.training.checkpoints.divergence import LossWatch

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NETRC": os.devnull}
PATIENCE = 240.0  # seconds, on a busy machine


def wait_for(there):
    """Poll until `there()` is true, and return what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (found := there()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found


def equal(a, b):
    """Bit for bit, through containers."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same_ends(one, other):
    """Two folders hold the same last state, of everything that a next step would depend on, and the same curve."""
    a, b = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (one, other))
    for name in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert equal(a[name], b[name]), name
    curves = [list(csv.DictReader((folder / "metrics.csv").open(newline=""))) for folder in (one, other)]
    # how long a sampling took is not a function of the seed
    timeless = [[{k: v for k, v in row.items() if "second" not in k} for row in rows] for rows in curves]
    assert timeless[0] == timeless[1]


class Deaths(lightning.Callback):
    """Dies once at every moment that a training passes, be it started again and again."""

    def __init__(self):
        self.died, self.validations = [], []

    def die(self, trainer, moment):
        if (trainer.global_step, moment) not in self.died:
            self.died.append((trainer.global_step, moment))
            raise ConnectionError("died")

    def on_train_start(self, trainer, module):
        self.die(trainer, "start")

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.die(trainer, f"before batch {batch_idx}")

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.die(trainer, "before optimizer")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.die(trainer, f"after batch {batch_idx}")

    def on_validation_start(self, trainer, module):
        self.die(trainer, "validation starts")

    def on_validation_epoch_end(self, trainer, module):
        self.die(trainer, "validation sums up")

    def on_validation_end(self, trainer, module):
        self.die(trainer, "validation ends")
        self.validations.append(trainer.global_step)

    def on_train_epoch_end(self, trainer, module):
        self.die(trainer, "epoch ends")

    def on_train_end(self, trainer, module):
        self.die(trainer, "end")


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2, "max_steps": 2}], ids=["plain", "accumulated"])
def test_a_training_that_dies_at_every_moment_once_ends_the_same(settings, tmp_path):
    """Dropout is on, so the generator counts too. Validations are at steps 2 and 4, the checkpoint between at 3."""
    settings = {"max_steps": 4, "checkpoint_every_n_steps": 3, **settings}
    whole = tiny.train(tmp_path / "whole", **settings)
    deaths = Deaths()
    for _ in range(100):
        try:
            cut = tiny.train(tmp_path / "cut", (deaths,), **settings)
            break
        except ConnectionError:
            continue
    steps = settings["max_steps"]
    assert len(deaths.died) >= 3 * steps + 5
    assert {steps // 2, steps} <= set(deaths.validations)
    assert equal(whole.state_dict(), cut.state_dict())
    assert_same_ends(tmp_path / "whole", tmp_path / "cut")


def reached(folder):
    """The last step that is in metrics.csv, which may be being written."""
    try:
        rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    except (OSError, csv.Error):
        return 0
    return max((int(row["step"]) for row in rows if (row.get("step") or "").isdigit()), default=0)


def kill_often(begin, outputs, kills, steps, seed):
    """Begin again and again, each time killing the process at a later random moment; then let it end."""
    chance = random.Random(seed)
    for target in sorted(chance.randrange(1, int(0.9 * steps)) for _ in range(kills)):
        process = begin()

        def there(target=target, process=process):
            return process.poll() is not None or any(reached(path) >= target for path in outputs.glob("models/*"))

        wait_for(there)
        time.sleep(chance.uniform(0, 0.05))  # within a step, or within what follows it
        assert process.poll() is None, "it ended by itself"
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
    assert begin().wait(PATIENCE) == 0


def assert_whole(outputs):
    """No file that cannot be read, and none that should not be there."""
    (folder,) = (outputs / "models").iterdir()
    names = {path.name for path in folder.iterdir() if not path.name.startswith("fine-")}
    assert names == {"config.yaml", "last.ckpt", "previous.ckpt", "ema.safetensors", "metrics.csv", "DONE"}
    for name in ("last.ckpt", "previous.ckpt"):
        torch.load(folder / name, weights_only=True)
    load_file(folder / "ema.safetensors")
    return folder


def test_three_kills_leave_the_same_weights(tmp_path):
    def begin(name):
        settings = dict(log_every_n_steps=3, checkpoint_every_n_steps=10)
        return tiny.Process(tmp_path / "said", tmp_path / name, steps=100, **settings)

    assert begin("whole").wait(PATIENCE) == 0
    kill_often(lambda: begin("cut"), tmp_path / "cut", kills=3, steps=100, seed=0)
    whole, cut = assert_whole(tmp_path / "whole"), assert_whole(tmp_path / "cut")
    assert (whole / "ema.safetensors").read_bytes() == (cut / "ema.safetensors").read_bytes()
    assert_same_ends(whole, cut)


@pytest.mark.attack
def test_25_kills_of_the_command_leave_the_same_weights(tmp_path):
    settings = ["experiment=smoke", "logger=none", "trainer.max_steps=500", "trainer.checkpoint_every_n_steps=20"]

    def begin(name):
        command = [sys.executable, "train.py", *settings, f"paths.outputs={tmp_path / name}"]
        # none of them asks for anything: there is nobody to answer
        return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL)

    assert begin("whole").wait(PATIENCE) == 0
    kill_often(lambda: begin("cut"), tmp_path / "cut", kills=25, steps=500, seed=0)
    whole, cut = assert_whole(tmp_path / "whole"), assert_whole(tmp_path / "cut")
    assert (whole / "ema.safetensors").read_bytes() == (cut / "ema.safetensors").read_bytes()
    assert_same_ends(whole, cut)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_epoch_end"])
def test_a_signal_saves_the_very_step_and_stops(number, hook, tmp_path):
    class Signal(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.told("on_train_batch_end", trainer)

        def on_validation_epoch_end(self, trainer, module):
            self.told("on_validation_epoch_end", trainer)
            assert hook != "on_validation_epoch_end", "validation went on"

        def told(self, here, trainer):
            if here == hook and trainer.global_step == 3:
                signal.raise_signal(number)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    whole = tiny.train(tmp_path / "whole")
    settings = {} if "validation" in hook else {"val_check_interval": 1.0}
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path / "cut", (Signal(),), checkpoint_every_n_steps=100, **settings)
    assert torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert equal(whole.state_dict(), tiny.train(tmp_path / "cut").state_dict())


@pytest.mark.parametrize(("second", "saved"), [(signal.SIGTERM, 3), (signal.SIGINT, 2)], ids=["other", "same"])
def test_only_the_same_signal_again_does_not_wait_for_the_step_to_end(second, saved, tmp_path):
    """A terminal's Ctrl-C reaches a worker process twice, by SIGINT and through its parent by SIGTERM."""

    class Signal(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(second)

    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, (Signal(),), checkpoint_every_n_steps=1, val_check_interval=1.0)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == saved


def test_a_signal_after_the_last_step_stops_what_would_follow(tmp_path):
    class Signal(lightning.Callback):
        def on_train_end(self, trainer, module):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, (Signal(),))


def test_where_slurm_would_requeue_the_job_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "17", "JOB_NAME": "job", "NTASKS": "1", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_PROCID", "0")

    class Signal(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 1:
                signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path / "model", (Signal(),))
    assert (tmp_path / "said").read_text() == "requeue 17\n"
    assert torch.load(tmp_path / "model" / "last.ckpt", weights_only=True)["global_step"] == 1
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"last.ckpt", "metrics.csv"}


class Spoil(lightning.Callback):
    """Makes the weights useless after a step."""

    def __init__(self, step, value):
        self.step, self.value = step, value

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen = trainer.global_step
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(module.net.parameters()).fill_(self.value)


@pytest.mark.parametrize("value", [float("nan"), 1e20])
def test_a_training_that_diverges_says_where_and_keeps_the_last_good_checkpoint(value, tmp_path):
    """Spoilt after step 3, it is the loss of step 4 that shows it, and the checkpoint of step 4 that must not be."""
    with pytest.raises(ValueError, match=r"diverged at step 4, at a learning rate of 0.0005.*last\.ckpt, of step 2:"):
        tiny.train(tmp_path, (Spoil(3, value),), val_check_interval=1.0)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_weights_that_are_not_numbers_are_not_saved_though_no_loss_has_shown_them(tmp_path):
    with pytest.raises(ValueError, match=r"diverged at step 2.*no checkpoint was good yet"):
        tiny.train(tmp_path, (Spoil(2, float("nan")),), val_check_interval=1.0)
    assert not list(tmp_path.glob("*.ckpt"))


def test_losses_are_looked_at_between_checkpoints_too(tmp_path):
    spoil = Spoil(3, float("nan"))
    with pytest.raises(ValueError, match=r"diverged at step 4"):
        tiny.train(tmp_path, (spoil,), max_steps=80, checkpoint_every_n_steps=500, val_check_interval=1.0)
    assert spoil.seen < 60


def around(mean, n):
    """Losses that are noisy, as those of a small batch are."""
    generator = torch.Generator().manual_seed(0)
    return mean * (0.2 + 1.6 * torch.rand(n, generator=generator))


def watched(losses):
    """What the watch says after each loss."""
    watch, said = LossWatch(), []
    for loss in losses:
        watch.add(loss)
        watch.look()
        said.append(watch.since)
    return said


@pytest.mark.parametrize("scale", [0.001, 1.0])
def test_losses_that_came_down_and_went_up_for_good_are_a_divergence(scale):
    """Whatever their size: a network that predicts nothing any more is not far from 1."""
    said = watched(scale * torch.cat([around(20, 100), around(1, 300), torch.full((60,), 40.0)]))
    assert said[:449] == [0] * 449
    assert said[449:] == list(range(50, 61))


def test_noise_a_start_and_a_spike_that_passes_are_no_divergence():
    spikes = [torch.tensor([500.0]), around(1, 100), torch.full((30,), 25.0), around(1, 100), around(5, 200)]
    assert not any(watched(torch.cat([around(50, 100), around(1, 300), *spikes])))


class Clever(lightning.Callback):
    """Shows losses of 1e-6 up to step 3, as if the network had known everything, and after that what they are."""

    def setup(self, trainer, module, stage):
        trainer.callbacks.insert(0, trainer.callbacks.pop(trainer.callbacks.index(self)))  # before Survival

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step <= 3:
            outputs["loss"].fill_(1e-6)


def test_what_is_saved_is_of_before_the_divergence(tmp_path):
    """The losses are high from step 4 on, and step 53 tells; until then nothing is saved."""
    often = {"max_steps": 80, "checkpoint_every_n_steps": 2, "val_check_interval": 1.0}
    with pytest.raises(ValueError, match=r"diverged at step 4, .*last\.ckpt, of step 2:"):
        tiny.train(tmp_path, (Clever(),), **often)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    with pytest.raises(ValueError, match=r"diverged at step 3, .*last\.ckpt, of step 2:"):
        tiny.train(tmp_path, **often)  # the same command again, which remembers what was reached


def test_a_training_that_another_process_took_over_saves_no_more(tmp_path):
    """Its checkpoints would push out the newer ones of the other."""

    class TakenOver(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                (lock,) = tmp_path.glob("models/*.lock")
                token = SoftFileLease(lock, lease_duration=60.0).owner.token
                lock.write_text(lock.read_text().replace(token, "f" * len(token)))
                (folder,) = tmp_path.glob("models/*/")
                folder.rename(folder.with_suffix(".ffffffff"))

    settings = {"checkpoint_every_n_steps": 2, "val_check_interval": 1.0}
    with pytest.raises(OSError, match=r"the training of .* was taken over by another process"):
        tiny.ensure(tmp_path, 6, callbacks=(TakenOver(),), **settings)
    (folder,) = tmp_path.glob("models/*/")
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 2


class Early(lightning.Callback):
    """Ends the training after a step, as Lightning's own max_time does."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step == 3


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_training_that_lightning_ends_early_is_no_model_and_goes_on(accumulated, tmp_path):
    settings = {"max_steps": 6, "val_check_interval": 1.0, "accumulate_grad_batches": accumulated}
    with pytest.raises(ValueError, match=r"ended at step 3 of 6, so its model is not stored; \S+last\.ckpt is of step"):
        tiny.train(tmp_path / "cut", (Early(),), **settings)
    assert equal(tiny.train(tmp_path / "cut", **settings).state_dict(), tiny.train(tmp_path, **settings).state_dict())


@pytest.mark.parametrize(
    ("told", "step"),
    [
        ({"limit_train_batches": 3}, 3),
        ({"limit_train_batches": 0}, 0),
        ({"limit_train_batches": 0.5, "devices": 2}, 3),
        ({"overfit_batches": 1}, 1),
        ({"max_time": "00:00:00:00"}, 0),
        ({"fast_dev_run": True}, 1),
    ],
    ids=str,
)
def test_whatever_lightning_is_told_done_means_the_last_step(told, step, tmp_path):
    for _ in range(2):  # the same command again: what was saved is there, and is no model either
        with pytest.raises(ValueError, match=f"ended at step {step} of 6, so its model is not stored"):
            tiny.ensure(tmp_path, 6, **told)
    (folder,) = tmp_path.glob("models/*/")
    assert not (folder / "DONE").exists()
    assert not (folder / "ema.safetensors").exists()
