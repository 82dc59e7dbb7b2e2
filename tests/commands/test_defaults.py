"""Taus that nobody typed: they are for T = 1000 steps, and yield to a shorter process and to a schedule of its own."""

import logging

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

from skipstone.commands.cli import CONF
from skipstone.commands.grid import build_cells, choose_taus
from skipstone.commands.words import typed
from skipstone.process import process_of

SHORT = {"noise": {"_target_": "skipstone.noise.linear", "num_steps": 20}}  # of the model that a command opens


@pytest.fixture
def entered():
    """entered("tau=7", config="sample"): the configuration that a command gets, and Hydra knows the words."""

    def enter(*words, config="train"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            whole = compose(config, overrides=list(words), return_hydra_config=True)
        HydraConfig.instance().set_config(whole)
        job = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
        return job if config == "train" else OmegaConf.merge(job, SHORT)

    yield enter
    HydraConfig.instance().cfg = None


def chosen(config):
    process = process_of(instantiate(config.noise))
    choose_taus(config, process)
    return process, config


@pytest.mark.parametrize(
    ("words", "tau", "taus"),
    [
        (["schedule=quad"], 20, [5, 10, 20]),
        (["schedule=uniform"], 19, [19]),
        (["schedule=karras"], 10, [5, 10, 20]),
        (["schedule=gits"], 10, [5, 10, 20]),
        (["schedule=quad", "tau=7"], 7, [5, 10, 20]),
        (["schedule=quad", "nfe=7"], 8, [5, 10, 20]),
        (["schedule=quad", "evaluation.taus=[3,20]"], 20, [3, 20]),
    ],
)
def test_defaults_are_cut_to_the_steps_that_a_model_has(words, tau, taus, entered):
    process, config = chosen(entered(*words, config="evaluate"))
    assert (config.tau, config.evaluation.taus) == (tau, taus)
    assert build_cells(config, process, config.evaluation.taus, config.evaluation.etas)


def test_one_line_says_so_and_nothing_is_said_where_nothing_is_cut(entered, caplog):
    caplog.set_level(logging.INFO)
    chosen(entered("schedule=quad", "evaluation.schedules={exp: null, trailing: [9]}", config="evaluate"))
    assert [record.getMessage() for record in caplog.records] == [
        "defaults are cut to the 20 steps of this process: tau=20, evaluation.taus=[5, 10, 20], "
        "evaluation.schedules.exp=[5, 10, 20]"
    ]
    caplog.clear()
    _, config = chosen(entered())
    assert (config.tau, config.evaluation.taus, caplog.records) == (20, [250, 100, 50, 20], [])


@pytest.mark.parametrize(
    "words",
    [
        ["schedule=quad", "tau=50"],
        ["schedule=quad", "evaluation.taus=[5,50]"],
        ["schedule=quad", "evaluation={taus: [5,50]}"],
        ["schedule=uniform", "tau=20"],
        ["schedule=quad", "evaluation.schedules={exp: [50]}"],
    ],
)
def test_what_was_typed_is_refused(words, entered):
    process, config = chosen(entered(*words, config="evaluate"))
    grid = config.evaluation
    with pytest.raises(ValueError, match=r"tau=(50|20) is not allowed with schedule="):
        build_cells(config, process, grid.taus, grid.etas, grid.schedules)


def test_the_taus_of_other_commands_are_cut_too(entered):
    _, config = chosen(entered(config="reconstruct"))
    assert (config.tau, config.taus, config.exact) == (20, [10, 20], [20])
    _, config = chosen(entered("exact=[]", "taus=[5,30]", config="reconstruct"))
    assert (config.taus, config.exact) == ([5, 30], [])
    _, config = chosen(entered(config="study"))
    assert config.taus == [5, 10, 20]
    _, config = chosen(entered("noise.num_steps=8", "schedule=exp"))
    assert (config.tau, config.evaluation.taus, config.evaluation.training.taus) == (8, [5, 8], [8])


@pytest.mark.parametrize("command", ["tables", "quality"])
def test_commands_that_choose_their_own_schedules_have_nothing_to_cut(command, entered):
    config = entered(config=command)
    before = OmegaConf.to_container(config)
    assert OmegaConf.to_container(chosen(config)[1]) == before


LISTED = ["schedule=custom", "schedule.timesteps=[0,5,19]"]


def test_a_tau_of_an_experiment_yields_to_listed_steps_and_a_typed_one_does_not(entered):
    process, config = chosen(entered("experiment=smoke", *LISTED))
    grid = config.evaluation
    for taus in (grid.taus, grid.training.taus):
        (cell,) = build_cells(config, process, taus, [0.0])
        assert (cell.table.nfe, cell.settings["tau"]) == (3, None)
    process, config = chosen(entered("experiment=smoke", *LISTED, "tau=4"))
    with pytest.raises(ValueError, match=r"^tau=4 is not allowed: the schedule lists its own steps, leave tau out\.$"):
        build_cells(config, process, [], [])


def test_keys_in_braces_are_typed(entered):
    entered("evaluation={taus: [3], schedules: {quad: null}}", "+trainer.max_time=1", "++solver.clip_x0=true", "seed=1")
    assert typed() >= {"evaluation.taus", "evaluation.schedules.quad", "trainer.max_time", "solver.clip_x0", "seed"}
    assert not typed() & {"tau", "evaluation.etas", "schedule"}
