"""Guidance against its closed form, eps_null + w (eps_label − eps_null), in loops of its own in float64."""

import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch

from skipstone import UNet, adapt, engine, rng, schedules, solvers
from skipstone.engine.step import evaluating
from skipstone.network import placement
from skipstone.rng import Stream
from skipstone.solvers import guided

SHAPE, N, W = (1, 4, 4), 6, 2.5
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
STEPS = [0, 40, 150, 300, 480, 700, 850, 999]


class Toy:
    """Smooth and not linear in x, other for each label, and for 3 the unconditional one."""

    classes, null_label = 3, 3

    def __init__(self):
        self.asked = []

    def __call__(self, x, t, labels=None):
        labels = torch.full_like(t, 3, dtype=torch.int64) if labels is None else labels
        self.asked.append(labels)
        shift = (0.7 * labels.to(x.dtype) - 1).view(-1, 1, 1, 1)
        return torch.sin(x + shift) * (0.3 + t.to(x.dtype).view(-1, 1, 1, 1) / 1000) + 0.2 * shift


def eps_guided(x, t, labels=LABELS, w=W, interval=(-math.inf, math.inf)):
    toy, times = Toy(), torch.full((len(x),), t)
    own = toy(x, times, labels)
    if not interval[0] <= t <= interval[1]:
        return own
    null = toy(x, times, torch.full_like(labels, 3))
    return null + w * (own - null)


def start(n=N):
    return rng.normal(0, Stream.START, torch.arange(n), SHAPE, dtype=torch.float64)


def noise_of(t):
    return rng.normal(0, Stream.STEP, torch.arange(N), SHAPE, t, torch.float64)


def loop(process, table, clip, eps=eps_guided):
    """The unguided table's columns, run on the guided eps, with every h kept."""
    x, left = start(), []
    for i in range(len(table.t)):
        t = table.t[i].item()
        x0 = (x - table.sqrt_one_minus_alpha_bar[i] * eps(x, t)) / table.sqrt_alpha_bar[i]
        x0 = x0.clamp(-1, 1) if clip else x0
        past = sum(table.c[i, k] * left[-1 - k] for k in range(min(table.c.shape[1], len(left))))
        h = table.u[i] * x + table.v[i] * x0
        x = table.a[i] * x + table.b[i] * x0 + past + (table.s[i] * noise_of(t) if table.s[i] else 0)
        left.append(h)
    return x


def ddim(process, eta, clip, eps=eps_guided):
    """Eq. 12, from the cumulated products."""
    x = start()
    bars = {-1: torch.tensor(1.0, dtype=torch.float64), **dict(enumerate(torch.cumprod(1 - process.betas, 0)))}
    for t, p in pairwise([*STEPS[::-1], -1]):
        now, then = bars[t], bars[p]
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
        x0 = (x - (1 - now).sqrt() * eps(x, t)) / now.sqrt()
        x0 = x0.clamp(-1, 1) if clip else x0
        direction = (x - now.sqrt() * x0) / (1 - now).sqrt()
        x = then.sqrt() * x0 + (1 - then - sigma**2).clamp(min=0).sqrt() * direction + sigma * noise_of(t)
    return x


def dpm2m(process, clip, eps=eps_guided):
    """Lu et al. 2022b, algorithm 2, to clean data by DDIM, whose first step is of order 1."""
    x, last = start(), None
    bars = torch.cumprod(1 - process.betas, 0)
    lam = {t: 0.5 * torch.log(bars[t] / (1 - bars[t])) for t in STEPS}
    for t, p in pairwise([*STEPS[::-1], -1]):
        x0 = (x - (1 - bars[t]).sqrt() * eps(x, t)) / bars[t].sqrt()
        x0 = x0.clamp(-1, 1) if clip else x0
        if p == -1:
            return x0
        h, d = lam[p] - lam[t], x0
        if last is not None:
            r = last[1] / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * last[0]
        x = (1 - bars[p]).sqrt() / (1 - bars[t]).sqrt() * x - bars[p].sqrt() * torch.expm1(-h) * d
        last = x0, h
    return x


SOLVERS = {
    "ddim": lambda clip: solvers.DDIM(0.0, clip_x0=clip),
    "ddpm": lambda clip: solvers.DDIM(1.0, clip_x0=clip),
    "dpm2m": lambda clip: solvers.DPMSolverPP(2, clip_x0=clip),
    "unipc": lambda clip: solvers.UniPC(clip_x0=clip),
}


def expected(name, process, table, clip):
    if name in ("ddim", "ddpm"):
        return ddim(process, float(name == "ddpm"), clip)
    return dpm2m(process, clip) if name == "dpm2m" else loop(process, table, clip)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_every_engine_gives_the_closed_form(name, clip, process):
    """By sample, trajectory and sample_many, packed beside the same cell without guidance and another's."""
    table = SOLVERS[name](clip).table(process, STEPS)
    wanted = expected(name, process, table, clip)
    asked = dict(labels=LABELS, dtype=torch.float64)
    x = engine.sample(Toy(), table, N, SHAPE, guidance=W, **asked)
    close = dict(rtol=1e-9, atol=1e-9 * max(1.0, wanted.abs().max().item()))
    torch.testing.assert_close(x, wanted, **close)
    torch.testing.assert_close(engine.sample(Toy(), table, N, SHAPE, guidance=W, batch_size=4, **asked), x, **close)
    *_, last = engine.trajectory(Toy(), table, N, SHAPE, guidance=W, **asked)
    torch.testing.assert_close(last.x, wanted, **close)
    other = solvers.DDIM(1.0).table(process, [*STEPS[::2], 999])
    tables = [table, guided(table, W), other, guided(other, 0.0)]
    for slots in (5, 24):
        cells = engine.sample_many(Toy(), tables, N, SHAPE, batch_size=slots, **asked)
        for cell, own in zip(cells, tables, strict=True):
            torch.testing.assert_close(cell, engine.sample(Toy(), own, N, SHAPE, **asked), **close)
        torch.testing.assert_close(cells[1], wanted, **close)


@pytest.mark.parametrize("name", SOLVERS)
def test_an_interval_guides_within_it_and_costs_nothing_elsewhere(name, process):
    table = SOLVERS[name](True).table(process, STEPS)
    within = guided(table, W, [150, 700])
    assert within.nfe == table.nfe + 4
    wanted = loop(process, table, True, lambda x, t: eps_guided(x, t, interval=(150, 700)))
    toy = Toy()
    x = engine.sample(
        toy, table, N, SHAPE, labels=LABELS, dtype=torch.float64, guidance=W, guidance_interval=[150, 700]
    )
    torch.testing.assert_close(x, wanted, rtol=1e-9, atol=1e-8)
    assert [bool((labels == 3).all()) for labels in toy.asked] == within.null.tolist()
    assert sum(map(len, toy.asked)) == N * within.nfe


@pytest.mark.parametrize("name", SOLVERS)
def test_the_label_alone_and_no_label_cost_one_evaluation(name, process):
    table = SOLVERS[name](False).table(process, STEPS)
    plain = dict(n=N, shape=SHAPE, dtype=torch.float64)
    for weight, labels in ((1.0, LABELS), (0.0, torch.full_like(LABELS, 3))):
        made = guided(table, weight)
        assert (made.nfe, len(made.t)) == (table.nfe, len(table.t))
        x = engine.sample(Toy(), made, labels=LABELS, **plain)
        assert torch.equal(x, engine.sample(Toy(), table, labels=labels, **plain))
    assert torch.equal(engine.sample(Toy(), guided(table, 0.0), **plain), engine.sample(Toy(), table, **plain))


def test_a_trajectory_shows_both_halves(process):
    table = solvers.DDIM(0.0).table(process, STEPS)
    steps = list(engine.trajectory(Toy(), table, N, SHAPE, labels=LABELS, guidance=W, dtype=torch.float64))
    assert len(steps) == 2 * len(table.t)
    x = start()
    for label, both in zip(steps[::2], steps[1::2], strict=True):
        assert label.t == label.p == both.t
        assert torch.equal(label.x, x)
        x = both.x
    own = Toy()(start(), torch.full((N,), 999), LABELS)
    bar = process.alpha_bar(999)
    torch.testing.assert_close(steps[0].x0, (start() - (1 - bar).sqrt() * own) / bar.sqrt())


def test_guidance_leaves_the_noise_of_the_steps(process):
    table = solvers.DDIM(1.0).table(process, STEPS)
    made = guided(table, W)
    assert made.noise_keys[~made.first_halves].tolist() == table.noise_keys.tolist()


@pytest.mark.parametrize(
    "solver",
    [solvers.DEIS(), solvers.AdamsBashforth(), solvers.Heun(), solvers.SASolver(), solvers.Restart(), solvers.EDICT(),
     solvers.BELM(), solvers.AFS(solvers.DPMSolverPP(3))],
    ids=lambda solver: solver.name,
)  # fmt: skip
def test_any_table_can_be_guided(solver, process):
    """Where both labels say the same, guidance changes nothing: a history that is off by a row would."""
    table = solver.table(process, schedules.Karras(9, process.betas)(1000))

    class Same(Toy):
        def __call__(self, x, t, labels=None):
            return super().__call__(x, t, torch.zeros(len(x), dtype=torch.int64))

    asked = dict(n=N, shape=SHAPE, labels=LABELS, dtype=torch.float64)
    x = engine.sample(Same(), table, **asked)
    made = guided(table, W)
    assert made.nfe == 2 * table.nfe
    torch.testing.assert_close(engine.sample(Same(), made, **asked), x, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(engine.sample_many(Same(), [made], **asked)[0], x, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(engine.sample(Toy(), made, **asked), engine.sample(Toy(), table, **asked), atol=1e-3)


def test_a_guided_sample_has_gradients(process):
    table = solvers.DPMSolverPP(2).table(process, STEPS)
    z = start().requires_grad_()
    x = engine.sample(Toy(), table, start=z, labels=LABELS, guidance=W, dtype=torch.float64, grad=True)
    plain = engine.sample(Toy(), table, start=z.detach(), labels=LABELS, guidance=W, dtype=torch.float64)
    torch.testing.assert_close(x, plain)
    direction = start().flip(0)
    (g,) = torch.autograd.grad((x * direction).sum(), z)
    moved = [
        engine.sample(Toy(), table, start=z.detach() + h * direction, labels=LABELS, guidance=W, dtype=torch.float64)
        for h in (1e-8, -1e-8)
    ]
    slope = ((moved[0] - moved[1]) * direction).sum() / 2e-8
    assert (g * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)


def test_inversion_takes_labels(process):
    table = solvers.DDIM(0.0, to_data=False).table(process, range(0, 1000, 50))
    z = 0.1 * start()
    x = engine.sample(Toy(), table, start=z, labels=LABELS, dtype=torch.float64)
    back, _ = engine.invert(Toy(), table, x, labels=LABELS, tolerance=1e-10)
    torch.testing.assert_close(back, z, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(engine.invert(Toy(), table, x)[0], z, atol=1e-2)


def test_a_networks_labels_reach_it_in_every_form_it_is_placed_in(process):
    torch.manual_seed(0)
    net = UNet(4, 1, base=8, multipliers=(1,), blocks=1, attention=(), classes=3).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    table = solvers.DDIM(0.0).table(process, STEPS)
    x = engine.sample(net, table, N, SHAPE, labels=LABELS, guidance=W)
    for label in range(3):
        alone = engine.sample(net, table, N, SHAPE, labels=torch.full((N,), label), guidance=W)
        torch.testing.assert_close(alone[label == LABELS], x[label == LABELS], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(alone, x, atol=1e-3)
    mixed = placement.place(net, placement.alone("cpu", precision="bf16-mixed", compile=False), 1000)
    assert (engine.sample(mixed, table, N, SHAPE, labels=LABELS, guidance=W) - x).norm() < 0.1 * x.norm()
    adapted = engine.sample(adapt(net), table, N, SHAPE, labels=LABELS, guidance=W)
    torch.testing.assert_close(adapted, x, rtol=1e-3, atol=1e-2)
    with evaluating(net):
        assert engine.not_finite(net, table, x, labels=LABELS) is None


def test_portable_tables_keep_it_and_old_files_are_read(process, tmp_path):
    table = solvers.UniPC().table(process, STEPS)
    made = guided(table, W, [150, 700])
    for name, each, version in (("plain", table, 1), ("guided", made, 2)):
        solvers.save_table(each, path := tmp_path / f"{name}.json")
        data = json.loads(path.read_text())
        assert (data["version"], {"w", "null"} <= data["rows"][0].keys()) == (version, version == 2)
        loaded = solvers.load_table(path, process)
        for field in dataclasses.fields(each):
            a, b = getattr(loaded, field.name), getattr(each, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    data["rows"][0]["w"] = 0.5
    del data["digest"]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"is damaged .*0 in the first row"):
        solvers.load_table(path)


class NoNull(Toy):
    null_label = None


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        (Toy(), dict(guidance=2.0), "guidance is towards a label: give labels"),
        (Toy(), dict(labels=LABELS[:3]), r"labels must be int64 \[6\], one per sample"),
        (Toy(), dict(labels=LABELS.float()), r"labels must be int64 \[6\].*float32"),
        (Toy(), dict(labels=LABELS + 2), r"labels has 4, and this model has the classes 0 \.\.\. 2"),
        (Toy(), dict(labels=LABELS - 1), r"labels has -1, and this model has the classes 0 \.\.\. 2"),
        (NoNull(), dict(labels=LABELS + 1), r"labels has 3, and this model has the classes"),
        (NoNull(), dict(labels=LABELS, guidance=2.0), "guidance needs a model that was also trained without labels"),
        (lambda x, t: x, dict(labels=LABELS), "labels is for a model with classes, and this one has none"),
        (lambda x, t: x, dict(guidance=2.0), "guidance is for a model with classes, and this one has none"),
        (Toy(), dict(labels=LABELS, guidance_interval=[1, 5]), "guidance_interval is where guidance is: give guidance"),
        (Toy(), dict(labels=LABELS, guidance=math.nan), "the weight of guidance must be a number, got nan"),
        (Toy(), dict(labels=LABELS, guidance=2.0, guidance_interval=[5, 1]), r"guidance_interval=\[5, 1\] must be"),
    ],
)
def test_what_cannot_be_asked_is_refused(model, arguments, sentence, process):
    table = solvers.DDIM(0.0).table(process, STEPS)
    for call in (engine.sample, engine.trajectory):
        with pytest.raises(ValueError, match=sentence):
            list(call(model, table, N, SHAPE, **arguments))
    with pytest.raises(ValueError, match=sentence):
        engine.sample_many(model, [table], N, SHAPE, **arguments)


def test_a_guided_table_is_not_guided_again_nor_proved(process):
    table = solvers.DDIM(0.0).table(process, STEPS)
    with pytest.raises(ValueError, match="guided already"):
        guided(guided(table, 2.0), 2.0)
    with pytest.raises(ValueError, match="proved as the table that it was made from"):
        solvers.prove(guided(table, 2.0), process)
