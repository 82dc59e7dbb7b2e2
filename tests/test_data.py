import os
import re
import struct
import subprocess
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skipstone import data
from skipstone.data import decode, to_bytes, to_unit
from skipstone.data.images import fit, split

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the archives of ../shared/data are not here")


def read_folder(root, **settings):
    return data.folder(
        **{"name": "folder", "root": str(root), "image_size": 8, "channels": 3, "held_out": 0.25, "flip": True}
        | settings
    )


def save(path, mode="RGB", size=(8, 8), color=None, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color if color is not None else 0).save(path, **how)


def test_mnist5k_is_5000_digits_split_evenly_by_class():
    images = data.mnist5k("mnist5k", image_size=28, channels=1, held_out=500, flip=False)
    assert images.train.shape == (4500, 1, 28, 28)
    assert images.held_out.shape == (500, 1, 28, 28)
    assert images.train.dtype == torch.uint8
    assert images.held_out_labels.tolist() == sorted(range(10)) * 50
    assert torch.bincount(images.train_labels).tolist() == [450] * 10
    assert images.train_labels.dtype == torch.int64
    assert not set(map(bytes, images.held_out.numpy())) & set(map(bytes, images.train.numpy()))
    assert images.fingerprint == data.mnist5k("other", 28, 1, 500, False).fingerprint
    assert images.fingerprint != data.mnist5k("mnist5k", 28, 1, 400, False).fingerprint


def test_a_split_with_labels_takes_every_class_evenly_and_gives_them_along():
    labels = torch.arange(10).repeat_interleave(30)
    train, held_out, train_labels, held_out_labels = split(labels[:, None], 50, labels)
    assert torch.bincount(held_out[:, 0]).tolist() == [5] * 10
    assert torch.equal(train[:, 0], train_labels)
    assert torch.equal(held_out[:, 0], held_out_labels)


def test_a_split_of_more_classes_than_are_held_out_does_not_favour_the_first():
    _, held_out, _, _ = split(torch.arange(100)[:, None], 20, torch.arange(100))
    assert held_out.float().mean() > 25


def test_a_split_without_labels_gives_none():
    assert split(torch.zeros(10, 1), 2)[2:] == (None, None)


@pytest.mark.parametrize("held_out", [0, 10, 11])
def test_a_split_that_leaves_nothing_is_refused(held_out):
    with pytest.raises(ValueError, match=rf"held_out={held_out} must lie in 1 \.\.\. 9"):
        split(torch.zeros(10, 1), held_out)


def test_bytes_survive_the_way_to_the_unit_scale_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(every)), every)
    assert to_unit(every).min() == -1
    assert to_unit(every).max() == 1
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_fit_resizes_and_changes_channels():
    images = torch.randint(256, (3, 1, 28, 20), dtype=torch.uint8)
    assert fit(images, 16, 3).shape == (3, 3, 16, 16)
    assert fit(images.expand(-1, 3, -1, -1), 16, 1).shape == (3, 1, 16, 16)


def test_a_folder_takes_every_mode_and_size(tmp_path):
    save(tmp_path / "a" / "grey.png", "L", color=100)
    save(tmp_path / "a" / "palette.gif", "P", color=0)
    save(tmp_path / "b" / "alpha.png", "RGBA", color=(0, 0, 0, 0))
    save(tmp_path / "b" / "cmyk.jpg", "CMYK", color=(0, 0, 0, 0))
    save(tmp_path / "b" / "wide.jpeg", "RGB", size=(40, 10), color="red")
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "notes.txt").write_text("not an image")
    images = read_folder(tmp_path, held_out=0.2)
    assert images.train.shape == (4, 3, 8, 8)
    assert images.held_out.shape == (2, 3, 8, 8)
    centres = sorted(tuple(image[:, 4, 4].tolist()) for image in torch.cat([images.train, images.held_out]))
    expected = [(0, 0, 0), (100, 100, 100), (156, 156, 156), (254, 0, 0), (255, 255, 255), (255, 255, 255)]
    assert np.abs(np.array(centres) - np.array(expected)).max() <= 3  # JPEG and colour management
    grey = read_folder(tmp_path, channels=1, image_size=5, held_out=0.2)
    assert grey.train.shape == (4, 1, 5, 5)


def test_a_folder_with_train_and_test_keeps_them_apart(tmp_path):
    for i in range(3):
        save(tmp_path / "train" / "cat" / f"{i}.png", color="red")
    save(tmp_path / "test" / "cat" / "0.png", color="blue")
    images = read_folder(tmp_path)
    assert len(images.train) == 3
    assert images.held_out[0, 2].min() == 255


def test_a_folders_labels_are_its_sub_folders(tmp_path):
    for part in ("train", "test"):
        for name in ("owl", "cat", "dog"):
            for i in range(2):
                save(tmp_path / "parts" / part / name / f"{i}.png", color=(ord(name[0]), 0, 0))
    images = read_folder(tmp_path / "parts")
    assert images.train_labels.tolist() == [0, 0, 1, 1, 2, 2]  # cat, dog, owl
    assert images.train[:, 0, 0, 0].tolist() == [ord(c) for c in "ccddoo"]
    assert torch.equal(images.held_out_labels, images.train_labels)
    (tmp_path / "parts" / "test" / "cat").rename(tmp_path / "parts" / "test" / "zebra")
    assert read_folder(tmp_path / "parts").held_out_labels.tolist() == [1, 1, 2, 2, 3, 3]
    whole = read_folder(tmp_path / "parts" / "train", held_out=0.5)
    assert sorted(whole.train_labels.tolist()) == sorted(whole.held_out_labels.tolist()) == [0, 1, 2]
    assert [ord("cdo"[i]) for i in whole.train_labels] == whole.train[:, 0, 0, 0].tolist()


def test_a_folder_has_labels_only_where_every_image_has_one_of_several(tmp_path):
    for i in range(4):
        save(tmp_path / "only" / f"{i}.png")
    assert read_folder(tmp_path).train_labels is None
    assert read_folder(tmp_path / "only").train_labels is None
    save(tmp_path / "second" / "0.png")
    assert read_folder(tmp_path).train_labels is not None
    save(tmp_path / "loose.png")
    images = read_folder(tmp_path)
    assert (images.train_labels, images.held_out_labels) == (None, None)


def test_a_folders_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in ("b", "a", "c", "d"):
        save(tmp_path / f"{name}.png", color=(ord(name), 0, 0))
    expected = read_folder(tmp_path).fingerprint
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda top: nullcontext(sorted(scandir(top), key=lambda e: e.name)[::-1]))
    assert read_folder(tmp_path).fingerprint == expected


def test_what_was_decoded_is_kept_until_a_file_changes(tmp_path, monkeypatch):
    root, cache = tmp_path / "photos", tmp_path / "kept" / "here"
    for i in range(150):
        save(root / "ab"[i % 2] / f"{i}.png", color=(i, 0, 0))
    first = read_folder(root, cache=str(cache))
    assert first.fingerprint == read_folder(root).fingerprint
    decoded = []
    read_one = decode._read_one
    monkeypatch.setattr(decode, "_read_one", lambda path, *form: decoded.append(path) or read_one(path, *form))
    again = read_folder(root, cache=str(cache))
    assert (again.fingerprint, decoded) == (first.fingerprint, [])
    assert torch.equal(again.train_labels, first.train_labels)
    assert read_folder(root, cache=str(cache), image_size=4).shape == (3, 4, 4)  # another form, another entry
    save(root / "a" / "0.png", color=(255, 0, 0))
    os.utime(root / "a" / "0.png", (1, 1))
    assert read_folder(root, cache=str(cache)).fingerprint != first.fingerprint
    for entry in cache.iterdir():
        entry.write_bytes(b"damaged")
    decoded.clear()
    assert read_folder(root, cache=str(cache)).shape == (3, 8, 8)
    assert len(decoded) == 150


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    for i in range(8):
        save(tmp_path / "photos" / f"{i}.png", color=(i, 0, 0))
    (tmp_path / "file").write_text("in the way")
    assert len(read_folder(tmp_path / "photos", cache=str(tmp_path / "file")).train) == 6
    assert "could not be kept" in caplog.text


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no images"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match=r"needs dataset\.root"):
        data.folder("folder", None, 8, 3, 0.1, True)
    save(tmp_path / "good.png")
    with pytest.raises(ValueError, match="holds 1 images; at least 3"):
        read_folder(tmp_path)
    save(tmp_path / "better.png")
    save(tmp_path / "cut.png", size=(64, 64))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(OSError, match=r"cut\.png cannot be read as an image"):
        read_folder(tmp_path)


@pytest.mark.parametrize(("settings", "said"), [(dict(image_size=0), "image_size=0"), (dict(channels=2), "channels=2")])
def test_impossible_forms_are_refused(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        read_folder(tmp_path, **settings)


def test_a_data_set_that_cannot_be_downloaded_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"dataset\.root=.* holds no readable MNIST and it could not be downloaded"):
        data.from_torchvision("mnist", "MNIST", str(tmp_path), 28, 1, False)


@needs_shared
def test_all_of_mnist_reads_without_a_network(tmp_path):
    subprocess.run([SHARED / "unpack.sh", "mnist", tmp_path], check=True)
    images = data.from_torchvision("mnist", "MNIST", str(tmp_path), 28, 1, False)
    assert (len(images.train), len(images.held_out)) == (60_000, 10_000)
    assert images.train.shape[1:] == (1, 28, 28)
    assert images.train_labels[:5].tolist() == [5, 0, 4, 1, 9]  # as everyone knows them
    assert len(images.held_out_labels) == 10_000
    assert 30 < images.train.float().mean() < 37  # 33.3, as everyone finds


@needs_shared
def test_cifar10_as_folders_of_jpegs_reads(tmp_path):
    subprocess.run([SHARED / "unpack.sh", "cifar10", tmp_path], check=True)
    for part in ("train", "test"):  # two classes of ten are enough here
        for folder in sorted((tmp_path / part).iterdir())[2:]:
            os.rename(folder, tmp_path / f"{part}-{folder.name}")
    images = read_folder(tmp_path, image_size=32)
    assert (len(images.train), len(images.held_out)) == (10_000, 2000)
    assert images.shape == (3, 32, 32)
    assert torch.bincount(images.train_labels).tolist() == [5000, 5000]


def tiny_mnist(top):
    """MNIST as torchvision stores it, of three images and two."""
    for part, n in (("train", 3), ("t10k", 2)):
        for kind, header, size in (("images-idx3", (0x803, n, 28, 28), 28 * 28), ("labels-idx1", (0x801, n), 1)):
            path = top / "MNIST" / "raw" / f"{part}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(struct.pack(f">{len(header)}I", *header) + bytes(range(1, n + 1)) * size)


@pytest.mark.parametrize("length", [0, 3, 10, 100])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_downloaded_set_that_is_damaged_says_so(tmp_path, name, length):
    tiny_mnist(tmp_path)
    assert data.from_torchvision("mnist", "MNIST", str(tmp_path), 28, 1, False).held_out_labels.tolist() == [1, 2]
    os.truncate(tmp_path / "MNIST" / "raw" / name, min(length, 9) if "labels" in name else length)
    with pytest.raises(
        OSError, match=r"holds MNIST, but damaged or downloaded in part \(.+\): remove it there, and it is"
    ):
        data.from_torchvision("mnist", "MNIST", str(tmp_path), 28, 1, False)


def test_labels_of_other_images_are_refused(tmp_path):
    tiny_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    (raw / "train-labels-idx1-ubyte").write_bytes((raw / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(OSError, match=r"damaged or downloaded in part \(3 images of torch\.uint8 and 2 labels\)"):
        data.from_torchvision("mnist", "MNIST", str(tmp_path), 28, 1, False)


def test_places_where_nothing_can_be_downloaded_to_are_one_sentence(tmp_path):
    def refused(root, source="MNIST"):
        with pytest.raises((OSError, ValueError)) as raised:
            data.from_torchvision("mnist", source, str(root), 28, 1, False)
        assert "[Errno" not in str(raised.value)
        return str(raised.value)

    (tmp_path / "file").write_text("?")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        assert f"{name} is not a folder: name a folder that holds MNIST, or is to." in refused(tmp_path / name)
    assert "cannot be used for MNIST (Not a directory at " in refused(tmp_path / "file" / "below")
    assert re.search(
        r"cannot be used for MNIST \(.+ at /proc/1/.+\): get access or make room there", refused("/proc/1/x")
    )
    assert "dataset.source=Mnist is not in torchvision" in refused(tmp_path, "Mnist")
    assert "dataset.source=ImageFolder is not in torchvision, or not in two parts" in refused(tmp_path, "ImageFolder")


@needs_shared
def test_real_mnist_cut_off_while_it_was_unpacked_says_so(tmp_path):
    subprocess.run([SHARED / "unpack.sh", "mnist", tmp_path], check=True)
    os.truncate(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", 20_000_000)
    with pytest.raises(OSError, match=r"holds MNIST, but damaged or downloaded in part"):
        data.from_torchvision("mnist", "MNIST", str(tmp_path), 28, 1, False)
