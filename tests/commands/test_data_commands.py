"""Folders of images as a user has them, typed: what is read, what is said of it, and what is refused."""

import os
import re

import numpy as np
import pytest
from PIL import Image
from shell import run
from test_data import tiny_mnist
from test_decode import deep, exchanged


def train(folder, *words):
    """A short training on tmp_path/photos, and its one line on the data."""
    done = run(
        "dataset=folder", f"dataset.root={folder / 'photos'}", "dataset.image_size=28", "dataset.channels=1",
        "metrics.classifier=false", "logger=none", f"paths.outputs={folder / 'out'}", *words,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    lines = re.findall(
        r"/photos: (\d+ images read.*)", done.stdout.replace("\n", " ") if 0 else done.stdout + done.stderr
    )
    return done, lines


def photos(folder, *names):
    for i, name in enumerate(names):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 5 * i, np.uint8)).save(path)
        os.utime(path, (1_000_000_000, 1_000_000_000))


def test_a_folder_with_everything_that_people_have_in_one(tmp_path):
    kinds = [f"{part}/images/{kind}/{i}.png" for part in ("Train", "Val") for kind in ("cat", "dog") for i in range(6)]
    photos(tmp_path, *kinds, "extra/0.png", "elsewhere/0.png")
    top = tmp_path / "photos"
    (top / "elsewhere").rename(tmp_path / "owls")
    os.symlink(tmp_path / "owls", top / "Train" / "images" / "owl")
    os.symlink(top, top / "Train" / "images" / "cat" / "up")
    os.mkfifo(top / "Train" / "images" / "cat" / "pipe.png")
    deep(top / "Val" / "images" / "owl" / "12 bits.png", 4095)
    os.rename(top / "Train/images/dog/0.png", os.fsencode(top) + b"/Train/images/dog/\xe9.png")
    for rubbish in ("__MACOSX/._0.png", "Train/images/dog/._1.png", "Train/.DS_Store", "Train/images/cat/a.heic"):
        (top / rubbish).parent.mkdir(exist_ok=True)
        (top / rubbish).write_text("?")
    done, lines = train(tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = lines
    assert line == (
        "26 images read, 13 to train on and 13 held out (Train/ and Val/); 3 classes (cat, dog, owl); 16-bit files use "
        "12 bits and are read as such; passed over: what desktops leave, such as ._*, .DS_Store, Thumbs.db, __MACOSX "
        "and hidden folders (3), .heic (1), links that lead in a circle (1), outside these folders (1), pipes, sockets "
        "or devices (1)"
    )


def test_two_files_exchanged_by_mv_are_other_data(tmp_path):
    photos(tmp_path, "b/1.bmp", "a/0.bmp", *(f"{'ab'[i % 2]}/{i}.bmp" for i in range(2, 40)))
    first, _ = train(tmp_path, "dataset.held_out=0.3")
    exchanged(tmp_path / "photos")
    second, _ = train(tmp_path, "dataset.held_out=0.3")
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(list((tmp_path / "out" / "models").iterdir())) == 2


def huge(path):
    Image.new("1", (20_000, 9_000)).save(path)


REFUSED = {
    "a huge file": (
        huge,
        r"/x\.png cannot be read as an image \(it has more than 178,956,970 pixels\): repair or remove",
    ),
    "no image": (
        lambda path: path.write_text("?"),
        r"/x\.png cannot be read as an image \(.+\): repair or remove it\.$",
    ),
    "a name not in UTF-8": (
        lambda path: open(os.fsencode(path.parent) + b"/\xe9.png", "wb").close(),
        r"/\\udce9\.png cannot be read as an image \(.+\): repair or remove it\.$",
    ),
    "no training image that is not held out": (
        lambda path: os.symlink("test", path.parent / "train"),
        r"photos/train holds no images \(.*\); passed over: .*in train/ and in test/ too \(3\)",
    ),
}


@pytest.mark.parametrize(("add", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_one_sentence(tmp_path, add, says):
    photos(tmp_path, "test/0.png", "test/1.png", "test/2.png")
    add(tmp_path / "photos" / "x.png")
    done, lines = train(tmp_path)
    sentence = done.stderr.splitlines()[-1]
    assert re.search(says, sentence), sentence
    assert (done.returncode, lines) == (1, [])


def test_a_damaged_download_is_one_sentence(tmp_path):
    tiny_mnist(tmp_path)
    os.truncate(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", 100)
    done = run("dataset=mnist", f"dataset.root={tmp_path}", f"paths.outputs={tmp_path / 'out'}", "logger=none")
    sentence = done.stderr.splitlines()[-1]
    assert re.match(r"error: dataset\.root=.* holds MNIST, but damaged or downloaded in part", sentence)
    assert done.returncode == 1


@pytest.mark.parametrize("size", [48, 100])
def test_a_folder_trains_at_sizes_of_every_day(tmp_path, size):
    for i in range(40):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.effect_noise((160, 120), 40 + i).save(tmp_path / "photos" / f"{i}.png")
    done, (line,) = train(tmp_path, f"dataset.image_size={size}", "metrics=none")
    assert done.returncode == 0, done.stderr
    assert line.startswith("40 images read")
    (grid,) = (tmp_path / "out").glob("runs/*/*/samples/*tau4-eta0.0.png")
    assert min(Image.open(grid).size) > size
