"""What a proof says of a solver is what its tables do."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from shell import ROOT, SHELL, python

from skipstone import ForwardProcess, noise, prove, schedules, solvers
from skipstone.solvers import amplification, between_noise, convergence, gaussian, load_table

PROCESS = ForwardProcess(noise.linear(1000))
KARRAS = schedules.Karras(10, PROCESS.betas)(1000)


@pytest.mark.parametrize(
    ("solver", "gives", "exact"),
    [
        (solvers.DPMSolverPP(3), "x0 in λ", 3),
        (solvers.DPMSolverPP(3, "published"), "x0 in λ", 2),
        (solvers.UniPC(3), "x0 in λ", 3),
        (solvers.SASolver(2, 0, tau=0.0), "x0 in λ", 2),
        (solvers.AdamsBashforth(2), "eps in r", 2),
        (solvers.AdamsBashforth(4), "eps in r", 4),
        (solvers.Heun(), "eps in r", 2),
        (solvers.DEIS(3), "eps in t", 3),
        (solvers.DEIS(3, "log_r"), "eps in log r", 3),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_order_conditions_are_met_in_the_solvers_own_variable(solver, gives, exact):
    for to_data in (True, False):
        table = type(solver)(**{**vars(solver), "to_data": to_data}).table(PROCESS, KARRAS)
        found = prove(table, PROCESS).conditions
        assert (found.gives, found.exact) == (gives, exact)
        assert len(found.residuals) <= exact or found.residuals[exact] > 1e-3


def test_an_uneven_step_costs_the_published_weights_their_conditions():
    exact, published = (
        prove(solvers.AdamsBashforth(4, variant).table(PROCESS, KARRAS), PROCESS).conditions.exact
        for variant in ("exact", "published")
    )
    assert (exact, published) == (4, 1)


def test_amplification_is_that_of_one_euler_step():
    """DDIM is Euler's method in r: over a step from r to r' it multiplies y by 1 − κ (1 − r'/r)."""
    process, table = PROCESS, solvers.DDIM(to_data=False).table(PROCESS, (100, 999))
    r = [math.sqrt(1 / float(process.alpha_bar(t)) - 1) for t in (999, 100)]
    rates = torch.tensor([0.5, 2.0, 6.0], dtype=torch.float64)
    kappa = rates / math.log(r[0] / r[1])
    expected = (1 - kappa * (1 - r[1] / r[0])).abs()
    torch.testing.assert_close(amplification(table, process, rates), expected)


def test_stability_ends_where_an_error_grows():
    table = between_noise(solvers.Heun().table(PROCESS, KARRAS))
    edge = prove(table, PROCESS).stable_to
    below, above = amplification(table, PROCESS, torch.tensor([edge, edge + 0.05], dtype=torch.float64)).tolist()
    assert below <= 1 < above
    assert between_noise(solvers.DDIM().table(PROCESS, KARRAS)).nfe == 9


def test_a_stochastic_table_has_neither():
    proof = prove(solvers.SDEDPMSolverPP().table(PROCESS, KARRAS), PROCESS, solvers.SDEDPMSolverPP())
    assert proof.conditions is None
    assert proof.stable_to is None
    assert "weak order" in dict(proof.lines())


@pytest.mark.parametrize("solver", [solvers.BELM(), solvers.EDICT()], ids=["belm", "edict"])
def test_solvers_that_undo_themselves_keep_lemma_1(solver):
    proof = prove(solver.table(PROCESS, KARRAS), PROCESS, solver)
    assert proof.explicit_inverse
    assert max(proof.mean, proof.variance) < 1e-12
    assert not prove(solvers.DDIM().table(PROCESS, KARRAS), PROCESS, solvers.DDIM()).explicit_inverse


def test_the_command_prints_and_writes_it(tmp_path):
    out = tmp_path / "out"
    done = python("scripts/solver.py", "solver=unipc", "nfe=10", f"out={out}", f"paths.outputs={tmp_path}", **SHELL)
    assert done.returncode == 0, done.stderr
    assert re.search(r"evaluations +10 ", done.stdout)
    proof = json.loads((out / "proof.json").read_text())
    assert re.search(rf"order +{proof['convergence']['order']:.2f} on steps even in λ", done.stdout)
    assert proof["convergence"]["order"] == pytest.approx(4, abs=0.15)
    table = load_table(out / "table.json", PROCESS)
    assert torch.equal(table.b, solvers.UniPC().table(PROCESS, KARRAS).b)
    assert (out / "coefficients.png").stat().st_size > 10_000
    again = python("scripts/solver.py", "solver=unipc", "nfe=10", f"out={out}", f"paths.outputs={tmp_path}")
    assert again.returncode == 1
    assert "holds files already" in again.stderr


ROWS = [
    (name, orders, evaluations)
    for names, orders, evaluations in re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \| ([^|]+) \| [^|]+ \| [^|]+ \|$",
        (ROOT / "README.md").read_text().partition("| solver | order |")[2],
        re.MULTILINE,
    )
    for name in re.findall(r"\w+", names)
]
QUIET = {"sa_solver": {"tau": 0.0, "corrector": 0}}  # without noise, and with no corrector to add an order
OTHERS = ("afs", "table", "fitted")  # whose order is that of what they are put upon, or none


def test_every_solver_has_its_row(composed):
    options = {path.stem for path in (ROOT / "conf" / "solver").glob("*.yaml")}
    assert {name for name, _, _ in ROWS} == options


@pytest.mark.parametrize(("name", "orders", "evaluations"), [row for row in ROWS if row[0] not in OTHERS])
def test_the_readmes_orders_and_evaluations_are_the_measured_ones(composed, name, orders, evaluations):
    config = composed(f"solver={name}").solver
    numbers = [int(number) for number in re.findall(r"\b\d\b", orders.partition(", and")[0])]
    if "…" in orders:
        numbers = list(range(numbers[0], numbers[-1] + 1))
    for order in numbers:
        words = QUIET.get(name, {}) | ({"order": order} if "order" in config else {})
        solver = instantiate(config, **words)
        more = 1 if "one more by its corrector" in orders else 0
        assert convergence(solver).order == pytest.approx(order + more, abs=0.15)
        few, many = (solver.table(PROCESS, schedules.TimeUniform(count)(1000)).nfe for count in (10, 11))
        each = order if evaluations.startswith("as the order") else int(evaluations[0])
        assert many - few == each
        last = 1 if "the last step 1" in evaluations else each
        more = sum(2 * (n - 1) * repeats for n, repeats, _, _ in solver.intervals) if name == "restart" else 0
        assert few == 9 * each + last + more


def test_restarts_of_fixed_steps_leave_their_own_error_whatever_is_visited():
    """Why the order is that of steps and restarts refined together."""
    fixed, finer = [], []
    for factor in (4, 8):
        for found, solver in ((fixed, solvers.Restart()), (finer, solvers.Restart().refined(factor))):
            table = replace(solver, to_data=False).table(gaussian.process(), gaussian._even_in_lambda(20 * factor))
            found.append(math.hypot(*gaussian.moments(table)))
    assert finer[0] / finer[1] == pytest.approx(4, abs=0.6)
    assert fixed[0] / fixed[1] < 2


AFS = solvers.AFS(solvers.AdamsBashforth(4, "published"))


def test_what_has_no_order_says_so_and_the_rest_is_proved(tmp_path):
    table = AFS.table(PROCESS, KARRAS)
    solvers.save_table(table, tmp_path / "t.json")
    for solver, why in ((AFS, "asks no network"), (solvers.Stored(str(tmp_path / "t.json")), "has its own steps")):
        proof = prove(table, PROCESS, solver)
        assert (proof.evaluations, proof.rows, proof.convergence, proof.conditions) == (9, 10, None, None)
        assert "asks no network" in proof.left_out[0]
        assert why in proof.left_out[1]
        with pytest.raises(ValueError, match=why):
            convergence(solver)
    signal, level = PROCESS.alpha_bar(999).sqrt().item(), PROCESS.one_minus_alpha_bar(999).sqrt().item()
    first = solvers.AFS(solvers.DDIM()).table(PROCESS, (500, 999))
    a, b = first.a[0].item(), first.b[0].item()  # of x = α x0 + σ n, of which x0 is taken to be (1 − σ) x/α
    missed = (a + b * (1 - level) / signal) * signal - PROCESS.alpha_bar(500).sqrt().item()
    assert prove(first, PROCESS).mean == pytest.approx(abs(missed), rel=1e-9)


def test_the_order_is_of_the_solver_that_made_the_table():
    ddim = solvers.DDIM().table(PROCESS, KARRAS)
    for other in (solvers.UniPC(3), solvers.DPMSolverPP(2), solvers.ProbabilityFlow(), solvers.DDIM(eta=0.5)):
        with pytest.raises(ValueError, match=f"solver={other.name} did not make this table"):
            prove(ddim, PROCESS, other)
    for solver in (solvers.DDIM(), solvers.Heun(to_data=False), solvers.DPMSolver(3), solvers.EDICT()):
        proof = prove(solver.table(PROCESS, KARRAS), PROCESS, solver)
        assert proof.solver == solver.name
        assert f"of {solver.name} on linear noise" in dict(proof.lines())["order"]
    assert prove(solvers.DDIM().encode_table(PROCESS, KARRAS), PROCESS, solvers.DDIM()).convergence is not None
