"""Public functions name a wrong argument and what it must be; nothing is met within."""

import inspect
import math
from functools import partial

import pytest
import torch

import skipstone
from skipstone import ForwardProcess, engine, noise, prove, schedules, solvers
from skipstone.checked import require

PROCESS = ForwardProcess(noise.cosine(20))
SHAPE, X, T = (1, 4, 4), torch.zeros(2, 1, 4, 4), torch.tensor([1, 1])
TABLE = solvers.DDIM().table(PROCESS, [0, 5, 19])
INNER = solvers.DDIM(to_data=False).table(PROCESS, [0, 5, 19])
BETAS = noise.linear(20)


def net(x, t):
    return 0 * x


# Each public function, arguments that it takes, and wrong values of some of them
WRONG = {
    engine.sample: (
        dict(model=net, table=TABLE, n=2, shape=SHAPE),
        dict(model=[3, None], table=[3, [1, 2], None], n=[1.5, "2", True, 0, -1], shape=[4, (1, "a", 4), "abc", (0, 4)],
             seed=[1.5, "0", None], start=[X.int(), [1], torch.zeros(2)], batch_size=[0, 1.5, "a"],
             step_noise=[3, torch.zeros(2, 2, *SHAPE), torch.zeros(3, 2, 4, 4)], dtype=["float32"], progress=[3],
             grad=["yes", 1]),
    ),
    engine.sample_many: (
        dict(model=net, tables=[TABLE], n=2, shape=SHAPE),
        dict(model=[3], tables=[[], TABLE, [3], None], n=[2.5, 0], seed=["a"], batch_size=[0, "a"], start=[3]),
    ),
    engine.trajectory: (
        dict(model=net, table=TABLE, n=2, shape=SHAPE),
        dict(model=[None], table=[3], n=[1.5], left=[3], seed=["a"], step_noise=[torch.zeros(1)], start=["a"]),
    ),
    engine.sample_pair: (dict(model=net, table=TABLE, start=X), dict(start=[3], table=[TABLE, 3], left=[3])),
    engine.slerp: (
        dict(a=X[0] + 1, b=X[0] + 2, count=3),
        dict(a=[3, torch.zeros(3, 4, 4), X[0].int()], b=[None], count=[0, 1.5, "a"]),
    ),
    engine.invert: (
        dict(model=net, table=INNER, x=X),
        dict(model=[3], table=[3, TABLE], x=[3, X.int()], tolerance=["a"], most=[0, 1.5], memory=[0, None]),
    ),
    engine.require_invertible: (dict(table=INNER), dict(table=[3])),
    engine.require_noise: (dict(table=solvers.DDIM().table(PROCESS, [0, 19])), dict(table=[3])),
    engine.warm_up: (dict(model=net, shape=SHAPE, batch_size=2), dict(model=[3], shape=["a"], batch_size=[0, 1.5])),
    skipstone.load: (dict(path="none"), dict(path=[3, None, ["a"]], network=[3], like=[3])),
    solvers.amplification: (
        dict(table=INNER, process=PROCESS, rates=torch.ones(2)), dict(table=[3], process=[3], rates=[3])
    ),
    solvers.between_noise: (dict(table=INNER), dict(table=[3])),
    solvers.convergence: (dict(solver=solvers.DDIM()), dict(nfes=[3, ["a"]])),
    prove: (dict(table=TABLE, process=PROCESS), dict(table=[3], process=[3, None])),
    solvers.reach: (
        dict(solver=solvers.DDIM(), schedule=schedules.Exp, process=PROCESS, nfe=5),
        dict(schedule=[3], process=[3], nfe=[0, 1.5, "a"]),
    ),
    solvers.save_table: (dict(table=TABLE, path="none/x"), dict(table=[3], path=[3, None])),
    solvers.load_table: (dict(path="none/x"), dict(path=[3, None], process=[3])),
    noise.linear: ({}, dict(num_steps=[1, 2.5, "a", True, 10**7], beta_1=["a", math.nan, 0, X], beta_T=[None, 1],
                            rescale=["x", 1])),
    noise.scaled_linear: ({}, dict(num_steps=[2.5], beta_1=["a"], beta_T=[None, math.inf], rescale=["x"])),
    noise.cosine: ({}, dict(num_steps=["a"], offset=["a", math.nan, math.inf, -1], beta_max=[None, 1.5])),
    ForwardProcess: ({}, dict(betas=[[0.1], 3, None, torch.ones(3), torch.zeros(2, 2)])),
    PROCESS.log_alpha_bar: ({}, dict(t=["a", None, 20, 1.5j, True, ["a"], math.nan])),
    PROCESS.alpha_bar: ({}, dict(t=["a", -2])),
    PROCESS.one_minus_alpha_bar: ({}, dict(t=["a", 19.5])),
    PROCESS.step_at: ({}, dict(log_alpha_bar=[3.0, "a", torch.tensor([math.nan])])),
    PROCESS.diffuse: (
        dict(x0=X, t=T, eps=X),
        dict(x0=[3, X.int()], t=[3, torch.tensor([1, 1, 1]), T.float(), T > 0, T + 20],
             eps=[3, torch.zeros(2, 3, 4, 4)]),
    ),
    PROCESS.predict_x0: (dict(x_t=X, t=T, eps=X), dict(x_t=[None], eps=[None], t=[T - 3])),
    PROCESS.predict_eps: (dict(x_t=X, t=T, x0=X), dict(x0=[None], t=[T - 2])),
    skipstone.UNet: (dict(image_size=16, channels=1, base=8, multipliers=(1, 2), attention=(8,)),
                     dict(base=[6, "a", 8.0], multipliers=[(1.5,), 3, "ab"], dropout=[1, "a"], image_size=["a", 0],
                          attention=[(3,), 8], blocks=[1.5, 0], channels=[0, "a"], patch=[0, 3, "a"])),
}  # fmt: skip
SOLVERS = {
    solvers.DDIM: dict(eta=["x", -1, None, True], sigma=["x", 2.0]),
    solvers.ProbabilityFlow: {},
    solvers.DPMSolverPP: dict(order=["x", 2.0, 4, None, True], variant=["x", 2]),
    solvers.AdamsBashforth: dict(order=["x", 2.0, 5], variant=["x"]),
    solvers.DEIS: dict(order=[2.0], variant=["x"]),
    solvers.UniPC: dict(order=["x", 2.0, 4, True], corrector=["x", 2.0, None]),
    solvers.SASolver: dict(order=["x", 2.0, True], corrector=[2.0, True, 5], tau=["x", None, True, -1, math.inf]),
    solvers.SDEDPMSolverPP: dict(order=["x", 2.0, True, 3]),
    solvers.DPMSolver: dict(order=["x", 2.0, 1], predicts=["x", 2]),
    solvers.EDICT: dict(mix=["x", None, True, 0, 1.5]),
    solvers.Heun: dict(churn=["x", None, -1], s_min=["x", math.nan], s_max=[None, [1]], s_noise=["x", 0]),
    solvers.Restart: dict(intervals=[3, "abc", [3], [(3, 2, "a", 1.0)], [(1, 2, 0.1, 0.2)]], s_noise=["x", None]),
}
SCHEDULES = {
    schedules.Uniform: {}, schedules.Exp: {}, schedules.Quad: {}, schedules.Leading: {}, schedules.Linspace: {},
    schedules.Trailing: {}, schedules.TimeUniform: {},
    schedules.LogSNR: dict(betas=[3, [0.1]]),
    schedules.Karras: dict(betas=[None], rho=["a", 0.5], sigma_min=["a", True, -1], sigma_max=["a", math.inf]),
    schedules.Polynomial: dict(rho=["a", None]),
}  # fmt: skip


def calls():
    for function, (right, wrong) in WRONG.items():
        for name, values in wrong.items():
            for value in values:
                yield function.__qualname__, partial(_called, function, right | {name: value}), name, value
    for solver, wrong in SOLVERS.items():
        for name, values in (wrong | dict(to_data=["x", 2.0, None], clip_x0=["x", 1])).items():
            for value in values:
                yield solver.__name__, partial(solver, **{name: value}), name, value
        for steps in (["0", "5"], "abc", 3, None, [0, None], [True, 5], [0, 5j], [5, 0], []):
            yield f"{solver.__name__}.table", partial(solver().table, PROCESS, steps), "timesteps", steps
        yield f"{solver.__name__}.table", partial(solver().table, 3, [0, 5]), "process", 3
    for schedule, wrong in SCHEDULES.items():
        right = dict(tau=3) | ({"betas": BETAS} if "betas" in wrong else {})
        for name, values in (wrong | dict(tau=["a", 1.5, 0, True, None])).items():
            for value in values:
                yield schedule.__name__, lambda s=schedule, a=right | {name: value}: s(**a)(20), name, value
        for steps in ("a", 2.5, None):
            yield schedule.__name__, partial(schedule(**right), steps), "num_steps", steps
    for steps in (3, "abc", None, ["a"], [True]):
        yield "Custom", partial(schedules.Custom(steps), 20), "timesteps", steps


def _called(function, arguments):
    result = function(**arguments)
    return list(result) if inspect.isgenerator(result) else result


CALLS = list(calls())


@pytest.mark.filterwarnings("ignore:sampling starts")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]}-{call[2]}-{str(call[3])[:20]}")
def test_a_wrong_argument_is_named(call):
    _, function, name, _ = call
    with pytest.raises(ValueError) as refused:  # noqa: PT011, every sentence is another
        function()
    raised = refused.traceback[-1].path
    assert "skipstone" in str(raised), raised
    assert len(str(refused.value)) > 20
    named = {"x0": "images", "x_t": "images", "eps": "mixed"} if "predict" in call[0] or "diffuse" in call[0] else {}
    assert named.get(name, name.split("_")[0].removesuffix("s")) in str(refused.value)


def test_every_public_function_is_tried():
    public = {*WRONG, *SOLVERS, *SCHEDULES, schedules.Custom}
    kinds = {
        "Conditions",
        "Convergence",
        "NotFinite",
        "Model",
        "Step",
        "Inversion",
        "Proof",
        "Solver",
        "StepTable",
        "Program",
    }
    alike = {"evaluating", "not_finite", "AFS", "BELM", "Stored"}  # take a model, a solver, or what the others take
    for module in (engine, solvers):
        names = {name for name in module.__all__ if callable(getattr(module, name))} - kinds - alike
        assert {name for name in names if getattr(module, name) not in public} == set()


def test_what_is_right_passes():
    require("n", 3, int | None)
    require("n", None, int | None)
    require("shape", torch.Size([1, 2]), tuple[int, ...])
    with pytest.raises(ValueError, match=r"n=1.5 is not allowed: n must be an integer or None."):
        require("n", 1.5, int | None)
