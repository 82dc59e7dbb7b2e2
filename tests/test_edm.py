"""EDM's process: its closed forms, and its samplers as Karras et al. (2022) print them, in their own x."""

import json
import math
import re
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from shell import python, run

from skipstone import EDM, UNet, VelocityUNet, engine, load, prove, rng, schedules, solvers

STEPS, SHAPE, N = 18, (1, 2, 3), 2
PROCESS = EDM(1000)
MEAN = torch.linspace(-0.8, 0.7, 6, dtype=torch.float64).view(SHAPE)
SPREAD = torch.linspace(0.05, 0.9, 6, dtype=torch.float64).view(SHAPE)


def sigma(t, T=1000, low=0.002, high=80.0, rho=7):
    return (low ** (1 / rho) + t / (T - 1) * (high ** (1 / rho) - low ** (1 / rho))) ** rho


def denoise(x, s):
    """D(x_EDM; σ) of Gaussian data, pixel by pixel."""
    return MEAN + SPREAD**2 / (SPREAD**2 + s**2) * (x - MEAN)


def eps(x, t):
    """The same network as ours, which is shown x and t, the second in float64."""
    s = torch.tensor([sigma(float(each)) for each in t], dtype=torch.float64).view(-1, 1, 1, 1)
    x_edm = torch.sqrt(1 + s**2) * x
    return (x_edm - denoise(x_edm, s)) / s


def edm_steps():
    """EDM's Eq. 5 as printed, from σ_max down, and then 0."""
    low, high, i = 0.002 ** (1 / 7), 80 ** (1 / 7), np.arange(STEPS)
    return [*((high + i / (STEPS - 1) * (low - high)) ** 7).tolist(), 0.0]


def algorithm_2(x, z, churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0):
    """EDM's stochastic sampler; with churn=0 it is algorithm 1. z: of each step."""
    t = edm_steps()
    for i in range(STEPS):
        gamma = min(churn / STEPS, math.sqrt(2) - 1) if s_min <= t[i] <= s_max else 0.0
        t_hat = t[i] + gamma * t[i]
        x_hat = x + math.sqrt(t_hat**2 - t[i] ** 2) * s_noise * z[i]
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_next = (x - denoise(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d / 2 + d_next / 2)
    return x


def test_the_levels_are_closed_forms_at_every_real_time():
    t = torch.from_numpy(np.random.default_rng(0).uniform(0, 999, 300))
    t = torch.cat([t, torch.tensor([0.0, 999.0])])
    s = torch.tensor([sigma(float(each)) for each in t], dtype=torch.float64)
    torch.testing.assert_close(PROCESS.alpha_bar(t), 1 / (1 + s**2), rtol=1e-14, atol=0)
    torch.testing.assert_close(PROCESS.one_minus_alpha_bar(t), s**2 / (1 + s**2), rtol=1e-13, atol=0)
    torch.testing.assert_close(PROCESS.step_at(PROCESS.log_alpha_bar(t)), t, rtol=0, atol=1e-9)
    integers = torch.arange(-1, 1000)
    torch.testing.assert_close(PROCESS.alpha_bar(integers), PROCESS.alpha_bar(integers.double()), rtol=1e-14, atol=0)
    assert PROCESS.alpha_bar(-1).item() == PROCESS.alpha_bar(-1.0).item() == 1.0
    assert PROCESS.step_at(torch.tensor([0.0, -1e9])).tolist() == [-1.0, 999.0]
    between = torch.tensor([-0.75, -0.2], dtype=torch.float64)
    torch.testing.assert_close(PROCESS.step_at(PROCESS.log_alpha_bar(between)), between, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cumprod(1 - PROCESS.betas, 0), PROCESS.alpha_bars, rtol=1e-11, atol=0)


def test_evenly_spaced_times_are_the_steps_of_edm():
    visited = torch.tensor(schedules.TimeUniform(STEPS)(1000), dtype=torch.float64)
    ours = torch.sqrt(1 / PROCESS.alpha_bar(visited) - 1).flip(0)
    theirs = torch.tensor(edm_steps()[:-1], dtype=torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    again = torch.tensor(schedules.Karras(STEPS, PROCESS)(1000), dtype=torch.float64)
    torch.testing.assert_close(again, visited, rtol=0, atol=1e-8)
    assert schedules.Karras(STEPS, PROCESS, sigma_min=0.002, sigma_max=80.0)(1000)[-1] == pytest.approx(999)
    assert schedules.LogSNR(9, PROCESS)(1000)[-1] == 999


@pytest.mark.parametrize(
    "settings", [{}, {"churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}, {"churn": 4.0, "s_max": 70.0}]
)
def test_heun_is_the_sampler_of_edm(settings):
    table = solvers.Heun(**settings).table(PROCESS, schedules.TimeUniform(STEPS)(1000))
    assert table.nfe == 2 * STEPS - 1
    assert [len(table.t), table.t[0].item()] == [2 * STEPS - 1, 999]
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((STEPS, N, *SHAPE)))
    step_noise = torch.zeros(len(table.t), N, *SHAPE, dtype=torch.float64)
    for i in range(1, STEPS):  # the noise of step i is drawn by the row that ends where the step begins
        step_noise[2 * i - 1] = z[i]
    unit = rng.normal(3, rng.Stream.START, torch.arange(N), SHAPE, dtype=torch.float64)
    ours = engine.sample(eps, table, N, SHAPE, seed=3, step_noise=step_noise, dtype=torch.float64)
    theirs = algorithm_2(80 * unit, z, **settings)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("T", [10, 18, 1000])
def test_deis_integrates_over_edms_own_noise_levels(T):
    """tAB (Zhang & Chen 2023): x/√ᾱ moves by Σ_j eps_j ∫ L_j(t) dσ, L_j through the times of the last evaluations."""
    process, times = EDM(T), schedules.TimeUniform(5)(T)
    for steps in (times, (-0.6, *times)):  # below 0 log ᾱ is linear, so σ is not EDM's there
        table = solvers.DEIS(3, to_data=False).table(process, steps)

        def ratio(t, process=process):
            return math.sqrt(math.expm1(-float(process.log_alpha_bar(float(t)))))

        for i in range(2, len(table.t)):
            nodes, p = [table.t[i - j].item() for j in range(3)], table.p[i].item()
            found = [table.b[i], table.c[i, 0], table.c[i, 1]]
            for j, node in enumerate(nodes):
                others = [other for other in nodes if other != node]

                def share(s, j=j, node=node, others=others, T=T):  # L_j over σ: σ(t) inverted as printed
                    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
                    t = (s ** (1 / 7) - low) / (high - low) * (T - 1)
                    t = t if t >= 0 else math.log1p(s**2) / math.log1p(0.002**2) - 1
                    return math.prod((t - other) / (node - other) for other in others)

                ends = [ratio(nodes[0]), *([0.002] if p < 0 < nodes[0] else []), ratio(p)]
                integral = sum(quad(share, *pair, epsabs=0, epsrel=1e-12)[0] for pair in pairwise(ends))
                weight = math.sqrt(float(process.alpha_bar(p))) * integral  # of eps_j, which the table has in x and x0
                signal, level = (float(x) for x in process.roots(torch.tensor(nodes[0])))
                wanted = -weight * signal / level if j == 0 else weight
                assert found[j].item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("T", [18, 100])
def test_deis_has_its_order_on_edms_process_of_any_length(order, T):
    process, mean, spread = EDM(T), 0.4, 0.3

    def exact(t):  # of the trajectory 1.1 deviations above the mean
        signal, level = (x.item() for x in process.roots(torch.tensor(float(t), dtype=torch.float64)))
        return signal * mean + 1.1 * math.hypot(signal * spread, level)

    def network(x, t):
        signal, level = (each.view(-1, 1) for each in process.roots(t))
        return level * (x - signal * mean) / ((signal * spread) ** 2 + level**2)

    errors = []
    for count in (81, 161):
        steps = torch.linspace(0.1 * (T - 1), 0.7 * (T - 1), count, dtype=torch.float64).tolist()
        table = solvers.DEIS(order, to_data=False).table(process, steps)
        start = torch.full((1, 1), exact(steps[-1]), dtype=torch.float64)
        end = engine.sample(network, table, start=start, dtype=torch.float64)
        errors.append(abs(end.item() - exact(steps[0])))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("T", [20, 1000])
@pytest.mark.parametrize(
    ("solver", "gives", "exact"),
    [
        (solvers.DEIS(3), "eps in t", 3),
        (solvers.DEIS(3, "log_r"), "eps in log r", 3),
        (solvers.AdamsBashforth(3), "eps in r", 3),
        (solvers.DPMSolverPP(3), "x0 in λ", 3),
    ],
)
def test_a_proof_integrates_over_edms_own_noise_levels(T, solver, gives, exact):
    process = EDM(T)
    found = prove(solver.table(process, schedules.TimeUniform(6)(T)), process).conditions
    assert (found.gives, found.exact) == (gives, exact)


def test_the_slope_and_the_kinks_are_those_of_the_levels(process):
    for each, within in ((process, [0, 1, 2]), (EDM(20), [0])):
        t = torch.tensor([-0.5, 0.3, 7.25, 12.6], dtype=torch.float64)
        numeric = (each.log_alpha_bar(t + 1e-6) - each.log_alpha_bar(t - 1e-6)) / 2e-6
        torch.testing.assert_close(each.slope(t), numeric, rtol=1e-6, atol=0)
        assert each.kinks(-0.5, 2.5).tolist() == within
        assert each.kinks(3.0, 3.0).tolist() == each.kinks(3.2, 3.4).tolist() == []


def test_the_start_has_its_scale_and_only_there(process):
    ddpm = solvers.DDIM().table(process, (0, 500, 999))
    tables = [solvers.DDIM().table(PROCESS, steps) for steps in ((0, 500, 999), (0, 500, 990), (0.5, 999.0))]
    assert ddpm.start_scale == 1.0
    for table, t in zip(tables, (999, 990, 999), strict=True):
        assert table.start_scale == pytest.approx(sigma(t) / math.sqrt(1 + sigma(t) ** 2), rel=1e-14)
    unit = rng.normal(0, rng.Stream.START, torch.arange(N), SHAPE)
    afs = solvers.AFS(solvers.DDIM()).table(PROCESS, (0, 500, 990))
    every = [ddpm, *tables, afs]
    packed = engine.sample_many(lambda x, t: torch.tanh(x), every, N, SHAPE)
    for table, together in zip(every, packed, strict=True):
        alone = engine.sample(lambda x, t: torch.tanh(x), table, N, SHAPE)
        given = engine.sample(lambda x, t: torch.tanh(x), table, start=table.start_scale * unit)
        assert torch.equal(alone, given)
        assert torch.equal(together, alone)
    first = next(iter(engine.trajectory(lambda x, t: torch.zeros_like(x), tables[1], N, SHAPE)))
    torch.testing.assert_close(first.x0, tables[1].start_scale * unit / tables[1].sqrt_alpha_bar[0].float())


def test_a_table_in_a_file_keeps_the_scale(tmp_path):
    table = solvers.DDIM().table(PROCESS, (0, 500, 900))
    path = tmp_path / "edm.json"
    solvers.save_table(table, path)
    assert solvers.load_table(path, PROCESS).start_scale == table.start_scale < 1
    data = json.loads(path.read_text())
    del data["start_scale"]  # as files were before there was one
    path.write_text(json.dumps(data))
    assert solvers.load_table(path).start_scale == 1.0
    path.write_text(json.dumps(data | {"start_scale": -1}))
    with pytest.raises(ValueError, match="start_scale is not in 0"):
        solvers.load_table(path)


def test_a_start_that_is_not_noise_is_refused():
    with pytest.raises(ValueError, match=r"sqrt\(alpha_bar\)=0.447 of the image is left"):
        engine.sample(eps, solvers.DDIM().table(EDM(sigma_max=2.0), (0, 999)), N, SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.sample(eps, solvers.DDIM().table(PROCESS, (0, 999)), N, SHAPE)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_steps": 1},
        {"num_steps": True},
        {"sigma_min": 0.0},
        {"sigma_max": 0.001},
        {"sigma_max": math.inf},
        {"rho": 0.5},
        {"rho": math.nan},
        {"num_steps": 10**6 + 1},
        {"sigma_min": "a"},
        {"sigma_min": True},
    ],
)
def test_levels_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=r"noise\.(num_steps|sigma_min)="):
        EDM(**settings)


def test_the_latent_of_an_encoding_is_the_start(process):
    """Encoding ends in the state that decoding starts from: no scale lies between them."""
    steps = schedules.TimeUniform(300)(1000)
    x0 = MEAN + 0.5 * SPREAD * torch.ones(N, *SHAPE, dtype=torch.float64)
    latent = engine.sample(eps, solvers.Heun().encode_table(PROCESS, steps), start=x0, dtype=torch.float64)
    back = engine.sample(eps, solvers.Heun().table(PROCESS, steps), start=latent, dtype=torch.float64)
    torch.testing.assert_close(back, x0, rtol=0, atol=2e-3)
    torch.testing.assert_close(latent, torch.full_like(latent, 0.5), rtol=0, atol=0.02)


def test_a_network_with_the_velocity_around_it_takes_the_process():
    torch.manual_seed(0)
    net = VelocityUNet(8, 1, base=8, multipliers=(1,), blocks=1, attention=(), betas=PROCESS).eval()
    x = torch.randn(2, 1, 8, 8)
    level = PROCESS.one_minus_alpha_bar(500.5).sqrt().float()
    out = net(x, torch.tensor([500.5, 500.5], dtype=torch.float64))
    plain = UNet.read(net, out, x, None)
    torch.testing.assert_close(plain, level * x)  # a fresh network's F is 0


def test_a_model_of_this_process_is_trained_and_sampled_by_typing(tmp_path):
    outputs = f"paths.outputs={tmp_path}"
    done = run("logger=none", "noise=edm", "schedule=time_uniform", "solver=heun", "nfe=5", outputs)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "models").glob("*/")
    net, process = load(folder)
    assert isinstance(process, EDM)
    assert process.num_steps == 20
    done = python("scripts/sample.py", f"run={folder.name}", outputs, "n=2", "schedule=karras", "nfe=4", "seed=7")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("sample/*/*/samples.npz")
    table = solvers.DDIM().table(process, schedules.Karras(4, process)(20))
    ours = engine.sample(net, table, 2, (1, 28, 28), seed=7)
    torch.testing.assert_close(torch.from_numpy(np.load(path)["samples"]), ours, rtol=1e-5, atol=1e-5)
    for wrong in ("noise.sigma_max=0.001", "noise.rho=0", "noise.sigma_max=1", "noise.num_steps=1"):
        done = run("logger=none", "noise=edm", wrong, outputs)
        assert done.returncode == 1
        assert re.search(r"^error: .*(noise\.(sigma_max|rho|num_steps)=|sqrt\(alpha_bar\)=0\.7)", done.stderr, re.M)
        assert "Traceback" not in done.stderr
