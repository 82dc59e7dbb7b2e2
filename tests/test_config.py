"""Every option of every group composes and instantiates."""

import dataclasses

import pytest
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from skipstone import ForwardProcess, noise, schedules, solvers
from skipstone.commands.cli import CONF
from skipstone.commands.grid import build_cells
from skipstone.network import placement
from skipstone.process import process_of
from skipstone.training.fit import build_trainer
from skipstone.training.module import Recipe

OPTIONS = [(path.parent.name, path.stem) for path in sorted(CONF.glob("*/*.yaml"))]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_instantiates(group, option, tmp_path, composed):
    needed = ["schedule.timesteps=[0,10,999]"] if option == "custom" else []
    if option == "table":
        saved = solvers.DDIM().table(ForwardProcess(noise.linear()), [0, 10, 999])
        solvers.save_table(saved, tmp_path / "t.json", {})
        needed = [f"solver.path={tmp_path}/t.json", "schedule=custom", "schedule.timesteps=[]"]
    config = composed(f"{group}={option}", f"paths.outputs={tmp_path}", *needed)
    process = process_of(instantiate(config.noise))
    assert build_cells(config, process, config.evaluation.taus, config.evaluation.etas)
    assert build_cells(config, process, config.evaluation.training.taus, config.evaluation.training.etas)
    Recipe(**config.training)
    instantiate(config.model)
    assert callable(instantiate(config.metrics).func)
    get_method(config.dataset._target_)
    assert callable(instantiate(config.logger))
    trainer = OmegaConf.to_container(config.trainer, resolve=True)
    if option != "gpu":
        build_trainer(placement.resolve(trainer), logger=False, callbacks=[])


def test_each_schedule_sets_its_own_tau_and_a_typed_one_wins(composed):
    assert composed().tau == 20
    assert composed("schedule=exp").tau == 50
    assert composed("schedule=exp", "tau=7").schedule.tau == 7
    assert composed("experiment=smoke").tau == 4


def test_the_users_own_cell_is_always_one_of_the_cells(process, composed):
    config = composed("schedule=exp", "tau=33", "eta=0.25")
    cells = build_cells(config, process, [10, 20], [0.0, 1.0])
    assert len(cells) == 5
    assert [cell.name for cell in cells if cell.own] == ["ddim-exp-tau33-eta0.25"]
    assert len({cell.name for cell in cells}) == 5
    inside = build_cells(composed("tau=20", "eta=1"), process, [10, 20], [0.0, 1.0])
    assert [cell.own for cell in inside] == [False, False, False, True]
    assert inside[0].table.nfe == len(schedules.Uniform(10)(1000))


def test_a_model_takes_its_image_form_from_the_data_set(composed):
    config = composed("dataset=cifar10")
    assert (config.model.image_size, config.model.channels) == (32, 3)


@pytest.mark.parametrize("name", ["cifar10", "cifar10_classes", "cifar10_long", "cifar10_plain"])
def test_the_cifar10_experiments_train_the_papers_network_on_either_form_of_the_data(name, composed):
    config = composed(f"experiment={name}")
    assert (config.dataset.source, config.model.base, config.model.image_size, config.model.channels) == (
        "CIFAR10", 128, 32, 3,
    )  # fmt: skip
    jpegs = composed(f"experiment={name}", "dataset=folder", "dataset.name=cifar10", "dataset.root=cifar")
    assert jpegs.dataset._target_ == "skipstone.data.folder"
    assert (jpegs.dataset.name, jpegs.dataset.image_size, jpegs.dataset.channels) == ("cifar10", 32, 3)
    assert (jpegs.model, jpegs.training, jpegs.trainer) == (config.model, config.training, config.trainer)


def test_the_classes_experiment_is_cifar10_with_labels(composed):
    plain, classes = composed("experiment=cifar10"), composed("experiment=cifar10_classes")
    assert (classes.model.classes, plain.model.classes) == (10, None)
    classes.model.classes = None
    assert 0 < classes.training.label_dropout < 1
    assert (classes.model, classes.trainer, classes.training) == (plain.model, plain.trainer, plain.training)


def test_the_long_experiment_has_the_papers_settings_and_the_plain_one_the_issues(composed):
    """Ho et al. 2020, appendix B: 800k steps, batch 128, 2e-4, 5,000 steps of warm-up, average 0.9999, dropout 0.1."""
    long, plain = composed("experiment=cifar10_long"), composed("experiment=cifar10_plain")
    assert (long.trainer.max_steps, long.model.dropout) == (800_000, 0.1)
    recipe = Recipe(**long.training)
    assert recipe == Recipe(128, 2e-4, 5000, "constant", 0.0, 0.9999)
    assert Recipe(**plain.training) == dataclasses.replace(recipe, warmup=0, ema_decay=0.9995)
    assert plain.trainer.max_steps * plain.training.batch_size == 1_280_000
