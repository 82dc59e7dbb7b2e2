"""Properties of every table from noise to data, over any process, visited steps and eta."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import skipstone
from skipstone import ForwardProcess, noise
from skipstone.solvers import DDIM, AdamsBashforth, DPMSolverPP, ProbabilityFlow

PROCESSES = st.one_of(
    st.builds(
        noise.linear,
        num_steps=st.integers(2, 400),
        beta_1=st.floats(1e-6, 1e-3),
        beta_T=st.floats(2e-3, 0.3),
    ),
    st.builds(noise.cosine, num_steps=st.integers(2, 400)),
).map(ForwardProcess)
DETERMINISTIC = st.sampled_from([ProbabilityFlow(), *(s(o) for s in (DPMSolverPP, AdamsBashforth) for o in (1, 2, 3))])


@st.composite
def visits(draw):
    process = draw(PROCESSES)
    steps = draw(st.sets(st.integers(0, process.num_steps - 1), min_size=1, max_size=30))
    return process, sorted(steps)


@settings(deadline=None, max_examples=150)
@given(visits(), st.floats(0, 1), st.sampled_from(["paper", "large"]))
def test_ddim_rows(visit, eta, sigma):
    process, steps = visit
    table = DDIM(eta=1.0 if sigma == "large" else eta, sigma=sigma).table(process, steps)
    _check_rows(table, steps)
    signal_t, signal_p = process.alpha_bar(table.t).sqrt(), process.alpha_bar(table.p).sqrt()
    noise_t, noise_p = process.one_minus_alpha_bar(table.t), process.one_minus_alpha_bar(table.p)
    torch.testing.assert_close(table.a * signal_t + table.b, signal_p, rtol=1e-12, atol=1e-15)  # Lemma 1, the mean
    assert ((table.a >= 0) & (table.s >= 0)).all()
    if sigma == "paper":
        torch.testing.assert_close(table.a**2 * noise_t + table.s**2, noise_p, rtol=1e-12, atol=1e-16)  # the variance
    else:
        assert (table.s**2 <= 1).all()


@settings(deadline=None, max_examples=150)
@given(visits(), DETERMINISTIC)
def test_deterministic_rows(visit, solver):
    process, steps = visit
    table = solver.table(process, steps)
    _check_rows(table, steps)
    assert not table.stochastic
    if len(steps) > 1:
        up = solver.encode_table(process, steps)
        assert (up.p > up.f).all()
        assert all(column.isfinite().all() for column in (up.a, up.b, up.c, up.u, up.v))
        assert up.nfe == table.nfe


def _check_rows(table, steps):
    assert table.t.tolist() == steps[::-1]
    assert (table.p < table.t).all()
    assert table.p.tolist() == [*steps[-2::-1], -1][-len(steps) :]
    assert all(column.isfinite().all() for column in (table.a, table.b, table.c, table.s, table.u, table.v))
    assert (table.p[-1], table.a[-1], table.b[-1], table.s[-1]) == (-1, 0, 1, 0)  # on the predicted x0, exactly
    assert (table.c[-1] == 0).all()


def test_a_table_prints_as_aligned_rows():
    process, steps = noise.linear(num_steps=1000), range(99, 1000, 100)
    table = AdamsBashforth(order=3).table(ForwardProcess(process), steps)
    head, *lines = str(table).splitlines()
    assert head.split() == ["t", "p", "a", "b", "c1", "c2", "evaluations"]  # nothing is random in it: no s
    assert {len(line) for line in lines} == {len(head)}
    for i, line in enumerate(lines):
        t, p, a, b, c1, c2, evaluations = map(float, line.split())
        assert (t, p, evaluations) == (table.t[i], table.p[i], i + 1)
        wanted = torch.stack([table.a[i], table.b[i], *table.c[i]])
        assert torch.allclose(torch.tensor([a, b, c1, c2], dtype=torch.float64), wanted, rtol=1e-5, atol=0)
    assert "s" in str(DDIM(eta=1.0).table(ForwardProcess(process), steps)).splitlines()[0].split()
    ends = str(DDIM().table(ForwardProcess(process), range(1000))).splitlines()
    assert len(ends) == 1 + 21
    assert ends[11] == "… 980 more"


def test_dir_lists_what_is_public():
    assert {"ForwardProcess", "engine", "fast", "load", "noise", "prove", "schedules", "solvers"} <= set(dir(skipstone))
    assert all(hasattr(skipstone, name) for name in dir(skipstone))
