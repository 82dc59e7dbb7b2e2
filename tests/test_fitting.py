"""Tables fitted to a model: what is corrected, by what it is measured, and that nothing worse comes out."""

import dataclasses

import pytest
import torch
from torch import nn

from skipstone import EDM, ForwardProcess, engine, noise, schedules, solvers
from skipstone.data import ImageSet, to_unit
from skipstone.evaluation.metrics import RandomFeatures
from skipstone.fitting.corrections import Corrections, Form
from skipstone.fitting.fit import Fitter, Settings, longer
from skipstone.fitting.kept import KeptTables
from skipstone.fitting.objective import Objective
from skipstone.fitting.pairs import solve
from skipstone.fitting.perception import Perception

PROCESS = ForwardProcess(noise.linear())
SHAPE = (1, 8, 8)
STEPS = schedules.Exp(5)(1000)
BASES = [
    solvers.DDIM(),
    solvers.DPMSolverPP(3),
    solvers.UniPC(3),
    solvers.DEIS(3),
    solvers.AdamsBashforth(4, "published"),
    solvers.BELM(),
    solvers.ProbabilityFlow(),
]
SMALL = Settings(iterations=12, batch_size=8, held_out=16)


def eyes(seed=0):
    """A network to look with: a random one, of two layers."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6))
    return Perception([net.eval().requires_grad_(False)], "random")


@pytest.fixture(scope="module")
def model():
    """The exact eps of a mixture of two Gaussians, so that steps have errors."""

    def eps(x, t):
        alpha_bar = PROCESS.alpha_bar(t.detach()).view(-1, 1, 1, 1).to(x.dtype)
        variance = 0.04 * alpha_bar + 1 - alpha_bar
        mean = torch.tanh(0.8 * alpha_bar.sqrt() * x.mean(dim=(2, 3), keepdim=True) * 64 / variance) * 0.8
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance

    return eps


@pytest.fixture(scope="module")
def pairs(model):
    return solve(model, PROCESS, SHAPE, 48, seed=0)


@pytest.mark.parametrize("solver", BASES, ids=lambda solver: solver.name)
@pytest.mark.parametrize("process", [PROCESS, EDM(1000)], ids=["linear", "edm"])
def test_zero_corrections_are_the_base(solver, process, model):
    base = solver.table(process, schedules.Karras(5, process)(1000))
    table = Corrections(Form.of(base, process), process)().table(process)
    start = base.start_scale * torch.randn(2, *SHAPE, dtype=torch.float64)
    ours, theirs = (engine.sample(model, each, start=start, dtype=torch.float64) for each in (table, base))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(table.asked, base.asked.double(), rtol=1e-9, atol=1e-6)


def moved(process=PROCESS):
    torch.manual_seed(1)
    base = solvers.DPMSolverPP(2).table(process, STEPS)
    corrections = Corrections(Form.of(base, process), process)
    with torch.no_grad():
        for parameter in corrections.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return base, corrections


def test_what_is_kept_whatever_is_corrected():
    base, corrections = moved()
    with torch.no_grad():
        table = corrections().table(PROCESS)
    assert (table.t[0], table.p[-1], table.nfe) == (999, -1, base.nfe)
    assert bool((table.t > table.p).all())
    assert bool(((table.asked >= 0) & (table.asked <= 999)).all())
    proof = solvers.prove(table, PROCESS)
    assert proof.mean < 1e-12
    assert proof.variance > 1e-3
    assert table.c.shape[1] == table.nfe - 1
    solvers.portable.require_process(table, PROCESS)


def test_gradients_are_those_of_finite_differences():
    _, corrections = moved()
    conv = nn.Conv2d(1, 1, 3, padding=1).double()

    def eps(x, t):
        return torch.tanh(conv(x)) * (1 + t.view(-1, 1, 1, 1) / 1000)

    start = torch.randn(2, *SHAPE, dtype=torch.float64)

    def end():
        table = corrections().table(PROCESS)
        return engine.sample(eps, table, start=start, dtype=torch.float64, grad=True).square().mean()

    end().backward()
    for parameter in corrections.parameters():
        direction, h = torch.randn_like(parameter), 1e-6
        both = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * h * direction)
                both.append(end())
                parameter.sub_(sign * h * direction)
        assert float((parameter.grad * direction).sum()) == pytest.approx(float(both[0] - both[1]) / 2 / h, rel=1e-4)


@pytest.mark.parametrize(
    ("solver", "steps", "says"),
    [
        (solvers.DDIM(eta=1.0), STEPS, "it adds noise"),
        (solvers.SDEDPMSolverPP(), STEPS, "it adds noise"),
        (solvers.Heun(), STEPS, "it has not one evaluation per step"),
        (solvers.EDICT(), STEPS, "it has not one evaluation per step"),
        (solvers.AFS(solvers.DDIM()), STEPS, "it has not one evaluation per step"),
        (solvers.DDIM(clip_x0=True), STEPS, "it clips x0"),
        (solvers.DDIM(to_data=False), STEPS, "it does not take the last step to clean data"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_cannot_be_a_base(solver, steps, says):
    with pytest.raises(ValueError, match=says):
        Form.of(solver.table(PROCESS, steps), PROCESS)


def test_a_base_that_makes_images_brighter_is_refused():
    table = solvers.DDIM().table(PROCESS, STEPS)
    with pytest.raises(ValueError, match="it misses Lemma 1's mean"):
        Form.of(dataclasses.replace(table, b=1.01 * table.b), PROCESS)


def test_pairs_are_the_fine_solution_and_lie_on_its_way(model, pairs):
    fine = solvers.DPMSolverPP(3).table(PROCESS, schedules.Polynomial(300)(1000))
    end = engine.sample(model, fine, start=pairs.start)
    assert float((pairs.end - end).abs().max()) < 0.05
    rows = torch.tensor([3, 20])
    for t in (999.0, 640.3, 77.7, 0.5):
        states = [step.x for step in engine.trajectory(model, fine, start=pairs.start[rows]) if step.p >= t]
        near = states[-1] if states else pairs.start[rows]
        assert float((pairs.at(rows, torch.tensor(t), PROCESS) - near).abs().max()) < 0.1
    ours = {float(x) for x in pairs.start[:, 0, 0, 0]}
    theirs = engine.sample(lambda x, t: 0 * x, solvers.DDIM(to_data=False).table(PROCESS, (998, 999)), 48, SHAPE)
    assert not ours & {float(x) for x in theirs[:, 0, 0, 0]}


def test_the_objective_is_0_for_the_fine_solution_and_about_1_for_others(model, pairs):
    objective = Objective(pairs, eyes(), PROCESS, moments=1.0, points=1.0)
    fine = solvers.DPMSolverPP(2).table(PROCESS, schedules.Polynomial(50)(1000))
    rows = torch.arange(32)
    states = [step.x for step in engine.trajectory(model, fine, start=pairs.start[rows])]
    assert float(objective(fine, states, rows)) < 1e-3
    alone = Objective(pairs, eyes(), PROCESS, moments=0.0)
    assert 0.5 < float(alone(fine, [pairs.end[rows.flip(0)]], rows)) < 4


def test_moments_of_the_data_move_the_goal_and_start_noise_still_cancels(pairs):
    def value(data, images, rows):
        objective = Objective(pairs, eyes(), PROCESS, data=data)
        return float(objective(solvers.DDIM().table(PROCESS, STEPS), [images], rows))

    rows = torch.arange(20)
    elsewhere = pairs.end[rows].flip(-1) + 0.01
    assert value(pairs.end, elsewhere, rows) == pytest.approx(value(None, elsewhere, rows), rel=1e-5)
    (net,) = eyes()(pairs.end)
    (of_data,) = eyes()(pairs.end + 0.1)
    apart = (of_data[-1] - net[-1]).mean(dim=0).square().sum() / net[-1].var(dim=0).sum()
    for some in (rows, rows + 20):  # the teacher itself is as far from the data on any batch
        off = torch.cov(of_data[-1].T) - torch.cov(net[-1].T)
        expected = apart + off.square().sum() / torch.cov(net[-1].T).square().sum()
        assert value(pairs.end + 0.1, pairs.end[some], some) == pytest.approx(float(expected), rel=1e-3)


def test_a_fit_is_better_on_what_it_has_not_seen_and_the_same_again(model, pairs):
    base = solvers.DDIM().table(PROCESS, schedules.Trailing(3)(1000))
    results = []
    for _ in range(2):
        results.append(Fitter(model, PROCESS, Objective(pairs, eyes(), PROCESS), SMALL).fit("ddim", base))
    fit, again = results
    assert fit.helped
    assert fit.after < 0.8 * fit.before
    assert [row["iteration"] for row in fit.curve] == [0, 10, 12]
    assert fit.after == min(row["held_out"] for row in fit.curve)
    for field in dataclasses.fields(solvers.StepTable):
        ours, theirs = getattr(fit.table, field.name), getattr(again.table, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_a_fit_that_does_not_help_gives_the_base(model, pairs):
    base = solvers.DPMSolverPP(2).table(PROCESS, schedules.Polynomial(50)(1000))  # the teacher itself
    wild = dataclasses.replace(SMALL, learning_rate=3.0)
    fit = Fitter(model, PROCESS, Objective(pairs, eyes(), PROCESS), wild).fit("fine", base)
    assert not fit.helped
    assert fit.table is base
    assert fit.before == fit.after


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_a_gpu_is_better_than_its_base(net):
    net = net.cuda()
    pairs = solve(net, PROCESS, (1, 16, 16), 32, seed=0)
    eyes = Perception([RandomFeatures(1, seed=1).layers.cuda()], "random")
    base = solvers.DDIM().table(PROCESS, schedules.Trailing(3)(1000))
    fit = Fitter(net, PROCESS, Objective(pairs, eyes, PROCESS, points=0.1), SMALL).fit("ddim", base)
    assert fit.helped
    assert fit.table.a.device.type == "cpu"


def test_a_longer_table_begins_as_the_shorter_one(model, pairs):
    base = solvers.DDIM().table(PROCESS, (200, 600, 999))
    fitter = Fitter(model, PROCESS, Objective(pairs, eyes(), PROCESS), SMALL)
    tables = longer(base, PROCESS)
    assert [table.nfe for table in tables.values()] == [4, 4, 4]
    for table in tables.values():
        proof = solvers.prove(table, PROCESS)
        assert max(proof.mean, proof.variance) < 1e-10  # as DDIM's
    times = [torch.cat([table.t, table.p[-1:]]).tolist() for table in tables.values()]
    assert all({999.0, 600.0, 200.0, -1.0} < set(each) for each in times)
    assert fitter.measure(tables[fitter.best(tables)]) < fitter.measure(base)


def test_a_table_scheduler_of_diffusers_gives_the_same_images():
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    from skipstone.diffusers import TableScheduler

    with torch.no_grad():
        table = moved()[1]().table(PROCESS)
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,))
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4, **blocks
    ).eval()
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    pipeline.scheduler = TableScheduler(table)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        2, generator=torch.Generator().manual_seed(5), num_inference_steps=table.nfe, output_type="np"
    ).images
    start = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(5))
    ours = engine.sample(lambda x, t: unet(x, t).sample, table, start=start)
    torch.testing.assert_close(
        torch.from_numpy(theirs).permute(0, 3, 1, 2), (ours / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5
    )


def test_data_without_labels_are_seen_by_untrained_networks_that_judge_nothing(tmp_path):
    pixels = torch.randint(256, (20, 1, 16, 16), dtype=torch.uint8)
    perception = Perception.of(ImageSet("plain", pixels[:16], pixels[16:]), tmp_path, torch.device("cpu"), 5)
    assert perception.name == "untrained networks of seeds (1, 2)"
    found = perception(to_unit(pixels))
    assert [len(net) for net in found] == [4, 4]
    judge = RandomFeatures(1)(pixels).float()
    for net in found:
        assert net[-1].shape == judge.shape
        assert float((net[-1].detach() - judge).abs().max()) > 0.1


def test_a_kept_table_is_found_by_nfe_and_refused_for_another_network(tmp_path):
    table = solvers.DDIM().table(PROCESS, STEPS)
    kept = KeptTables(tmp_path, "ours", "python scripts/fit.py")
    path = kept.write(table, {"base": "ddim"})
    assert path == tmp_path / "tables" / f"fitted-nfe{table.nfe}.json"
    assert kept.nfes() == [table.nfe]
    assert torch.equal(kept.read(table.nfe, PROCESS).a, table.a)
    with pytest.raises(ValueError, match=f"for nfe=9; there are those for nfe={table.nfe}: run python scripts/fit.py"):
        kept.read(9, PROCESS)
    with pytest.raises(ValueError, match="was fitted to another model"):
        KeptTables(tmp_path, "others", "python scripts/fit.py").read(table.nfe, PROCESS)
    with pytest.raises(ValueError, match=f": run skipstone fit run={tmp_path.name} nfe=9"):
        KeptTables(tmp_path, "ours", "skipstone fit").read(9, PROCESS)
    path.rename(kept.path(9))
    with pytest.raises(ValueError, match="or for another nfe"):
        kept.read(9, PROCESS)
