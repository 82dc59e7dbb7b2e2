"""A folder of images: which files are read, as which part, of which class, and what is said of it."""

import logging
import os
import socket

import pytest
import torch
from PIL import Image

from skipstone import data

COLOURS = {"cat": 10, "dog": 20, "owl": 30}


def read(root, **settings):
    return data.folder(
        **{"name": "folder", "root": str(root), "image_size": 4, "channels": 1, "held_out": 0.25, "flip": True}
        | settings
    )


def save(*paths, color=0):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), color).save(path)


def values(images):
    """The grey value of each image: what a test knows it by."""
    return sorted(images[:, 0, 0, 0].tolist())


def tree(top, layout, per_folder=3):
    """Images in each folder; each part and class has values of its own."""
    for i, folder in enumerate(layout):
        for k in range(per_folder):
            save(top / folder / f"{k}.png", color=10 * (i + 1) + k)


@pytest.fixture
def said(caplog):
    """The one line that reading a folder says."""
    caplog.set_level(logging.INFO, logger="skipstone.data")

    def line():
        (record,) = caplog.records
        return record.getMessage()

    return line


LAYOUTS = {
    "plain": ("train/cat", "train/dog", "test/cat", "test/dog"),
    "capitals": ("Train/cat", "Train/dog", "Test/cat", "Test/dog"),
    "long words": ("TRAINING/cat", "TRAINING/dog", "Testing/cat", "Testing/dog"),
    "val": ("train/cat", "train/dog", "val/cat", "val/dog"),
    "valid": ("Train/cat", "Train/dog", "Valid/cat", "Valid/dog"),
    "validation": ("train/cat", "train/dog", "Validation/cat", "Validation/dog"),
    "images inside": ("train/images/cat", "train/images/dog", "test/images/cat", "test/images/dog"),
    "images outside": ("images/train/cat", "images/train/dog", "images/val/cat", "images/val/dog"),
    "data outside": ("shapes/data/Train/cat", "shapes/data/Train/dog", "shapes/data/Test/cat", "shapes/data/Test/dog"),
    "years": ("train2017/cat", "train2017/dog", "val2017/cat", "val2017/dog"),
    "sets": ("training_set/cat", "training_set/dog", "test_set/cat", "test_set/dog"),
    "prefixes": ("seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog"),
    "classes first": ("cat/Train", "dog/Train", "cat/Test", "dog/Test"),
    "deeper": ("train/cat/a", "train/dog/b", "test/cat/c", "test/dog/d"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_no_test_image_is_trained_on_in_any_layout_that_people_have(tmp_path, layout, said):
    tree(tmp_path, layout)
    images = read(tmp_path)
    assert values(images.train) == [10, 11, 12, 20, 21, 22]
    assert values(images.held_out) == [30, 31, 32, 40, 41, 42]
    for part, labels in ((images.train, images.train_labels), (images.held_out, images.held_out_labels)):
        assert labels.tolist() == [(value // 10 - 1) % 2 for value in part[:, 0, 0, 0].tolist()]
    assert "12 images read, 6 to train on and 6 held out (" in said()
    assert said().endswith("2 classes (cat, dog)")


@pytest.mark.parametrize(
    "layout",
    [("Train", "Test"), ("train/images", "val/images"), ("images/train", "images/test"), ("data/train", "data/valid")],
    ids="/".join,
)
def test_parts_are_no_classes(tmp_path, layout, said):
    tree(tmp_path, layout, per_folder=4)
    images = read(tmp_path)
    assert (values(images.train), values(images.held_out)) == ([10, 11, 12, 13], [20, 21, 22, 23])
    assert (images.train_labels, images.held_out_labels) == (None, None)
    assert said().endswith(
        f"({layout[0].removesuffix('/images')}/ and {layout[1].removesuffix('/images')}/); no classes"
    )


@pytest.mark.parametrize("top", ["train", "Training", "images", "archive/data", "animals", "test"])
def test_labels_are_not_lost_where_all_classes_lie_in_one_folder(tmp_path, top, said):
    tree(tmp_path, (f"{top}/cat", f"{top}/dog"), per_folder=4)
    images = read(tmp_path)
    for part, labels in ((images.train, images.train_labels), (images.held_out, images.held_out_labels)):
        assert labels.tolist() == [value // 10 - 1 for value in part[:, 0, 0, 0].tolist()]
    assert torch.bincount(images.held_out_labels).tolist() == [1, 1]
    assert "6 to train on and 2 held out (by a fixed shuffle); 2 classes (cat, dog)" in said()


def test_plain_names_come_before_others_and_the_rest_is_passed_over_with_a_count(tmp_path, said):
    tree(tmp_path, ("train", "val", "Test", "train-2", "val-2", "unlabelled"))
    save(tmp_path / "loose.png")
    images = read(tmp_path)
    assert (values(images.train), values(images.held_out)) == ([10, 11, 12], [20, 21, 22])
    assert said().endswith("(train/ and val/); no classes; passed over: outside these folders (13)")


@pytest.mark.parametrize(
    "layout", [("train", "bus"), ("bullet_train", "test_tube"), ("valid", "invalid")], ids="/".join
)
def test_classes_that_are_called_like_parts_stay_classes(tmp_path, layout, caplog):
    tree(tmp_path, layout, per_folder=4)
    images = read(tmp_path)
    assert torch.bincount(torch.cat([images.train_labels, images.held_out_labels])).tolist() == [4, 4]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [("counted as a class" in line) for line in warned] == [True] * (layout[0] in ("train", "valid"))


def test_what_is_drawn_over_images_is_no_image(tmp_path, said):
    tree(tmp_path, ("images/training", "images/validation", "annotations/training", "annotations/validation"))
    images = read(tmp_path)
    assert (values(images.train), values(images.held_out)) == ([10, 11, 12], [20, 21, 22])
    assert said().endswith("no classes; passed over: masks or labels beside the images (6)")


def test_folders_called_images_and_masks_and_more_are_classes(tmp_path):
    tree(tmp_path, ("images", "masks", "hats"), per_folder=4)
    assert sorted(read(tmp_path).train_labels.unique().tolist()) == [0, 1, 2]


def test_links_are_followed_without_loops_and_each_real_file_is_read_once(tmp_path, said):
    top, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    tree(top, ("cat",), per_folder=4)
    tree(elsewhere, ("x", "dog/deep"), per_folder=3)  # 10 11 12, 20 21 22
    os.symlink(elsewhere / "dog", top / "dog")
    os.symlink("dog", top / "again")  # a link to the same, by another way
    os.symlink("cat", top / "a link before it")  # cat stays the class of its files
    os.symlink(top, top / "cat" / "up")
    os.symlink(".", top / "here")
    os.symlink("dog/../there", top / "there")
    os.symlink(elsewhere / "x" / "2.png", top / "cat" / "linked.png")
    os.symlink("linked.png", top / "cat" / "twice.png")
    os.symlink("nowhere.png", top / "cat" / "dangling.png")
    os.symlink("loop.png", top / "cat" / "loop.png")
    images = read(top)
    assert values(torch.cat([images.train, images.held_out])) == [10, 11, 12, 12, 13, 20, 21, 22]
    assert images.train_labels.unique().tolist() == [0, 1]
    line = said()
    assert "8 images read" in line
    assert "2 classes (again, cat)" in line
    assert "links that lead in a circle (2)" in line
    assert "links that lead nowhere (3)" in line
    assert "further paths to the same file (7)" in line


def test_many_links_between_many_folders_end(tmp_path):
    for a in "abcdefghij":
        save(tmp_path / a / f"{a}.png", color=ord(a))
        for b in "abcdefghij":
            os.symlink(tmp_path / b, tmp_path / a / f"to-{b}")
    images = read(tmp_path)
    assert values(torch.cat([images.train, images.held_out])) == [ord(a) for a in "abcdefghij"]


def test_parts_that_are_links_into_a_pool_are_parts(tmp_path):
    """The nearest link counts, wherever those that lead to everything stand."""
    tree(tmp_path / "pool", ("train", "test"))
    save(tmp_path / "photos" / "unlabelled" / "0.png")
    for name, to in (("all", "."), ("train", "train"), ("test", "test"), ("zoo", ".")):
        os.symlink(tmp_path / "pool" / to, tmp_path / "photos" / name)
    images = read(tmp_path / "photos")
    assert (values(images.train), values(images.held_out)) == ([10, 11, 12], [20, 21, 22])


def test_a_file_in_both_parts_is_not_trained_on(tmp_path, said):
    tree(tmp_path, ("train", "test"))
    os.symlink("../test/0.png", tmp_path / "train" / "leak.png")
    os.symlink("../train/0.png", tmp_path / "test" / "leak.png")
    images = read(tmp_path)
    assert (values(images.train), values(images.held_out)) == ([11, 12], [10, 20, 21, 22])
    assert said().endswith("passed over: in train/ and in test/ too (2)")


def test_only_regular_files_are_opened(tmp_path, said, monkeypatch):
    tree(tmp_path, (".",), per_folder=4)
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("pipe.png", tmp_path / "linked.jpg")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        os.symlink("/dev/zero", tmp_path / "zeros.png")
        assert len(read(tmp_path).train) == 2
    assert said().endswith("passed over: pipes, sockets or devices (4)")


def test_what_desktops_leave_is_skipped(tmp_path, said):
    tree(tmp_path, ("cat", "dog"), per_folder=4)
    for rubbish in ("cat/._0.png", "__MACOSX/cat/._0.png", ".DS_Store", "dog/Thumbs.db", "desktop.ini"):
        (tmp_path / rubbish).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / rubbish).write_bytes(b"\0\5\x16\7")
    tree(tmp_path, (".ipynb_checkpoints", "dog/@eaDir", ".git"))
    images = read(tmp_path)
    assert values(torch.cat([images.train, images.held_out])) == [10, 11, 12, 13, 20, 21, 22, 23]
    assert images.train_labels.unique().tolist() == [0, 1]
    assert "passed over: what desktops leave, such as" in said()
    assert said().endswith("(8)")


def test_formats_that_are_not_read_are_counted(tmp_path, caplog):
    tree(tmp_path, (".",), per_folder=4)
    for name in ("a.heic", "b.HEIC", "c.avif", "notes.txt", "LICENSE"):
        (tmp_path / name).write_text("?")
    read(tmp_path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("; passed over: .heic (2), .avif (1), .txt (1), without a suffix (1)")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.heic").write_text("?")
    with pytest.raises(
        FileNotFoundError, match=r"only holds no images \(\.bmp, .*\.webp\); passed over: \.heic \(1\)\.$"
    ):
        read(tmp_path / "only")


def test_jpegs_under_their_other_suffixes_are_read(tmp_path):
    tree(tmp_path, (".",), per_folder=3)
    for suffix in ("jfif", "jpe", "JPG"):
        Image.new("L", (4, 4), 200).save(tmp_path / f"x.{suffix}", format="JPEG")
    images = read(tmp_path)
    assert values(torch.cat([images.train, images.held_out])) == [10, 11, 12, 200, 200, 200]


def test_names_that_are_not_utf_8_are_read_and_printed(tmp_path, said):
    names = [b"caf\xe9.png", b"line\nbreak.png", b"\xff\xfe.png", "日本.png".encode()]
    for i, name in enumerate(names):
        folder = os.fsencode(tmp_path) + b"/photos/" + (b"\xe9t\xe9" if i % 2 else b"hiver")
        os.makedirs(folder, exist_ok=True)
        Image.new("L", (4, 4), i).save(tmp_path / "image.png")
        os.rename(tmp_path / "image.png", os.path.join(folder, name))
    images = read(tmp_path / "photos", cache=str(tmp_path / "cache"))
    assert values(torch.cat([images.train, images.held_out])) == [0, 1, 2, 3]
    assert r"2 classes (hiver, \udce9t\udce9)" in said()
    said().encode()
    bad = os.fsencode(tmp_path / "photos" / "hiver") + b"/bad\xe9.png"
    with open(bad, "wb") as file:
        file.write(b"no image")
    with pytest.raises(OSError, match=r"bad\\udce9\.png cannot be read as an image") as raised:
        read(tmp_path / "photos")
    str(raised.value).encode()


@pytest.mark.parametrize("held_out", [0, 1, -0.1, 1.5, float("nan"), True, "0.1", [0.1], None])
def test_a_fraction_that_is_none_is_refused(tmp_path, held_out):
    tree(tmp_path, (".",))
    with pytest.raises(ValueError, match=r"dataset\.held_out=.* must lie between 0 and 1"):
        read(tmp_path, held_out=held_out)


@pytest.mark.parametrize("root", ["nowhere", "file", "loop", "a" * 300, "a/" * 3000, "null\0"])
def test_a_root_that_is_no_folder_is_one_sentence(tmp_path, root):
    (tmp_path / "file").write_text("?")
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(FileNotFoundError, match=r"^dataset\.root=.* is not a folder: give the folder that holds"):
        read(tmp_path / root if "\0" not in root else root)
