"""YAML files that came from elsewhere, read as nothing but plain values."""

import io
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasEvent, SafeLoader, YAMLError


def read(path: Path) -> Any:
    """What a YAML file says, as plain containers, nothing in it resolved.

    Raises OSError, or ValueError if it is damaged, or has what our files have not: code to be run, or aliases, with
    which a few lines stand for billions.
    """
    text = path.read_text(encoding="utf-8")
    try:
        if any(isinstance(event, AliasEvent) for event in yaml.parse(text, SafeLoader)):
            raise ValueError(f"{path} has aliases")
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except (OSError, YAMLError, OmegaConfBaseException, RecursionError) as error:  # the first is OmegaConf's
        raise ValueError(f"{path} is damaged") from error
