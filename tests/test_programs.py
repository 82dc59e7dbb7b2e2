"""Solvers written as programs, and DEIS: their papers' formulas in float64, to 1e-12, and what a program refuses."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from scipy.integrate import quad

from skipstone import ForwardProcess, engine, noise, schedules, solvers
from skipstone.solvers import Program

LOG_ALPHA_BARS = np.array([0.0, *(math.fsum(np.log1p(-np.linspace(1e-4, 0.02, 1000)[: t + 1])) for t in range(1000))])
PROCESS = ForwardProcess(noise.linear())
KARRAS = schedules.Karras(8, PROCESS.betas)(1000)
LINSPACE = schedules.Linspace(7)(1000)


def log_alpha_bar(t):
    return float(np.interp(t, np.arange(-1, 1000), LOG_ALPHA_BARS))


def alpha(t):
    return math.exp(log_alpha_bar(t) / 2)


def sigma(t):
    return math.sqrt(-math.expm1(log_alpha_bar(t)))


def lam(t):
    return math.log(alpha(t) / sigma(t))


def ratio(t):
    return sigma(t) / alpha(t)


def time_of(lam):
    """DPM-Solver's inverse: log ᾱ = −log(1 + e^{−2λ}), and t by interpolation."""
    return float(np.interp(np.logaddexp(0, -2 * lam), -LOG_ALPHA_BARS, np.arange(-1, 1000)))


def wavy(x, t):
    """eps of a network whose x0 is bounded, as a trained one's is: x0 = sin(1.5 x) + 0.3 x + t/700."""
    return (x - alpha(t) * (math.sin(1.5 * x) + 0.3 * x + t / 700)) / sigma(t)


Z = np.random.default_rng(0).standard_normal(500).tolist()  # z of each row


class Network:
    """eps and x0 in float64, which counts, and gives the noise that the row of the latest evaluation draws."""

    def __init__(self):
        self.evaluations = 0

    def eps(self, x, t):
        self.evaluations += 1
        return wavy(x, t)

    def x0(self, x, t):
        return (x - sigma(t) * self.eps(x, t)) / alpha(t)

    def z(self):
        return Z[self.evaluations - 1]


def run(table, x):
    """The rows by hand."""
    history = []
    for i in range(len(table.t)):
        eps = wavy(x, table.asked[i].item()) if table.evaluated[i] else x
        x0 = (x - table.sqrt_one_minus_alpha_bar[i].item() * eps) / table.sqrt_alpha_bar[i].item()
        left = table.u[i].item() * x + table.v[i].item() * x0
        past = sum(w * h for w, h in zip(table.c[i].tolist(), history, strict=False))
        x = table.a[i].item() * x + table.b[i].item() * x0 + past + table.s[i].item() * Z[i]
        history = [left, *history]
    return x


def edm(steps, x, churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0, restarts=None):
    """EDM's loop in its own coordinates, x/√ᾱ and σ = r, and Restart's code around it."""
    network = Network()
    sigmas = [*(ratio(t) for t in reversed(steps)), 0.0]
    highest, x = sigmas[0], x / alpha(steps[-1])

    def time_at(r):
        return time_of(-math.log(r))

    def heun(x, now, then):
        d = network.eps(alpha(time_at(now)) * x, time_at(now))
        y = x + (then - now) * d
        if then > 0:
            d = (d + network.eps(alpha(time_at(then)) * y, time_at(then))) / 2
        return x + (then - now) * d

    for i, (now, then) in enumerate(pairwise(sigmas)):
        hat = now
        if i and churn and s_min <= now <= s_max:
            hat = min(now + min(churn / (len(sigmas) - 1), math.sqrt(2) - 1) * now, highest)
            x = x + math.sqrt(hat**2 - now**2) * s_noise * network.z()
        x = heun(x, hat, then)
        for count, repeats, low, high in restarts or ():
            if i + 1 == int(np.argmin(np.abs(np.array(sigmas[1:-1]) - low))) + 1:
                for _ in range(repeats):
                    steps_down = np.linspace(high ** (1 / 7), then ** (1 / 7), count) ** 7
                    x = x + network.z() * math.sqrt(high**2 - then**2)
                    steps_down[0], steps_down[-1] = high, then
                    for upper, lower in pairwise(steps_down.tolist()):
                        x = heun(x, upper, lower)
    return x, network.evaluations


def singlestep(steps, x, order, predicts):
    """DPM-Solver-2 and -3, DPM-Solver++(2S) and its third order, as published."""
    network = Network()
    times = [*reversed(steps)]
    for t_s, t_t in pairwise(times):
        h = lam(t_t) - lam(t_s)
        if order == 2:
            s1, r1 = time_of(lam(t_s) + h / 2), 0.5
        else:
            s1, s2, r1, r2 = time_of(lam(t_s) + h / 3), time_of(lam(t_s) + 2 * h / 3), 1 / 3, 2 / 3
        if predicts == "eps":
            e = network.eps(x, t_s)
            u1 = alpha(s1) / alpha(t_s) * x - sigma(s1) * (math.exp(r1 * h) - 1) * e
            e1 = network.eps(u1, s1)
            x = alpha(t_t) / alpha(t_s) * x - sigma(t_t) * (math.exp(h) - 1) * e
            if order == 2:
                x -= sigma(t_t) / (2 * r1) * (math.exp(h) - 1) * (e1 - e)
            else:
                u0 = (x + sigma(t_t) * (math.exp(h) - 1) * e) * alpha(t_s) / alpha(t_t)
                phi = (math.exp(r2 * h) - 1) / (r2 * h) - 1
                u2 = alpha(s2) / alpha(t_s) * u0 - sigma(s2) * (math.exp(r2 * h) - 1) * e
                u2 -= sigma(s2) * r2 / r1 * phi * (e1 - e)
                x -= sigma(t_t) / r2 * ((math.exp(h) - 1) / h - 1) * (network.eps(u2, s2) - e)
        else:
            m = network.x0(x, t_s)
            u1 = sigma(s1) / sigma(t_s) * x - alpha(s1) * (math.exp(-r1 * h) - 1) * m
            m1 = network.x0(u1, s1)
            if order == 2:
                d = (1 - 1 / (2 * r1)) * m + 1 / (2 * r1) * m1
                x = sigma(t_t) / sigma(t_s) * x - alpha(t_t) * (math.exp(-h) - 1) * d
            else:
                phi_12, phi_1 = math.exp(-r2 * h) - 1, math.exp(-h) - 1
                u2 = sigma(s2) / sigma(t_s) * x - alpha(s2) * phi_12 * m
                u2 += r2 / r1 * alpha(s2) * (phi_12 / (r2 * h) + 1) * (m1 - m)
                x = sigma(t_t) / sigma(t_s) * x - alpha(t_t) * phi_1 * m
                x += 1 / r2 * alpha(t_t) * (phi_1 / h + 1) * (network.x0(u2, s2) - m)
    return network.x0(x, times[-1]), network.evaluations


def unipc(steps, x, order, corrector):
    """The authors' multistep_uni_pc_bh_update, predict_x0, bh2."""
    network = Network()

    def update(x, model_prev, t_prev, t, order, model_t=None):
        h = lam(t) - lam(t_prev[0])
        rks = [(lam(t_prev[k]) - lam(t_prev[0])) / h for k in range(1, order)]
        D1s = [(model_prev[k] - model_prev[0]) / rks[k - 1] for k in range(1, order)]
        rks = np.array([*rks, 1.0])
        R, b, factorial = [], [], 1
        B_h = h_phi_1 = math.expm1(-h)
        h_phi_k = h_phi_1 / -h - 1
        for i in range(1, order + 1):
            R.append(rks ** (i - 1))
            b.append(h_phi_k * factorial / B_h)
            factorial *= i + 1
            h_phi_k = h_phi_k / -h - 1 / factorial
        R, b = np.array(R), np.array(b)
        x_t = sigma(t) / sigma(t_prev[0]) * x - alpha(t) * h_phi_1 * model_prev[0]
        if model_t is None:
            rhos = [0.5] if order == 2 else np.linalg.solve(R[:-1, :-1], b[:-1])
        else:
            rhos = [0.5] if order == 1 else np.linalg.solve(R, b)
            D1s = [*D1s, model_t - model_prev[0]]
        return x_t - alpha(t) * B_h * sum(rho * d for rho, d in zip(rhos, D1s, strict=False))

    times = [*reversed(steps)]
    model_prev, t_prev = [network.x0(x, times[0])], [times[0]]
    for t in times[1:]:
        current = len(t_prev)
        predicted = update(x, model_prev, t_prev, t, current)
        model_t = network.x0(predicted, t)
        x = update(x, model_prev, t_prev, t, current, model_t) if corrector else predicted
        model_prev, t_prev = [model_t, *model_prev][:order], [t, *t_prev][:order]
    return model_prev[0], network.evaluations


def sa_solver(steps, x, order, corrector, tau):
    """Xue et al. 2023: the integrals of e^λ (1+τ²) e^{−τ²(λ_t − λ)} L_j(λ), each by adaptive quadrature."""
    network = Network()

    def moved(x, s, t, through, z):
        nodes = [lam(u) for u, _ in through]
        h = lam(t) - lam(s)
        new = (
            sigma(t) / sigma(s) * math.exp(-(tau**2) * h) * x + sigma(t) * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * z
        )
        for j, (_, x0) in enumerate(through):

            def integrand(v, j=j):
                others = nodes[:j] + nodes[j + 1 :]
                basis = math.prod((v - o) / (nodes[j] - o) for o in others)
                return math.exp(v - tau**2 * (lam(t) - v)) * (1 + tau**2) * basis

            new += sigma(t) * quad(integrand, lam(s), lam(t), epsabs=0, epsrel=1e-13)[0] * x0
        return new

    times = [*reversed(steps)]
    seen = [(times[0], network.x0(x, times[0]))]
    for s, t in pairwise(times):
        z = network.z()
        predicted = moved(x, s, t, seen[:order], z)
        x0 = network.x0(predicted, t)
        x = moved(x, s, t, [(t, x0), *seen[:corrector]], z) if corrector else predicted
        seen = [(t, x0), *seen]
    return seen[0][1], network.evaluations


def sde_dpm_solver_pp(steps, x, order):
    network, times, before = Network(), [*reversed(steps)], None
    for s, t in pairwise(times):
        h, x0 = lam(t) - lam(s), network.x0(x, s)
        d = 0 if before is None or order == 1 else (x0 - before[1]) / ((lam(s) - lam(before[0])) / h)
        x = sigma(t) / sigma(s) * math.exp(-h) * x + alpha(t) * (1 - math.exp(-2 * h)) * (x0 + 0.5 * d)
        x += sigma(t) * math.sqrt(1 - math.exp(-2 * h)) * network.z()
        before = s, x0
    return network.x0(x, times[-1]), network.evaluations


def sde_dpm_solver_pp2s(steps, x):
    """The midpoint rule for the reverse SDE in λ, whose two halves of a step draw one Brownian path."""
    network, times = Network(), [*reversed(steps)]
    for s, t in pairwise(times):
        h = (lam(t) - lam(s)) / 2
        m = time_of(lam(s) + h)
        half = math.sqrt(1 - math.exp(-2 * h))  # of σ, the deviation that half a step adds
        x0 = network.x0(x, s)
        first = network.z()
        u = sigma(m) / sigma(s) * math.exp(-h) * x + alpha(m) * half**2 * x0 + sigma(m) * half * first
        x0 = network.x0(u, m)
        x = sigma(t) / sigma(s) * math.exp(-2 * h) * x + alpha(t) * (1 - math.exp(-4 * h)) * x0
        x += sigma(t) * half * (math.exp(-h) * first + network.z())
    return network.x0(x, times[-1]), network.evaluations


def deis(steps, x, order, variable):
    """∫ L_j dr over each step, by adaptive quadrature between the kinks of log ᾱ."""
    network, times, seen = Network(), [*reversed(steps)], []
    own = {"time": lambda t: t, "log_r": lambda t: math.log(ratio(t)), "r": ratio}[variable]
    for s, t in pairwise(times):
        seen = [(s, network.eps(x, s)), *seen][:order]
        nodes, moved = [own(u) for u, _ in seen], x / alpha(s)
        for j, (_, eps) in enumerate(seen):

            def basis(v, j=j, nodes=nodes):
                return math.prod((v - o) / (nodes[j] - o) for o in nodes[:j] + nodes[j + 1 :])

            if variable == "time":
                edges = [s, *np.arange(math.ceil(s) - 1, math.floor(t), -1.0).tolist(), t]
                weight = 0.0
                for high, low in pairwise(edges):
                    y, slope = -log_alpha_bar(high), (log_alpha_bar(low) - log_alpha_bar(high)) / (high - low)

                    def integrand(u, high=high, y=y, slope=slope):
                        level = y + (u - high) * slope
                        return basis(u) * math.exp(level) * slope / (2 * math.sqrt(math.expm1(level)))

                    weight += quad(integrand, high, low, epsabs=0, epsrel=1e-13)[0]
            elif variable == "log_r":
                weight = quad(lambda v: basis(v) * math.exp(v), own(s), own(t), epsabs=0, epsrel=2e-14)[0]
            else:
                weight = quad(basis, own(s), own(t), epsabs=0, epsrel=2e-14)[0]
            moved += weight * eps
        x = alpha(t) * moved
    return network.x0(x, times[-1]), network.evaluations


def ipndm(steps, x):
    """Zhang & Chen 2023's iPNDM: Adams-Bashforth's weights of even steps, lower orders first, on DDIM's step."""
    network, times, past = Network(), [*reversed(steps)], []
    for s, t in pairwise(times):
        past = [network.eps(x, s), *past][:4]
        weights = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
        e = sum(w * p for w, p in zip(weights[len(past)], past, strict=True))
        x = alpha(t) * (x - sigma(s) * e) / alpha(s) + sigma(t) * e
    return network.x0(x, times[-1]), network.evaluations


CASES = [
    (solvers.Heun(), lambda steps, x: edm(steps, x)),
    (
        solvers.Heun(churn=3.0, s_min=0.05, s_max=50.0, s_noise=1.007),
        lambda steps, x: edm(steps, x, 3.0, 0.05, 50.0, 1.007),
    ),
    (solvers.Heun(churn=80.0), lambda steps, x: edm(steps, x, 80.0)),
    (
        solvers.Restart([(4, 2, 0.3, 5.0), (3, 1, 0.05, 0.4)]),
        lambda steps, x: edm(steps, x, restarts=[(4, 2, 0.3, 5.0), (3, 1, 0.05, 0.4)]),
    ),
    *(
        (solvers.DPMSolver(order, predicts), lambda steps, x, o=order, p=predicts: singlestep(steps, x, o, p))
        for order in (2, 3)
        for predicts in ("eps", "x0")
    ),
    *(
        (solvers.UniPC(order, corrector), lambda steps, x, o=order, c=corrector: unipc(steps, x, o, c))
        for order in (1, 2, 3)
        for corrector in (True, False)
    ),
    *(
        (solvers.SASolver(*settings), lambda steps, x, settings=settings: sa_solver(steps, x, *settings))
        for settings in ((3, 3, 1.0), (2, 0, 0.5), (1, 2, 1.4), (3, 1, 0.0), (4, 4, 0.8))
    ),
    *((solvers.SDEDPMSolverPP(order), lambda steps, x, o=order: sde_dpm_solver_pp(steps, x, o)) for order in (1, 2)),
    (solvers.SDEDPMSolverPP(2, "singlestep"), sde_dpm_solver_pp2s),
    *((solvers.DEIS(order), lambda steps, x, o=order: deis(steps, x, o, "time")) for order in (2, 3, 4)),
    *((solvers.DEIS(order, "log_r"), lambda steps, x, o=order: deis(steps, x, o, "log_r")) for order in (2, 3, 4)),
    (solvers.AdamsBashforth(4), lambda steps, x: deis(steps, x, 4, "r")),
    (solvers.AdamsBashforth(4, "published"), ipndm),
]
ALL = [solver for solver, _ in CASES]


def name(value):
    return getattr(value, "name", None)


@pytest.mark.parametrize("steps", [KARRAS, LINSPACE], ids=["karras", "linspace"])
@pytest.mark.parametrize(("solver", "paper"), CASES, ids=name)
def test_rows_are_the_papers(solver, paper, steps):
    table = solver.table(PROCESS, steps)
    expected, evaluations = paper(steps, 1.3)
    assert table.nfe == len(table.t) == evaluations
    assert abs(run(table, 1.3) - expected) < 1e-12 * max(1.0, abs(expected), table.largest_weight)


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_tables_are_as_they_should_be(solver):
    for steps in (KARRAS, LINSPACE, schedules.Exp(9)(1000), (0, 999), (999,)):
        table = solver.table(PROCESS, steps)
        assert all(column.isfinite().all() for column in (table.a, table.b, table.c, table.s))
        assert (table.p[-1], table.a[-1], table.b[-1], table.s[-1]) == (-1, 0, 1, 0)
        assert torch.equal(table.f[1:], table.p[:-1])
        integer = table.t.dtype == torch.int64
        assert integer == (isinstance(steps[0], int) and bool((table.t == table.t.round()).all()))
        if len(steps) > 1:
            assert solver.__class__(**{**vars(solver), "to_data": False}).table(PROCESS, steps).p[-1] == steps[0]


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_the_engine_runs_them_packed_and_alone(solver):
    """Beside another table, in float64; then alone in float32, as far as the weights allow."""

    def model(x, t):
        return 0.4 * torch.tanh(x + x.roll(1, -1)) * (0.5 + t.to(x.dtype).view(-1, 1, 1, 1) / 1000)

    shape, tables = (1, 4, 4), [solver.table(PROCESS, KARRAS), solvers.DDIM(eta=0.5).table(PROCESS, (0, 400, 999))]
    many = engine.sample_many(model, tables, 5, shape, seed=3, batch_size=4, dtype=torch.float64)
    for table, x in zip(tables, many, strict=True):
        alone = engine.sample(model, table, 5, shape, seed=3, dtype=torch.float64)
        torch.testing.assert_close(x, alone, rtol=1e-11, atol=1e-11)
    single = engine.sample(model, tables[0], 5, shape, seed=3)
    start = engine.sample(model, tables[0], 5, shape, seed=3, dtype=torch.float64)
    bound = 5e-6 if tables[0].largest_weight <= 50 else 3e-5
    assert (single - start).norm() / start.norm() < bound


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_encoding_and_decoding_come_back(solver):
    if solver.table(PROCESS, KARRAS).stochastic:
        with pytest.raises(ValueError, match="adds noise, and encoding must be deterministic"):
            solver.encode_table(PROCESS, KARRAS)
        return

    def tanh(x, t):
        return 0.9 * torch.tanh(x)

    errors = []
    for count in (10, 40, 160):
        steps = schedules.Karras(count, PROCESS.betas)(1000)
        x = torch.full((1, 1, 1, 1), 0.8, dtype=torch.float64)
        z = engine.sample(tanh, solver.encode_table(PROCESS, steps), start=x, dtype=torch.float64)
        back = engine.sample(tanh, solver.table(PROCESS, steps), start=z, dtype=torch.float64)
        errors.append(abs((back - x).item()))
    assert errors[2] < errors[0] / 16  # of 16 times as many steps: the row at data is of first order
    assert errors[2] < (0.05 if solver.name == "unip1" else 3e-4)


def test_the_analytical_first_step_keeps_what_the_other_says_of_its_ends():
    for inner in (solvers.DDIM(clip_x0=True), solvers.DDIM(to_data=False), solvers.DDIM()):
        afs = solvers.AFS(inner)
        assert (afs.to_data, afs.clip_x0) == (inner.to_data, inner.clip_x0)
        table = afs.table(PROCESS, KARRAS)
        assert (bool(table.p[-1] == -1), table.clip_x0) == (inner.to_data, inner.clip_x0)
    afs = solvers.AFS(solvers.DDIM(to_data=False, clip_x0=True), to_data=True, clip_x0=False)
    assert (afs.to_data, afs.clip_x0) == (True, False)


@pytest.mark.parametrize("inner", [solvers.AdamsBashforth(4, "published"), solvers.Heun(), solvers.UniPC(2)], ids=name)
def test_the_analytical_first_step_costs_nothing(inner):
    steps = KARRAS
    solver = solvers.AFS(inner)
    whole, table = inner.table(PROCESS, steps), solver.table(PROCESS, steps)
    assert (table.nfe, len(table.t)) == (whole.nfe - 1, len(whole.t))
    asked = []

    def model(x, t):
        asked.append(t[0].item())
        return torch.tanh(x) * (0.5 + t.to(x.dtype).view(-1, 1, 1, 1) / 1000)

    def first_is_the_state(x, t):
        return torch.where((t == 999).view(-1, 1, 1, 1) & (asked.count(999) == 0), x, model(x, t))

    shape, told = (1, 2, 2), []
    x = engine.sample(model, table, 3, shape, seed=3, dtype=torch.float64, progress=lambda *n: told.append(n))
    assert len(asked) == table.nfe
    assert told == [(i + 1, table.nfe) for i in range(table.nfe)]
    asked.clear()
    expected = engine.sample(first_is_the_state, whole, 3, shape, seed=3, dtype=torch.float64)
    torch.testing.assert_close(x, expected, rtol=1e-13, atol=1e-13)
    asked.clear()
    ddim = solvers.DDIM(eta=1.0).table(PROCESS, (0, 300, 999))
    packed = engine.sample_many(model, [table, ddim], 3, shape, seed=3, batch_size=3, dtype=torch.float64)
    assert len(asked) == table.nfe + ddim.nfe
    torch.testing.assert_close(packed[0], x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(packed[1], engine.sample(model, ddim, 3, shape, seed=3, dtype=torch.float64))
    with pytest.raises(ValueError, match="leaves no evaluation"):
        solvers.AFS(solvers.DDIM()).table(PROCESS, (999,))


def test_of_noise_that_a_first_step_without_evaluation_adds(process):
    table = solvers.AFS(solvers.SDEDPMSolverPP(2)).table(process, KARRAS)
    (packed,) = engine.sample_many(lambda x, t: 0.1 * x, [table], 3, (1, 2, 2), seed=3)
    *_, last = engine.trajectory(lambda x, t: 0.1 * x, table, 3, (1, 2, 2), seed=3)
    torch.testing.assert_close(packed, last.x)


def test_nfe_is_reached_by_solvers_of_several_evaluations(process):
    reach = solvers.reach
    assert reach(solvers.Heun(), schedules.Linspace, process, 9) == 5
    assert reach(solvers.DPMSolver(3), schedules.TimeUniform, process, 10) == 4
    assert reach(solvers.AFS(solvers.UniPC()), schedules.Linspace, process, 5) == 6
    steps = schedules.Linspace(reach(solvers.Restart(), schedules.Linspace, process, 31))(1000)
    assert solvers.Restart().table(process, steps).nfe == 31
    with pytest.raises(ValueError, match=r"nfe=10 cannot be reached .* 9 \(tau=5\) and 11 \(tau=6\)"):
        reach(solvers.Heun(), schedules.Linspace, process, 10)


def test_an_inconsistent_program_is_refused(process):
    def program(write):
        program = Program(process, 4)
        s, t = program.levels(torch.tensor([999, 500]))
        return lambda: program.compiled(write(program, program.start, s, t), t, True, False)

    def short(program, x, s, t):
        return t.sigma / s.sigma * x + 0.9 * program.predict(x, s)  # weights that do not sum

    def forgetful(program, x, s, t):
        x0 = program.predict(x, s)
        x = t.sigma / s.sigma * x + (t.alpha - t.sigma / s.sigma * s.alpha) * x0
        y = x + program.noise()
        program.predict(y, t)
        return x  # without the noise that the network has seen

    with pytest.raises(ValueError, match="adds none before its first evaluation"):
        program(lambda program, x, s, t: program.noise())()
    with pytest.raises(ValueError, match=r"row 0 of the program is inconsistent: of an image without noise it keeps"):
        program(short)()
    with pytest.raises(ValueError, match="row 1 of the program is inconsistent: the start and the noise"):
        program(forgetful)()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: solvers.Heun(churn=-1.0), "churn must be at least 0"),
        (lambda: solvers.Heun(s_min=2.0, s_max=1.0), "s_min between 0 and s_max"),
        (lambda: solvers.DPMSolver(4), "choose 2 or 3"),
        (lambda: solvers.DPMSolver(predicts="v"), "choose eps or x0"),
        (lambda: solvers.UniPC(4), "choose 1, 2 or 3"),
        (lambda: solvers.SASolver(5), "choose 1 to 4"),
        (lambda: solvers.SASolver(tau=-1.0), "at least 0"),
        (lambda: solvers.SDEDPMSolverPP(3), "choose 1 or 2"),
        (lambda: solvers.SDEDPMSolverPP(variant="2s"), "choose multistep or singlestep"),
        (lambda: solvers.DEIS(5), "choose 1, 2, 3 or 4"),
        (lambda: solvers.DEIS(variant="published"), "choose exact or log_r"),
        (lambda: solvers.Restart([(1, 2, 0.1, 0.2)]), "at least 2 steps"),
        (lambda: solvers.Restart([(3, 2, 0.1, 900.0)]).table(PROCESS, KARRAS), "the largest noise of this process"),
    ],
)
def test_impossible_settings_are_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("heun", solvers.Heun()),
        ("dpm_solver", solvers.DPMSolver()),
        ("unipc", solvers.UniPC()),
        ("deis", solvers.DEIS(3)),
        ("sa_solver", solvers.SASolver()),
        ("sde_dpm_solver_pp", solvers.SDEDPMSolverPP()),
        ("restart", solvers.Restart()),
        ("afs", solvers.AFS(solvers.AdamsBashforth(4, "published"))),
    ],
)
def test_options_of_conf_are_the_defaults(composed, option, expected):
    config = composed(f"solver={option}", "schedule=karras", "tau=6")
    solver = instantiate(config.solver)
    ours = solver.table(PROCESS, instantiate(config.schedule)(1000))
    table = expected.table(PROCESS, schedules.Karras(6, PROCESS.betas)(1000))
    assert solver.name == expected.name
    for column in ("t", "a", "b", "c", "s"):
        assert torch.equal(getattr(ours, column), getattr(table, column))
