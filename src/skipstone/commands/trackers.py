"""What W&B would refuse once a run begins, refused with the other settings: before data is read, without W&B."""

import os
import re

from omegaconf import DictConfig, OmegaConf

from skipstone.commands.schema import refusal

_MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
_NAME = re.compile(r"[^/\\#?%:]{1,128}")
_TAG = 64  # characters, at most
_ID = re.compile(r"(?!\s)[^:;,#?/']+(?<!\s)")
_IDS = ("WANDB_RUN_ID", "WANDB_SWEEP_ID")  # that an agent of W&B sets


def check(config: DictConfig) -> None:
    """Raise ValueError, naming the setting, for a name, an id or a mode that W&B does not take; other trackers pass."""
    if not str(OmegaConf.select(config, "logger._target_")).endswith(".Wandb"):
        return
    for key in ("logger.project", "logger.entity"):
        name = OmegaConf.select(config, key)
        if name is None and key == "logger.entity":
            continue
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise refusal(key, name, r"a name of at most 128 characters, none of them / \ # ? % or :")
    dataset = OmegaConf.select(config, "dataset.name", default="")
    if len(str(dataset)) > _TAG:
        raise refusal("dataset.name", dataset, f"at most {_TAG} characters long with logger=wandb, as it is a tag")
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in _MODES:
        raise refusal("WANDB_MODE", mode, f"one of {', '.join(_MODES[:4])} (or unset)")
    for name in _IDS:
        value = os.environ.get(name)
        if value and not _ID.fullmatch(value):
            raise refusal(name, value, "a word without : ; , # ? / or '")
