"""Tables inside pipelines of diffusers: the images of engine.sample, from the same start noise."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from shell import ROOT

from skipstone import EDM, ForwardProcess, engine, noise, schedules, solvers
from skipstone.diffusers import TableScheduler
from skipstone.solvers import StepTable

PROCESS = ForwardProcess(noise.linear())
LINSPACE = schedules.Linspace(6)(1000)
KARRAS = schedules.Karras(6, PROCESS.betas)(1000)
N = 2
TABLES = {
    "ddim": solvers.DDIM().table(PROCESS, LINSPACE),
    "ddim, clipped": solvers.DDIM(clip_x0=True).table(PROCESS, LINSPACE),
    "dpm_solver_pp2": solvers.DPMSolverPP(order=2).table(PROCESS, LINSPACE),
    "unipc": solvers.UniPC().table(PROCESS, LINSPACE),
    "heun": solvers.Heun().table(PROCESS, LINSPACE),
    "unipc, real times": solvers.UniPC(order=3).table(PROCESS, KARRAS),
    "heun, real times": solvers.Heun().table(PROCESS, KARRAS),
    "adams_bashforth4": solvers.AdamsBashforth(4).table(PROCESS, KARRAS),
    "afs": solvers.AFS(solvers.DDIM()).table(PROCESS, LINSPACE),
    "edm": solvers.Heun().table(EDM(), schedules.TimeUniform(4)(1000)),
}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    ).eval()


def images(pipeline_class, unet, scheduler, **how):
    pipeline = pipeline_class(unet, DDPMScheduler())
    pipeline.scheduler = scheduler  # DDIMPipeline makes a DDIMScheduler of what it is given
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    steps = len(scheduler.timesteps)
    done = pipeline(N, generator=generator, num_inference_steps=steps, output_type="np", **how)
    return torch.from_numpy(done.images).permute(0, 3, 1, 2)


def ours(unet, table):
    generator = torch.Generator().manual_seed(5)
    start = randn_tensor((N, 1, 8, 8), generator=generator)
    z = None
    if table.stochastic:  # drawn in the order in which the rows run
        z = torch.zeros(len(table.t), N, 1, 8, 8)
        for i in table.s.nonzero().flatten().tolist():
            z[i] = randn_tensor((N, 1, 8, 8), generator=generator)
    x = engine.sample(lambda x, t: unet(x, t).sample, table, start=start, step_noise=z)
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("pipeline", [DDPMPipeline, DDIMPipeline])
@pytest.mark.parametrize("name", TABLES)
def test_a_pipeline_gives_our_images(unet, pipeline, name):
    theirs = images(pipeline, unet, TableScheduler(TABLES[name]))
    expected = ours(unet, TABLES[name])
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-6)
    assert float(expected.std()) > 0.05  # they are not all clamped


@pytest.mark.parametrize(
    "solver", [solvers.DDIM(eta=1.0), solvers.SDEDPMSolverPP(), solvers.Restart(), solvers.Heun(churn=20.0)]
)
def test_noise_is_the_generators(unet, solver):
    table = solver.table(PROCESS, KARRAS)
    assert table.stochastic
    torch.testing.assert_close(images(DDPMPipeline, unet, TableScheduler(table)), ours(unet, table), rtol=0, atol=1e-6)


def test_a_scheduler_is_used_again_after_set_timesteps(unet):
    scheduler = TableScheduler(TABLES["unipc"])
    assert torch.equal(images(DDPMPipeline, unet, scheduler), images(DDPMPipeline, unet, scheduler))


@pytest.mark.parametrize("name", ["unipc, real times", "afs", "edm"])
def test_saved_and_loaded_it_is_the_same_to_the_last_bit(tmp_path, name):
    TableScheduler(TABLES[name]).save_pretrained(tmp_path)
    loaded = TableScheduler.from_pretrained(tmp_path)
    for column in dataclasses.fields(StepTable):
        kept, was = getattr(loaded._table, column.name), getattr(TABLES[name], column.name)
        assert torch.equal(kept, was) if isinstance(was, torch.Tensor) else kept == was
    again = TableScheduler.from_config(loaded.config)
    assert torch.equal(again.timesteps, loaded.timesteps)
    file = tmp_path / "table.json"
    solvers.save_table(TABLES[name], file)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["table"] == json.loads(file.read_text())
    assert torch.equal(TableScheduler(json.loads(file.read_text())).timesteps, TABLES[name].asked)


def test_a_pipeline_is_saved_and_loaded_with_it(tmp_path, unet):
    scheduler = TableScheduler(TABLES["unipc"])
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    loaded = DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.scheduler, TableScheduler)
    assert torch.equal(images(DDPMPipeline, loaded.unet, loaded.scheduler), images(DDPMPipeline, unet, scheduler))


def test_what_pipelines_read(unet):
    scheduler = TableScheduler(TABLES["edm"])
    assert scheduler.init_noise_sigma == TABLES["edm"].start_scale < 1
    assert TableScheduler(TABLES["ddim"]).init_noise_sigma == 1
    assert TableScheduler(TABLES["ddim"]).timesteps.tolist() == list(LINSPACE[::-1])
    assert TableScheduler(TABLES["heun"]).timesteps.dtype == torch.int64
    assert scheduler.timesteps.dtype == torch.float64
    x = torch.ones(1, 1, 2, 2)
    assert scheduler.scale_model_input(x, 3) is x


def test_noise_is_added_at_the_times_of_the_table():
    scheduler, x0 = TableScheduler(TABLES["ddim"]), torch.randn(2, 1, 8, 8)
    z, t = torch.randn(2, 1, 8, 8), torch.tensor([LINSPACE[3], LINSPACE[1]])
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02).add_noise(x0, z, t)
    torch.testing.assert_close(scheduler.add_noise(x0, z, t), theirs, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="must be among those of the table"):
        scheduler.add_noise(x0, z, torch.tensor([3, LINSPACE[1]]))


def test_a_pipeline_may_begin_in_the_middle(unet):
    """As from image to image: by the index that is set, or by the first timestep."""
    table, x = TABLES["ddim"], torch.randn(N, 1, 8, 8)
    rest = {c.name: getattr(table, c.name) for c in dataclasses.fields(StepTable)}
    rest = StepTable(**{name: v[2:] if isinstance(v, torch.Tensor) else v for name, v in rest.items()})
    expected = engine.sample(lambda x, t: unet(x, t).sample, rest, start=x)
    for sets in (True, False):
        scheduler, state = TableScheduler(table), x
        if sets:
            scheduler.set_begin_index(2)
        with torch.no_grad():
            for t in scheduler.timesteps[2:]:
                (state, x0) = scheduler.step(unet(state, t).sample, t, state, return_dict=False)
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(state, x0, rtol=0, atol=1e-6)
        assert scheduler.step_index == len(table.t)


def test_what_cannot_be_is_refused(unet):
    x = torch.zeros(N, 1, 8, 8)
    scheduler = TableScheduler(TABLES["unipc"])
    with pytest.raises(ValueError, match=r"num_inference_steps=50 is not allowed.*num_inference_steps=6\.$"):
        scheduler.set_timesteps(50)
    pipeline = DDPMPipeline(unet, scheduler)
    with pytest.raises(ValueError, match="num_inference_steps=1000 is not allowed"):
        pipeline(N)
    with pytest.raises(ValueError, match="timestep=998 is not the next"):
        scheduler.step(x, 998, x)
    with pytest.raises(ValueError, match="reads what earlier rows left"):
        scheduler.step(x, scheduler.timesteps[2], x)
    with pytest.raises(ValueError, match="eta and use_clipped_model_output are not allowed"):
        scheduler.step(x, 999, x, eta=0.5)
    with pytest.raises(ValueError, match="must predict eps alone"):
        scheduler.step(torch.zeros(N, 2, 8, 8), 999, x)
    scheduler.step(x, 999, x)
    with pytest.raises(ValueError, match="timestep=999 is not the next"):
        scheduler.step(x, 999, x)
    with pytest.raises(ValueError, match='the configuration is no step table: "format"'):
        TableScheduler({"rows": []})


def test_half_precision_keeps_the_rows_in_float32():
    table = TABLES["dpm_solver_pp2"]
    scheduler, state = TableScheduler(table), torch.randn(N, 1, 8, 8, dtype=torch.float16)
    steps = engine.trajectory(lambda x, t: torch.tanh(x.half()).float(), table, start=state.float())
    for t, step in zip(scheduler.timesteps, steps, strict=True):
        out = scheduler.step(torch.tanh(state), t, state)
        state = out.prev_sample
        assert state.dtype == out.pred_original_sample.dtype == torch.float16
        torch.testing.assert_close(state.float(), step.x, rtol=0.02, atol=0.02)
    assert scheduler._history[0].dtype == torch.float32


def test_without_diffusers_one_sentence_says_so():
    code = "import sys; sys.modules['diffusers'] = None\nimport skipstone.diffusers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith(
        "skipstone.diffusers needs diffusers, which is not installed: pip install diffusers."
    )
    code = "import sys, skipstone, skipstone.solvers, skipstone.engine; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_example_of_the_docs_runs(unet):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "solvers.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "diffusers" in block)
    space = {"unet": unet}
    exec(example, space)
    assert len(space["images"]) == 4
