"""The names of cells: every setting that differs from its default is in them, and only those."""

import pytest
from hydra.utils import instantiate

from skipstone import ForwardProcess, noise, schedules, solvers
from skipstone.commands.cli import CONF
from skipstone.evaluation.cells import label, make_cell

PROCESS = ForwardProcess(noise.linear())


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (solvers.DDIM(1.0, sigma="large"), "ddim_large"),
        (solvers.DDIM(to_data=False, clip_x0=True), "ddim_no_to_data_clip_x0"),
        (solvers.EDICT(mix=0.5), "edict_mix0.5"),
        (solvers.Heun(churn=1), "heun_churn1"),
        (solvers.Heun(churn=1, s_noise=1.1), "heun_churn1_s_noise1.1"),
        (solvers.Heun(churn=1, s_min=0.123456789), "heun_churn1_s_min0.123456789"),
        (solvers.Restart([[5, 2, 0.06, 0.3], [3, 1, 1, 2]]), "restart_intervals5x2x0.06x0.3x3x1x1x2"),
        (solvers.UniPC(2, corrector=False), "unip2"),
        (solvers.DPMSolver(3, predicts="x0"), "dpm_solver_pp3s"),
        (solvers.SASolver(tau=0.5), "sa_solver3c3_tau0.5"),
        (solvers.AFS(solvers.Heun(s_noise=1.1)), "heun_s_noise1.1_afs"),
        (schedules.Karras(10, PROCESS, rho=5), "karras_rho5"),
        (schedules.Karras(10, PROCESS, sigma_min=0.02, sigma_max=50.0), "karras_sigma_min0.02_sigma_max50"),
        (schedules.Polynomial(10, rho=3.0), "polynomial_rho3"),
        (schedules.GITS(10, gamma=1.5), "gits_gamma1.5"),
    ],
)
def test_a_name_has_what_differs_from_the_defaults(thing, expected):
    assert label(thing, ("eta",)) == expected


OPTIONS = sorted([*CONF.glob("solver/*.yaml"), *CONF.glob("schedule/*.yaml")])


@pytest.mark.parametrize("path", OPTIONS, ids=[path.stem for path in OPTIONS])
def test_an_option_as_it_is_shipped_has_its_name_alone(path, composed):
    group, option = path.parent.name, path.stem
    needed = {"table": ["solver.path=t.json"], "custom": ["schedule.timesteps=[0,999]"]}.get(option, [])
    thing = instantiate(composed(f"{group}={option}", *needed)[group])
    assert label(thing, ("tau",) if group == "schedule" else ()) == thing.name


def test_two_solvers_give_two_cells_and_defaults_the_old_names():
    schedule = schedules.Karras(6, PROCESS)
    cells = [make_cell(PROCESS, schedule, solvers.EDICT(mix=mix)) for mix in (0.93, 0.5)]
    assert [cell.name for cell in cells] == ["edict-karras-tau6-eta0.0", "edict_mix0.5-karras-tau6-eta0.0"]
    assert [cell.settings["solver"] for cell in cells] == ["edict", "edict_mix0.5"]
    cell = make_cell(PROCESS, schedules.Karras(6, PROCESS, rho=3), solvers.DDIM(1.0, "large", clip_x0=True))
    assert cell.name == "ddim_large_clip_x0-karras_rho3-tau6-eta1.0"
    assert (cell.settings["solver"], cell.settings["schedule"]) == ("ddim", "karras_rho3")
