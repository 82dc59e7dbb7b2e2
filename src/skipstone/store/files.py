"""Files that survive: a reader finds the old file or the new one, whole, whenever the writer was cut off.

Also YAML files from elsewhere, read as plain values and nothing else.
"""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """A temporary path beside `path` to write to; when the block ends well, it is flushed to the disk and moved there.

    previous: where the old file goes, instead of being replaced. Raises OSError that names `path`; what was there is
    then left alone. A process that is killed meanwhile leaves a temporary file: see `remove_temporary`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _flush(temporary)
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        with suppress(OSError):  # some file systems do not flush folders; the file is in its place
            _flush(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is whole whenever it is there. Raises OSError that names it."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files that killed writers left. Nobody else may be writing in the folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as plain containers. Nothing in it is resolved.

    Raises OSError, and ValueError if the file is damaged or has what our files do not have: code to be run, or
    aliases, because a few lines of them can stand for billions.
    """
    content = path.read_bytes()
    try:
        text = content.decode()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError(f"{path} has aliases")
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))  # of a bare word it raises OSError
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        OmegaConfBaseException,
        RecursionError,
    ) as error:  # the first is OmegaConf's
        raise ValueError(f"{path} is damaged") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
