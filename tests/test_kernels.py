"""The kernels for a GPU against torch's own words: by Triton's interpreter here, compiled where there is a GPU."""

import copy
import subprocess
import sys

import lightning
import pytest
import tiny
import torch
from shell import ENVIRONMENT, ROOT

from skipstone import UNet, engine, schedules, solvers
from skipstone.training.module import DiffusionModule

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPE = (3, 16, 16)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, on_gpu])])
def test_kernels_agree_with_torch_forwards_and_backwards(device):
    """In a process of its own, for Triton decides at import whether it interprets."""
    pytest.importorskip("triton")
    environment = ENVIRONMENT | ({"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    command = [sys.executable, ROOT / "tests" / "interpreted.py", device]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    apart = [(line.split()[0], float(line.split()[1])) for line in done.stdout.splitlines()]
    assert len(apart) > 40
    for name, difference in apart:
        # a GPU's convolutions may go by way of a transform
        limit = 1e-12 if name == "normal" else 1e-4 if (name, device) == ("network", "cuda") else 1e-5
        assert difference < limit, name


@pytest.fixture
def unet():
    torch.manual_seed(0)
    unet = UNet(16, 3, base=16, multipliers=(1, 2), blocks=1, attention=(8,), dropout=0.1).to("cuda")
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return unet.to(memory_format=torch.channels_last)


@pytest.mark.gpu
@on_gpu
def test_a_recorded_step_is_the_step(unet, process):
    """Replayed as a graph, with noise and without, again for another seed, and after the weights have changed."""
    from skipstone.network.fused import Sampler

    sampler = Sampler(unet, 1000)
    for eta, seed in ((0.0, 0), (1.0, 0), (1.0, 2**63 + 5)):
        table = solvers.DDIM(eta, clip_x0=True).table(process, schedules.Linspace(7)(1000))
        recorded = engine.sample(sampler, table, 5, SHAPE, seed=seed, batch_size=4)
        *_, last = engine.trajectory(sampler, table, 5, SHAPE, seed=seed)
        assert (recorded - last.x).norm() / last.x.norm() < 0.02  # bfloat16, in batches of 4 and of 5
        unet.conv_out.weight.data.mul_(0.9)
        sampler.refresh(unet)
    alone = engine.sample(sampler, table, 1, SHAPE, seed=seed, batch_size=4)
    assert torch.equal(alone, engine.sample(sampler, table, 5, SHAPE, seed=seed, batch_size=4)[:1])


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("solver", [solvers.UniPC(), solvers.SASolver(), solvers.Heun(churn=10.0), solvers.Restart()])
def test_a_recorded_step_of_real_times_is_the_step(unet, process, solver):
    """Also right after a recording of integer times of the same size, and with noise that has keys of its own."""
    from skipstone.network.fused import Sampler

    sampler = Sampler(unet, 1000, torch.float32)
    whole = solvers.DDIM(1.0).table(process, schedules.Linspace(7)(1000))
    before = engine.sample(sampler, whole, 5, SHAPE, batch_size=4)
    table = solver.table(process, schedules.Karras(7, process.betas)(1000))
    recorded = engine.sample(sampler, table, 5, SHAPE, batch_size=4)
    *_, last = engine.trajectory(sampler, table, 5, SHAPE)
    assert (recorded - last.x).norm() / last.x.norm() < 1e-3
    assert torch.equal(before, engine.sample(sampler, whole, 5, SHAPE, batch_size=4))


@pytest.mark.gpu
@on_gpu
def test_a_recorded_guided_step_is_the_step(process):
    """Also where other labels, and no guidance, are asked for from the same network in between."""
    from skipstone.network.fused import Sampler

    torch.manual_seed(0)
    net = UNet(16, 3, base=16, multipliers=(1, 2), blocks=1, attention=(8,), classes=3).to("cuda")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    sampler = Sampler(net.to(memory_format=torch.channels_last), 1000, torch.float32)
    table = solvers.DDIM(1.0, clip_x0=True).table(process, schedules.Linspace(7)(1000))
    for labels in (torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 0, 1, 3])):
        for guidance in (2.0, None):
            asked = dict(labels=labels, guidance=guidance)
            recorded = engine.sample(sampler, table, 5, SHAPE, batch_size=4, **asked)
            *_, last = engine.trajectory(sampler, table, 5, SHAPE, **asked)
            assert (recorded - last.x).norm() / last.x.norm() < 1e-3


@pytest.mark.gpu
@on_gpu
def test_training_from_a_recording_is_training_step_by_step(unet, process, monkeypatch):
    """The same losses and weights, to the rounding of sums that a GPU takes in any order; dropout's masks included."""
    ends = {}
    for recorded in (True, False):
        monkeypatch.setattr(DiffusionModule, "_recorded", recorded)
        module = DiffusionModule(copy.deepcopy(unet), process, tiny.RECIPE, 0, flip=True, kernels=True)
        losses, recordings = [], []

        class Watch(lightning.Callback):
            def on_train_batch_end(
                self, trainer, module, outputs, batch, batch_idx, losses=losses, recordings=recordings
            ):
                losses.append(outputs["loss"].item())
                recordings.append(module._recording)

        torch.manual_seed(0)
        batches = [torch.randint(256, (4, *SHAPE), dtype=torch.uint8) for _ in range(6)]
        trainer = lightning.Trainer(
            accelerator="gpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()], precision="bf16-mixed",
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
        assert all((recording is not None) == recorded for recording in recordings)
        ends[recorded] = torch.tensor(losses), torch.cat([p.detach().flatten() for p in module.net.parameters()])
    torch.testing.assert_close(ends[True][0], ends[False][0], rtol=1e-3, atol=1e-4)
    start = torch.cat([p.detach().flatten().cpu() for p in unet.parameters()])  # where Lightning leaves what it trained
    moved = (ends[False][1] - start).norm()
    assert (ends[True][1] - ends[False][1]).norm() < 0.1 * moved
