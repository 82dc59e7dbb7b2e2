"""Samples by number, images as starts, and known pixels: against the papers' loops, and against themselves packed."""

import math

import pytest
import torch

from skipstone import engine, noise, rng, schedules, solvers
from skipstone.process import EDM, ForwardProcess

SHAPE = (1, 16, 16)


@pytest.fixture
def table(process):
    return solvers.DDIM(eta=1.0).table(process, schedules.Exp(6)(1000))


@pytest.fixture(scope="module")
def x0():
    return 2 * torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0)) - 1


@pytest.fixture(scope="module")
def mask():
    """The left half is known, and of sample 3 the upper half."""
    mask = torch.zeros(5, *SHAPE, dtype=torch.bool)
    mask[..., :8] = True
    mask[3] = mask[3].mT.clone()
    return mask


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("slotted", [False, True])
def test_sample_k_alone_is_sample_k_of_the_whole_bit_for_bit(net, table, many, size, slotted):
    """Also of a network whose rounding depends on the place in the batch, here more than any real one's."""

    def by_slot(x, t):
        return torch.linspace(0.1, 0.2, len(x)).view(-1, 1, 1, 1) * x

    def sample(n, **how):
        asked, model = dict(seed=3, batch_size=size, **how), by_slot if slotted else net
        if many:
            return engine.sample_many(model, [table], n, SHAPE, **asked)[0]
        return engine.sample(model, table, n, SHAPE, **asked)

    whole = sample(10)
    for k in (1, 6, 9):
        assert torch.equal(sample(1, first=k), whole[k : k + 1])
    assert torch.equal(sample(7, first=2), whole[2:9])
    assert not torch.equal(whole[0], whole[1])


def test_a_trajectory_and_starts_of_ones_own_begin_at_first(net, table):
    whole = engine.sample(net, table, 6, SHAPE, batch_size=3)
    *_, last = engine.trajectory(net, table, 3, SHAPE, first=3)
    assert torch.equal(last.x, whole[3:])
    start = rng.normal(0, rng.Stream.START, torch.arange(4, 6), SHAPE)
    for run in (engine.sample, lambda net, table, **how: engine.sample_many(net, [table], **how)[0]):
        assert torch.equal(run(net, table, start=start, first=4, batch_size=3), whole[4:])
    bad = whole[3:].index_fill(0, torch.tensor([1]), math.nan)
    assert engine.not_finite(net, table, bad, first=3).samples == [4]


@pytest.mark.parametrize("first", [-1, 2**32 - 1])
def test_samples_that_there_are_not_are_refused(net, table, first):
    for run in (engine.sample, lambda net, table, *how, **more: engine.sample_many(net, [table], *how, **more)):
        with pytest.raises(ValueError, match=f"first={first} must be at least 0, and at most 4294967296 less"):
            run(net, table, 2, SHAPE, first=first)


@pytest.mark.parametrize("process", [ForwardProcess(noise.linear()), EDM()], ids=["ddpm", "edm"])
def test_an_image_is_diffused_to_where_the_table_starts(process, x0):
    steps = [t for t in schedules.TimeUniform(20)(1000) if t < 600]
    table = solvers.DPMSolverPP(2).table(process, steps)
    start = engine.diffused(table, x0.double(), seed=7, first=2)
    alpha_bar = process.alpha_bar(max(steps))
    z = rng.normal(7, rng.Stream.START, torch.arange(2, 7), SHAPE, dtype=torch.float64)
    torch.testing.assert_close(start, alpha_bar.sqrt() * x0.double() + (1 - alpha_bar).sqrt() * z, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="x0 must be finite floats"):
        engine.diffused(table, (x0 * 255).byte())


def gaussian(process, mean, variance):
    """ε of data whose pixels are N(mean, variance), in float64."""

    def eps(x, t):
        alpha_bar = process.alpha_bar(t).view(-1, 1, 1, 1)
        total = alpha_bar * variance + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / total

    return eps


def repaint(model, process, steps, x, x0, mask, repeats, draw):
    """RePaint's algorithm 1, in its order of lines, for steps that may skip: t−1 is the step visited before t.

    draw(t) gives (ε of the known part, z of the reverse step, z of the step up) at each visit. The paper's index of ᾱ
    in line 4 is one too late; that of a draw from q(x_{t−1} | x_0) is taken.
    """
    for t, p in zip(reversed(steps), [*reversed(steps[:-1]), -1], strict=True):
        alpha_bar_t, alpha_bar_p = process.alpha_bar(t), process.alpha_bar(p)
        alpha, beta = alpha_bar_t / alpha_bar_p, 1 - alpha_bar_t / alpha_bar_p
        for u in range(1, repeats + 1):
            eps, z, z_up = draw(t) if p >= 0 else (0.0, 0.0, 0.0)
            known = alpha_bar_p.sqrt() * x0 + (1 - alpha_bar_p).sqrt() * eps
            mean = (x - beta / (1 - alpha_bar_t).sqrt() * model(x, torch.full((len(x),), t))) / alpha.sqrt()
            sigma = ((1 - alpha_bar_p) / (1 - alpha_bar_t) * beta).sqrt()
            x = torch.where(mask, known, mean + sigma * z)
            if p < 0:
                break
            if u < repeats:
                x = alpha.sqrt() * x + beta.sqrt() * z_up
    return x


STEPS = [0, 150, 400, 700, 999]


@pytest.mark.parametrize("repeats", [1, 3])
def test_known_pixels_are_repaints_algorithm_1(process, x0, mask, repeats):
    """A row's z stands for the noises of a visit: ε where it is known, z where not, and the way up above them."""
    model = gaussian(process, 0.3, 0.25)
    plain = solvers.DDIM(eta=1.0).table(process, STEPS)
    table = solvers.resampled(process, plain, repeats)
    assert table.nfe == 1 + repeats * (len(STEPS) - 1)
    x0, start = x0.double(), torch.randn(5, *SHAPE, dtype=torch.float64)
    step_noise = torch.zeros(len(table.t), 5, *SHAPE, dtype=torch.float64)
    rows = iter(range(len(table.t)))

    def draw(t):
        i, p = next(rows), STEPS[STEPS.index(t) - 1]
        eps, z, z_up = torch.randn(3, 5, *SHAPE, dtype=torch.float64)
        step_noise[i] = torch.where(mask, eps, z)
        if table.p[i] == t:
            sigma, k2 = plain.s[plain.t == t], process.alpha_bar(t) / process.alpha_bar(p)
            whole = (k2 * torch.where(mask, 1 - process.alpha_bar(p), sigma**2) + 1 - k2).sqrt()
            below = k2.sqrt() * torch.where(mask, (1 - process.alpha_bar(p)).sqrt() * eps, sigma * z)
            step_noise[i] = (below + (1 - k2).sqrt() * z_up) / whole
        return eps, z, z_up

    expected = repaint(model, process, STEPS, start, x0, mask, repeats, draw)
    x = engine.sample(model, table, start=start, step_noise=step_noise, known=(x0, mask), dtype=torch.float64)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-11)
    assert torch.equal(x[mask], x0[mask])


def test_resampled_rows_have_the_law_of_a_step_down_and_one_up(process):
    """The moments of both lines together, by their own arithmetic; and jumps as the paper's code has them."""
    plain = solvers.DDIM(eta=0.7).table(process, STEPS)
    table = solvers.resampled(process, plain, 2, jump_length=2)
    assert table.t.tolist() == [999, 700, 999, 700, 400, 150, 400, 150, 0]
    assert table.p.tolist() == [700, 999, 700, 400, 150, 400, 150, 0, -1]
    k = (process.alpha_bar(999) / process.alpha_bar(400)).sqrt()
    assert float(table.a[1]) == pytest.approx(float(k * plain.a[1]), rel=1e-12)
    assert float(table.b[1]) == pytest.approx(float(k * plain.b[1]), rel=1e-12)
    assert float(table.s[1]) == pytest.approx(float((k**2 * plain.s[1] ** 2 + 1 - k**2).sqrt()), rel=1e-12)
    assert len(set(table.noise_keys.tolist())) == len(table.t)
    once = solvers.resampled(process, plain, 1, jump_length=3)
    assert all(torch.equal(getattr(once, name), getattr(plain, name)) for name in ("t", "p", "a", "b", "s"))
    uneven = solvers.resampled(process, plain, 2, jump_length=3)
    assert uneven.t.tolist() == [999, 700, 400, 150, 700, 400, 150, 0]


def test_resampling_and_blending_paint_the_conditional_of_a_gaussian(process):
    """Two pixels of covariance ρ: given the known one, the mean of the other is ρ times it. Without resampling less."""
    rho, n = 0.9, 4000
    cov = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)

    def model(x, t):
        alpha_bar = process.alpha_bar(t)[0]
        total = alpha_bar * cov + (1 - alpha_bar) * torch.eye(2)
        return ((1 - alpha_bar).sqrt() * torch.linalg.solve(total, x.view(-1, 2, 1))).view_as(x)

    known = torch.full((1, 1, 1, 2), 1.5, dtype=torch.float64), torch.tensor([True, False]).view(1, 1, 1, 2)
    plain = solvers.DDIM(eta=1.0).table(process, range(0, 1000, 20))
    shape = dict(n=n, shape=(1, 1, 2), known=known, dtype=torch.float64, batch_size=n)
    off = {}
    for repeats in (1, 8):
        x = engine.sample(model, solvers.resampled(process, plain, repeats), **shape)
        assert torch.equal(x[..., 0], torch.full((n, 1, 1), 1.5, dtype=torch.float64))
        off[repeats] = abs(float(x[..., 1].mean()) - rho * 1.5)
    assert off[8] < 0.1 < 0.3 < off[1]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_packed_samples_with_known_pixels_are_those_of_sample(net, process, x0, mask, size):
    net, x0 = net.double(), x0.double()
    tables = [solvers.DDIM(eta=eta).table(process, schedules.Exp(tau)(1000)) for eta, tau in ((0.0, 4), (1.0, 7))]
    tables.append(solvers.AFS(solvers.DDIM(eta=1.0)).table(process, schedules.Exp(5)(1000)))
    tables.append(solvers.resampled(process, tables[1], 2))
    many = engine.sample_many(
        net, tables, 5, SHAPE, seed=3, batch_size=size, dtype=torch.float64, first=2, known=(x0, mask)
    )
    for table, x in zip(tables, many, strict=True):
        alone = engine.sample(net, table, 5, SHAPE, seed=3, dtype=torch.float64, first=2, known=(x0, mask))
        *_, last = engine.trajectory(net, table, 5, SHAPE, seed=3, dtype=torch.float64, first=2, known=(x0, mask))
        assert (x - alone).norm() / alone.norm() < 1e-10
        assert torch.equal(x[mask], x0[mask])
        assert (last.x - alone).norm() / alone.norm() < 1e-10
        grad = engine.sample(net, table, 5, SHAPE, seed=3, dtype=torch.float64, first=2, known=(x0, mask), grad=True)
        assert (grad.detach() - alone).norm() / alone.norm() < 1e-10


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ((torch.zeros(5, *SHAPE), torch.zeros(5, *SHAPE)), "known must be .x0, mask.*bool"),
        ((torch.full((5, *SHAPE), math.nan), torch.ones(5, *SHAPE) > 0), "x0 that is not of finite floats"),
        ((torch.zeros(5, *SHAPE), torch.ones(4, *SHAPE) > 0), r"known has shapes .* both must be \(5, 1, 16, 16\)"),
    ],
)
def test_known_pixels_that_are_none_are_refused(net, table, known, sentence):
    with pytest.raises(ValueError, match=sentence):
        engine.sample(net, table, 5, SHAPE, known=known)


def test_tables_in_which_a_state_is_no_noisy_image_are_refused(net, process, x0, mask):
    steps = schedules.Exp(6)(1000)
    for solver in (solvers.DPMSolverPP(2), solvers.Heun(), solvers.DDIM(to_data=False)):
        with pytest.raises(ValueError, match="known pixels need a table of one-step rows down to clean data"):
            engine.sample(net, solver.table(process, steps), 5, SHAPE, known=(x0, mask))
    with pytest.raises(ValueError, match="resampling needs a table of one-step rows"):
        solvers.resampled(process, solvers.AFS(solvers.DDIM(eta=1.0)).table(process, steps), 2)
    with pytest.raises(ValueError, match="jump_n_sample=0 must be at least 1"):
        solvers.resampled(process, solvers.DDIM().table(process, steps), 0)
