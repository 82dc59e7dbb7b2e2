"""Rooms in which commands meet bad input, and the ways to make what lies in them bad."""

import io
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from skipstone.fitting.kept import KeptTables
from skipstone.schedules import Trailing
from skipstone.solvers import DDIM
from skipstone.store import locks, stored, tensors
from skipstone.store.key import model_key


@dataclass(frozen=True)
class Room:
    """A working folder with a small store. key: of its model; other: of one with a wider network."""

    path: Path
    key: str
    other: str

    @property
    def model(self) -> Path:
        return self.path / "outputs" / "models" / self.key

    @property
    def sweep(self) -> Path:
        return self.path / "outputs" / "sweeps" / "past"


Prepare = Callable[[Room], Callable[[], None] | None]  # makes a room bad; what it gives is called at the end


def nothing(room: Room) -> None:
    """It is the command that is bad."""


def at_work(room: Room) -> Callable[[], None]:
    """Another process trains the model anew."""
    work = ExitStack()
    work.enter_context(locks.held(room.model.with_name(f"{room.key}.lock"), "the training"))
    return work.close


class Malicious:
    """A pickle that leaves the file `ran` in the working folder when it is opened."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def cut(path: Path, kept: float = 0.5) -> None:
    """As a copy that was interrupted leaves it."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])


def folder_instead(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def png(path: Path) -> None:
    picture(path, format="PNG")


def foreign_tensors(path: Path) -> None:
    save_file({"other": torch.zeros(1)}, path)


def foreign_checkpoint(path: Path) -> None:
    """As another version of Lightning's own would be."""
    torch.save({"state_dict": {}, "global_step": 3, "pytorch-lightning_version": "1.0.0"}, path)


def entered(**entries: object) -> Callable[[Path], None]:
    """A checkpoint with other entries."""
    return lambda path: torch.save({**torch.load(path, weights_only=True), **entries}, path)


def malicious_checkpoint(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "more": Malicious()}, path)


def halve(room: Room) -> None:
    """The model as a training leaves it that was cut off half-way: one checkpoint, nothing finished."""
    for name in ("DONE", "ema.safetensors"):
        (room.model / name).unlink()
    (room.model / "previous.ckpt").replace(room.model / "last.ckpt")


def almost(room: Room) -> None:
    """As a training leaves it that was cut off at its end: two checkpoints, nothing finished."""
    for name in ("DONE", "ema.safetensors"):
        (room.model / name).unlink()


def damaged(*names: str, how: Callable[[Path], object] = cut, after: Prepare = nothing) -> Prepare:
    """Files of the model in another state. after: what happens to the model before."""

    def prepare(room: Room) -> None:
        after(room)
        for name in names:
            how(room.model / name)

    return prepare


def swapped(name: str, after: Prepare = nothing) -> Prepare:
    """A file of the other model in the model's folder."""

    def prepare(room: Room) -> None:
        after(room)
        shutil.copy(room.model.with_name(room.other) / name, room.model / name)

    return prepare


def configured(**changes: object) -> Prepare:
    """The model's config.yaml with other entries; two underscores stand for a dot."""

    def prepare(room: Room) -> None:
        config = OmegaConf.load(room.model / "config.yaml")
        for name, value in changes.items():
            OmegaConf.update(config, name.replace("__", "."), value, merge=False, force_add=True)
        OmegaConf.save(config, room.model / "config.yaml")

    return prepare


def claimed(**changes: object) -> Prepare:
    """The same, and weights that say that they are of that other network, as in a model that is sent to do harm."""

    def prepare(room: Room) -> None:
        configured(**changes)(room)
        key = model_key(OmegaConf.to_container(OmegaConf.load(room.model / "config.yaml")))
        path = room.model / "ema.safetensors"
        tensors.write(tensors.read(path).tensors, path, {"model": key})

    return prepare


def unnamed(**changes: object) -> Prepare:
    """Weights as the first version wrote them, which did not say whose they are."""

    def prepare(room: Room) -> None:
        configured(**changes)(room)
        path = room.model / "ema.safetensors"
        save_file(tensors.read(path).tensors, path)

    return prepare


def link_to(target: str) -> Callable[[Path], object]:
    """A link in the place of what is there."""

    def link(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return link


def tables(*nfes: int) -> Prepare:
    """Fitted tables for so many evaluations, of a model with other weights."""

    def prepare(room: Room) -> None:
        _, process = stored.load(room.model)
        kept = KeptTables(room.model, "another", "python scripts/fit.py")
        for nfe in nfes:
            kept.write(DDIM().table(process, Trailing(nfe)(process.num_steps)), {})

    return prepare


def written(name: str, content: str | bytes) -> Prepare:
    """A file in the room, or in the {model} or {sweep} of it."""

    def prepare(room: Room) -> None:
        path = room.path / name.format(model=room.model, sweep=room.sweep)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def arrays(**content: np.ndarray) -> Prepare:
    """An x.npz in the room."""

    def prepare(room: Room) -> None:
        np.savez(room.path / "x.npz", **content)

    return prepare


def results(how: Callable[[Path], object]) -> Prepare:
    """The results of every job of the sweep in another state."""

    def prepare(room: Room) -> None:
        for path in room.sweep.glob("*/results.safetensors"):
            how(path)

    return prepare


def at(name: str, how: Callable[[Path], object]) -> Prepare:
    """A file or folder below the room in another state."""

    def prepare(room: Room) -> None:
        how(room.path / name.format(key=room.key))

    return prepare


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 8), **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, **how)


def photos(n: int, name: str | None = None, add: Callable[[Path], object] = nothing) -> Prepare:
    """A folder of n good images, and one file that `add` makes."""

    def prepare(room: Room) -> None:
        for i in range(n):
            picture(room.path / "photos" / f"{i}.png")
        if name is not None:
            add(room.path / "photos" / name)

    return prepare


def npy(array: np.ndarray) -> bytes:
    """A file of numpy's."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def masked(mask: np.ndarray) -> Prepare:
    """An image x.npy, and its mask m.npy."""

    def prepare(room: Room) -> None:
        written("x.npy", npy(np.zeros((1, 1, 28, 28))))(room)
        written("m.npy", npy(mask))(room)

    return prepare


def half_jpeg(path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    cut(path)


def huge_png(path: Path) -> None:
    """A PNG of a few bytes whose header promises 3.6 billion pixels."""
    picture(path, "L")
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def no_test_images(room: Room) -> None:
    for i in range(3):
        picture(room.path / "photos" / "train" / f"{i}.png")
    (room.path / "photos" / "test").mkdir()


def mounted(full: bool, after: Prepare = nothing) -> Prepare:
    """The room's outputs on a file system of their own, which is then full or read-only. Needs root."""

    def prepare(room: Room) -> Callable[[], None]:
        after(room)
        outputs, aside = room.path / "outputs", room.path / "aside"
        outputs.rename(aside)
        outputs.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(outputs)]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a file system takes root")
        shutil.copytree(aside, outputs, dirs_exist_ok=True)
        shutil.rmtree(aside)
        if full:
            there = os.statvfs(outputs)
            free = there.f_bavail * there.f_frsize - _LEFT
            (outputs / "filler").write_bytes(bytes(free))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(outputs)], check=True)
        return lambda: subprocess.run(["umount", "--lazy", str(outputs)], check=True)

    return prepare


_LEFT = 200_000  # bytes on a full disk: room for a log, none for a checkpoint
