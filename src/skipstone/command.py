"""The outermost layer of every command: an expected failure becomes one sentence and an exit code.

HYDRA_FULL_ERROR=1 in the environment shows the traceback instead.
"""

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterator

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError

from skipstone.settings import CONF

# Errors of the place that is written to
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

# What a user can cause and mend: wrong values, missing files, no disk, no network. Anything else is a bug of ours
# and shows its traceback.
EXPECTED = (ValueError, OSError, SafetensorError, HydraException, OmegaConfBaseException)


# Of Hydra's launchers, those that are installed apart
_LAUNCHERS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}


def main(job: Callable[[], None]) -> None:
    """Run a Hydra job; on an expected failure print one sentence to stderr and exit with 1."""
    full = os.environ.get("HYDRA_FULL_ERROR", "0") != "0"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra raise, so that this layer can speak
    try:
        job()
    except EXPECTED as error:
        if full:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def sentence(error: BaseException) -> str:
    """One line that says what is wrong and what to do."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    group, _, name = str(getattr(error, "missing_cfg_file", None)).rpartition("/")
    if group == "hydra/launcher" and name in _LAUNCHERS:
        return f"{group}={name} needs {_LAUNCHERS[name]}, which is not installed: pip install -e '.[launchers]'."
    if isinstance(error, MissingConfigException) and error.options:
        return f"{group}={name} is unknown: choose one of {', '.join(sorted(error.options))}."
    if isinstance(error, ConfigCompositionException):
        return _composition_sentence(error)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f" at {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}: make room or get access there, or set paths.outputs to another folder."
    return " ".join(str(error).split("\n    full_key")[0].split())


def _composition_sentence(error: ConfigCompositionException) -> str:
    """Hydra's complaint about an override, with the nearest keys that exist."""
    text = " ".join(str(error).split())
    for override in (word for word in sys.argv[1:] if "=" in word):
        key = override.split("=", 1)[0].lstrip("+~")
        if f"'{key}'" in text and not override.startswith("+"):
            near = difflib.get_close_matches(key, _known_keys(), n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            return f"there is no key {key} (in {override}): {hint}`--cfg job` shows every key."
    return text


def _known_keys() -> list[str]:
    """Every group and every dotted key of the default configuration."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("train"), resolve=False)
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    return sorted({*groups, *_dotted(config)})


def _dotted(node: dict, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
