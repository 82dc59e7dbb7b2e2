"""What the settings of a configuration must be.

Settings are checked before anything is imported, built, read or written. Commands go on in this order: what needs less
is checked before more is imported, so that no sentence is long in coming.
"""

import os
import re
import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from skipstone.commands import trackers, trainer
from skipstone.commands.called import called
from skipstone.commands.schema import CONF, refusal, require_known
from skipstone.commands.words import PATHS, typed


def _outputs(folder: Any) -> str:
    """The folder, refused here if it is none, for Hydra makes a run's folder before settings are checked."""
    if folder is None or folder == "":
        raise ValueError("paths.outputs is empty: name the folder for everything that runs write.")
    _require_path("paths.outputs", folder)
    return os.path.expanduser(folder)


OmegaConf.register_new_resolver("outputs", _outputs, replace=True)
OmegaConf.register_new_resolver("called", lambda name: " ".join(called(name)), replace=True)
# kept with the configuration: a sweep's folder has one name also in the processes that carry out its jobs
OmegaConf.register_new_resolver("pid", os.getpid, use_cache=True, replace=True)

# key: (type, smallest value allowed). A key that a group does not have is passed over.
_NUMBERS = {
    "seed": (int, 0),
    "noise.num_steps": (int, 2),
    "noise.beta_1": (float, 0),
    "noise.beta_T": (float, 0),
    "noise.offset": (float, 0),
    "noise.beta_max": (float, 0),
    "noise.sigma_min": (float, 0),
    "noise.sigma_max": (float, 0),
    "noise.rho": (float, 1),
    "schedule.gamma": (float, 0),
    "dataset.image_size": (int, 1),
    "dataset.channels": (int, 1),
    "dataset.held_out": (float, 0),
    "model.base": (int, 4),
    "model.blocks": (int, 1),
    "model.patch": (int, 1),
    "model.dropout": (float, 0),
    "training.batch_size": (int, 1),
    "training.learning_rate": (float, 0),
    "training.warmup": (int, 0),
    "training.weight_decay": (float, 0),
    "training.ema_decay": (float, 0),
    "training.label_dropout": (float, 0),
    "trainer.max_steps": (int, 1),
    "trainer.accumulate_grad_batches": (int, 1),
    "trainer.log_every_n_steps": (int, 1),
    "trainer.checkpoint_every_n_steps": (int, 1),
    "evaluation.images": (int, 2),
    "evaluation.batch_size": (int, 1),
    "evaluation.fine_images": (int, 1),
    "evaluation.training.images": (int, 2),
    "metrics.features": (int, 4),
    "metrics.classifier_steps": (int, 1),
    "metrics.subsets": (int, 1),
    "metrics.subset_size": (int, 2),
    "n": (int, 1),
    "first": (int, 0),
    "jump_n_sample": (int, 1),
    "jump_length": (int, 1),
    "rows": (int, 1),
    "columns": (int, 2),
    "floors": (int, 2),
    "repeats": (int, 1),
    "images": (int, 2),
    "images_all_steps": (int, 2),
    "images_back": (int, 1),
    "images_tried": (int, 2),
    "nfe_converged": (int, 2),
    "iterations": (int, 1),
    "learning_rate": (float, 0),
    "pairs": (int, 4),
    "held_out": (int, 2),
    "classifier_steps": (int, 1),
    "moments": (float, 0),
    "points": (float, 0),
}
_NUMBERS_OR_NULL = {
    "nfe": (int, 1),
    "model.classes": (int, 0),
    "guidance": (float, 0),
    "trainer.threads": (int, 1),
    "threads": (int, 1),
    "batch_size": (int, 1),
    "budget": (float, 0),
    "strength": (float, 0),
    "trainer.gradient_clip_val": (float, 0),
}
_LISTS = (
    "taus", "etas", "model.multipliers", "evaluation.taus", "evaluation.etas", "evaluation.training.taus",
    "evaluation.training.etas", "nfes", "nfes_compared", "nfes_back",
)  # fmt: skip
_LISTS_OR_EMPTY = ("model.attention", "exact")
_LISTS_OR_NULL = ("evaluation.nfes", "solvers", "guidance_interval")
_SWITCHES = (
    "fresh", "dataset.flip", "solver.to_data", "solver.clip_x0", "trainer.enable_progress_bar", "metrics.extrapolate",
    "metrics.random", "singles", "gif", "real",
)  # fmt: skip
_GROUPS = (
    "dataset", "model", "noise", "schedule", "solver", "metrics", "trainer", "logger", "training", "evaluation",
    "evaluation.training", "paths", "metrics.own",
)  # fmt: skip
# Keys that follow another one, where a change would be ignored or contradict it
_FOLLOWERS = {
    "schedule.tau": "tau",
    "solver.eta": "eta",
    "model.image_size": "dataset.image_size",
    "model.channels": "dataset.channels",
}
# Keys that choose what another key sets; the other may come from a file, but must not be typed beside it
_CHOOSERS = {"nfe": "tau", "evaluation.nfes": "evaluation.taus"}
# A seed is 64 bits with its sign, a sample's number 32 bits. Larger counts are a slip, and what is built of them would
# fill the memory first.
_LARGEST = {
    "seed": 2**63 - 1,
    "first": 2**31,
    "noise.num_steps": 10**6,
    "dataset.image_size": 10**4,
    "model.base": 10**6,
    "model.blocks": 10**3,
    "training.batch_size": 10**7,
    "evaluation.batch_size": 10**7,
    "batch_size": 10**7,
    "metrics.features": 10**5,
    "trainer.threads": 10**4,
    "threads": 10**4,
}
_COUNT = 10**9  # of anything else


def check(config: DictConfig) -> None:
    """Raise ValueError, naming the key, the value and what is allowed; give real numbers typed as integers their type.

    What depends on something else (tau on the schedule, eta on the solver, sizes on the network) is checked there.
    Relative paths mean the folder where the user stands: it is made the working folder again where
    hydra.job.chdir=true has left it. ~ in a path becomes the home folder.
    """
    trainer.require_ours(config.get("trainer") or {})
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        os.chdir(hydra.runtime.cwd)
        choices = {group: str(option) for group, option in hydra.runtime.choices.items()}
        require_known(config, hydra.job.config_name, hydra.overrides.task, choices)
    _check_kinds(config)
    _check_numbers(config)
    _check_lists(config)
    _check_words(config)
    trackers.check(config)
    _check_choosers(config)
    _check_fitted()
    for key, leader in _FOLLOWERS.items():
        value, leading = OmegaConf.select(config, key, default=_ABSENT), OmegaConf.select(config, leader)
        if value is not _ABSENT and value != leading and value == value:  # NaN is refused where it is used
            raise ValueError(f"{key}={value} is not allowed: it follows {leader}, so set {leader}={value} instead.")


def _check_kinds(config: DictConfig) -> None:
    for key in _GROUPS:
        value = OmegaConf.select(config, key, default=_ABSENT)
        if key == "noise" and "run" in config.keys():  # noqa: SIM118, which a missing value is among
            if value not in (_ABSENT, None):
                raise refusal(key, value, "that of the model, so leave it out")
        elif value is not _ABSENT and not OmegaConf.is_dict(value):
            raise refusal(key, value, "a group of settings")
    for key in PATHS:
        value = OmegaConf.select(config, key, default=None)
        if value is not None:
            _require_path(key, value)
            if value.startswith("~"):
                OmegaConf.update(config, key, os.path.expanduser(value))


def _require_path(key: str, value: Any) -> None:
    if not isinstance(value, str):
        what = "a model's key, or its folder" if key == "run" else "a path"
        name = value if isinstance(value, (int, float)) else "<name>"
        raise refusal(key, value, f"{what}; a folder whose name reads as a number or a list is ./{name}")
    if not value:
        raise ValueError(f"{key} is empty: name a folder, or leave {key}= out.")


def _check_numbers(config: DictConfig) -> None:
    for key, (kind, smallest) in {**_NUMBERS, **_NUMBERS_OR_NULL}.items():
        value = OmegaConf.select(config, key, default=_ABSENT)
        if value is _ABSENT or (value is None and key in _NUMBERS_OR_NULL):
            continue
        require_number(config, key, kind, smallest)
        if kind is float and key != "dataset.held_out":  # a count or a fraction
            OmegaConf.update(config, key, float(value))  # 0 and 0.0 are the same model
        if kind is int and value > _LARGEST.get(key, _COUNT):
            raise refusal(key, value, f"an integer of at most {_LARGEST.get(key, _COUNT)}")
    _check_interval(config)


def _check_interval(config: DictConfig) -> None:
    """Between validations: a share of the training, or a number of batches."""
    key = "trainer.val_check_interval"
    value = OmegaConf.select(config, key)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value <= 1 or _is_count(value)):
        raise refusal(key, value, "a share of the training, above 0.0 and at most 1.0, or a number of batches")


def _is_count(value: float) -> bool:
    return isinstance(value, int) and value >= 1


def _check_lists(config: DictConfig) -> None:
    for key in (*_LISTS, *_LISTS_OR_EMPTY):
        value, or_empty = OmegaConf.select(config, key, default=_ABSENT), key in _LISTS_OR_EMPTY
        if value is not _ABSENT and not (OmegaConf.is_list(value) and (or_empty or len(value))):
            raise refusal(key, value, "a list such as [1,2]" + ("" if or_empty else ", not empty"))
    for key in _LISTS_OR_NULL:
        value = OmegaConf.select(config, key)
        if value is not None and not (OmegaConf.is_list(value) and len(value)):
            raise refusal(key, value, "null or a list such as [1,2], not empty")
    further = OmegaConf.select(config, "evaluation.schedules")
    named = OmegaConf.is_dict(further) and all(v is None or (OmegaConf.is_list(v) and v) for v in further.values())
    if further is not None and not named:
        raise refusal("evaluation.schedules", further, "null or such as {quad: [10, 20], uniform: null}")


def _check_words(config: DictConfig) -> None:
    """Switches, names and paths."""
    for key in _SWITCHES:
        value = OmegaConf.select(config, key, default=_ABSENT)
        if value is not _ABSENT and not isinstance(value, bool):
            raise refusal(key, value, "true or false")
    for key in ("trainer.compile", "compile", "trainer.kernels", "kernels", "metrics.classifier", "evaluation.grid"):
        value = OmegaConf.select(config, key, default="auto")
        if value not in ("auto", True, False):
            raise refusal(key, value, "auto, true or false")
    labels = OmegaConf.select(config, "labels")
    listed = list(labels) if OmegaConf.is_list(labels) else [labels]
    if labels is not None and not (listed and all(type(label) is int and label >= 0 for label in listed)):
        raise refusal("labels", labels, "null, a class such as 3, or a list such as [0,1,2]")
    interval = OmegaConf.select(config, "guidance_interval")
    if interval is not None and not (len(interval) == 2 and all(type(t) in (int, float) for t in interval)):
        raise refusal("guidance_interval", interval, "null or [t_lo, t_hi], two times")
    if interval is not None and config.guidance is None:
        raise ValueError(f"guidance_interval={list(interval)} is where guidance is: set guidance, or leave it out.")
    weights = OmegaConf.select(config, "metrics.inception")
    if weights is not None and not isinstance(weights, str):
        raise refusal("metrics.inception", weights, "null, a path to Inception-V3's weights, or download")
    name = str(OmegaConf.select(config, "dataset.name", default="none"))
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise refusal("dataset.name", name, "a word, for it begins the name of the model's folder")


def _check_choosers(config: DictConfig) -> None:
    """Schedules and experiments set a tau, so whether it was given beside nfe is seen in the command line alone."""
    for key, chosen in _CHOOSERS.items():
        value, other = (OmegaConf.select(config, name) for name in (key, chosen))
        if value is not None and other is not None and typed() & {chosen, f"schedule.{chosen}"}:
            raise ValueError(f"{key}={value} and {chosen}={other} must not be given together: leave one of them out.")


def _check_fitted() -> None:
    """A fitted table has its own steps, so a schedule that was typed beside it would be ignored."""
    if not HydraConfig.initialized() or HydraConfig.get().runtime.choices.get("solver") != "fitted":
        return
    for word in HydraConfig.get().overrides.task:
        if re.match(r"\+*(schedule|tau|evaluation\.(taus|schedules))\b", word):
            raise ValueError(f"{word} is not allowed with solver=fitted, which brings its own steps: leave it out.")


def with_schedule(config: DictConfig, name: str) -> DictConfig:
    """The configuration as it would be with schedule=<name> and nothing said of tau."""
    files = {path.stem: OmegaConf.load(path) for path in sorted((CONF / "schedule").glob("*.yaml"))}
    whole = {stem: file for stem, file in files.items() if "???" not in OmegaConf.to_container(file.schedule).values()}
    if name not in whole:
        raise ValueError(f"evaluation.schedules names {name}, which is unknown there: choose among {', '.join(whole)}.")
    return OmegaConf.merge(config, {"schedule": None}, whole[name])


def require_number(config: DictConfig, key: str, kind: type, smallest: float) -> None:
    """Raise ValueError unless config[key] is an int (kind=int) or a finite number, of at least `smallest`."""
    value = OmegaConf.select(config, key)
    allowed = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not smallest <= value <= sys.float_info.max:
        name = "an integer" if kind is int else "a number"
        raise refusal(key, value, f"{name} of at least {smallest}")


_ABSENT = object()
