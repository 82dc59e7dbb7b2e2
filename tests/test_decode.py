"""Image files as pixels: bits, sizes, memory, and what is kept of them."""

import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from skipstone import data
from skipstone.data import decode as decoding
from skipstone.data.decode import decode


def read(root, **settings):
    return data.folder(
        **{"name": "folder", "root": str(root), "image_size": 4, "channels": 1, "held_out": 0.25, "flip": True}
        | settings
    )


def values(images):
    return sorted(torch.cat([images.train, images.held_out])[:, 0, 0, 0].tolist())


def deep(path, value, colours=None, compress=6):
    """A PNG of 16 bits, grey or with so many channels, all of one value; written by hand, for Pillow has no colours."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixel = value if colours else [value]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[len(pixel)]
    rows = (b"\0" + np.array(pixel * 4, ">u2").tobytes()) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(
    ("most", "bits"),
    [(255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, 16), (65535, 16)],
)
def test_16_bit_files_have_the_range_that_all_of_them_use(tmp_path, caplog, most, bits):
    caplog.set_level(logging.INFO, logger="skipstone.data")
    some = [0, most // 3, most // 2, most]
    for i, value in enumerate(some):
        deep(tmp_path / f"{i}.png", value)
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        caplog.clear()
        assert values(read(tmp_path, cache=cache)) == [value * 256 // 2**bits for value in some]
        assert (f"16-bit files use {bits} bits and are read as such" in caplog.text) == (bits < 16)


def test_the_parts_have_one_range_and_8_bit_files_keep_theirs(tmp_path):
    for i, value in enumerate((100, 900, 1000)):
        deep(tmp_path / "train" / f"{i}.png", value)
    deep(tmp_path / "test" / "0.png", 4000)
    Image.new("L", (4, 4), 77).save(tmp_path / "train" / "8-bit.png")
    images = read(tmp_path)
    assert images.train[:, 0, 0, 0].tolist() == [100 >> 4, 900 >> 4, 1000 >> 4, 77]
    assert images.held_out[:, 0, 0, 0].tolist() == [4000 >> 4]


def test_colours_of_12_bits_in_16_are_no_darker_than_they_are(tmp_path):
    deep(tmp_path / "rgb.png", [4095, 2048, 1024], colours=True)
    deep(tmp_path / "rgba.png", [0, 2048, 1024, 32896], colours=True)
    deep(tmp_path / "grey-alpha.png", [2000, 65535], colours=True)
    deep(tmp_path / "grey.png", 1000)
    paths = [str(tmp_path / f"{name}.png") for name in ("rgb", "rgba", "grey-alpha", "grey")]
    images, bits = decode(paths, 4, 3)
    assert bits == 12
    assert images[:, :, 0, 0].tolist() == [[255, 128, 64], [127, 191, 159], [125] * 3, [62] * 3]
    deep(tmp_path / "full.png", [65535, 2048, 1024], colours=True)
    images, bits = decode([*paths, str(tmp_path / "full.png")], 4, 3)
    assert bits == 16
    assert images[:, :, 0, 0].tolist() == [[15, 8, 4], [127, 131, 129], [7] * 3, [3] * 3, [255, 8, 4]]


def test_16_bit_tiffs_have_their_range_too(tmp_path):
    for i, value in enumerate((0, 2048, 4095)):
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / f"{i}.tif")
    images, bits = decode([str(tmp_path / f"{i}.tif") for i in range(3)], 4, 1)
    assert (images[:, 0, 0, 0].tolist(), bits) == ([0, 128, 255], 12)


def test_every_file_that_cannot_be_read_is_named_at_once(tmp_path):
    for i in range(4):
        Image.new("L", (4, 4)).save(tmp_path / f"{i}.png")
    for name in "abcdefgh":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(
        OSError, match=r"a\.png cannot be read as an image \(.*\): repair or remove it\. 7 more"
    ) as raised:
        read(tmp_path)
    assert "[Errno" not in str(raised.value)
    assert str(raised.value).endswith("f.png, ...")


@pytest.mark.parametrize("form", ["png", "jpg", "gif", "tif", "bmp", "webp"])
def test_damaged_files_are_one_sentence_or_pixels(tmp_path, form):
    """Cut and flipped anywhere: what Pillow's decoders raise has many classes."""
    g = np.random.default_rng(0)
    whole = tmp_path / f"whole.{form}"
    Image.fromarray(g.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(whole)
    content = whole.read_bytes()
    refused = 0
    for i in range(60):
        damaged = bytearray(content[: len(content) if i % 2 else int(g.integers(len(content)))])
        for _ in range(3 * (i % 2)):
            damaged[int(g.integers(len(damaged)))] ^= 1 << int(g.integers(8))
        whole.write_bytes(damaged)
        try:
            images, _ = decode([str(whole)], 4, 3)
            assert images.shape == (1, 3, 4, 4)
        except OSError as error:
            refused += 1
            assert "cannot be read as an image (" in str(error)  # noqa: PT017
    assert refused > 5


def peak(code, *arguments):
    """MiB that a process takes at most for `code`, above what its imports take."""
    code = (
        "import re, sys\nfrom pathlib import Path\n"
        "from skipstone import data\nfrom skipstone.data import decode as decoding\nimport torchvision.transforms.v2\n"
        "from PIL import Image\nImage.init()\n"
        # and not what getrusage tells, which starts with the memory of the process that started this one
        "most = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        f"before = most()\n{code}\nprint(most() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_large_files_are_decoded_one_at_a_time(tmp_path):
    """Two of 100 million pixels of four bytes each: 380 MiB one at a time, twice that and more together."""
    Image.new("RGB", (10_000, 10_000)).save(tmp_path / "0.png", compress_level=1)
    paths = [tmp_path / "0.png"] + [shutil.copy(tmp_path / "0.png", tmp_path / f"{i}.png") for i in (1,)]
    assert peak("decoding._CHUNK = 1; decoding.decode(sys.argv[1:], 8, 3)", *paths) < 500


def test_a_large_jpeg_is_decoded_at_a_smaller_scale(tmp_path):
    image = Image.new("RGB", (10_000, 9_000), (200, 100, 50))
    image.paste((0, 0, 255), (5000, 0, 10_000, 9_000))
    image.save(tmp_path / "large.jpg")
    del image
    assert peak("decoding.decode(sys.argv[1:], 8, 3)", tmp_path / "large.jpg") < 100
    images, _ = decode([str(tmp_path / "large.jpg")], 8, 3)
    expected = torch.tensor([[200, 100, 50]] * 4 + [[0, 0, 255]] * 4).T
    assert (images[0, :, 4].int() - expected)[:, [0, 1, 2, 5, 6, 7]].abs().max() <= 4


def test_a_file_beyond_the_limit_is_refused_by_name(tmp_path):
    Image.new("1", (20_000, 9_000)).save(tmp_path / "huge.png")
    with pytest.raises(OSError, match=r"huge\.png cannot be read as an image \(it has more than 178,956,970 pixels\)"):
        decode([str(tmp_path / "huge.png")], 8, 3)


def test_decoded_images_are_held_once(tmp_path):
    """100 images of 3 × 512 × 512: 75 MiB, and not that once more for each step to a data set, or to what is kept."""
    noise = np.random.default_rng(0).integers(256, size=(512, 512), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "0.bmp")
    for i in range(1, 100):
        os.link(tmp_path / "0.bmp", tmp_path / f"{i}.bmp")
    code = "data.folder('x', sys.argv[1], 512, 3, 0.5, False, sys.argv[2] or None)"
    assert peak(code, tmp_path, "") < 130
    assert peak(code, tmp_path, tmp_path / "cache") < 130


@pytest.fixture
def photos(tmp_path):
    for i in range(6):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 10 * i).save(path)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return tmp_path / "photos"


def exchanged(photos):
    a, b = photos / "a" / "0.bmp", photos / "b" / "1.bmp"
    a.rename(photos / "c")
    b.rename(a)
    (photos / "c").rename(b)


def unpacked_over(photos):
    other = photos.parent / "other"
    (other / "a").mkdir(parents=True)
    Image.new("L", (4, 4), 99).save(other / "a" / "0.bmp")
    os.utime(other / "a" / "0.bmp", (1_000_000_000, 1_000_000_000))
    subprocess.run(["tar", "-C", other, "-cf", photos.parent / "archive.tar", "a"], check=True)
    subprocess.run(["tar", "-C", photos, "-xf", photos.parent / "archive.tar"], check=True)


def written_over(photos):
    path, before = photos / "a" / "0.bmp", (photos / "a" / "0.bmp").stat()
    content = bytearray(path.read_bytes())
    content[-16:] = bytes([99] * 16)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def copied_with_its_times(photos):
    Image.new("L", (4, 4), 99).save(photos.parent / "new.bmp")
    os.utime(photos.parent / "new.bmp", (1_000_000_000, 1_000_000_000))
    shutil.copy2(photos.parent / "new.bmp", photos / "a" / "0.bmp")


def folders_exchanged(photos):
    (photos / "a").rename(photos / "c")
    (photos / "b").rename(photos / "a")
    (photos / "c").rename(photos / "b")


def link_turned(photos):
    Image.new("L", (4, 4), 99).save(photos.parent / "new.bmp")
    os.utime(photos.parent / "new.bmp", (1_000_000_000, 1_000_000_000))
    (photos / "a" / "0.bmp").unlink()
    (photos / "a" / "0.bmp").symlink_to(photos.parent / "new.bmp")


@pytest.mark.parametrize(
    "act", [exchanged, unpacked_over, written_over, copied_with_its_times, folders_exchanged, link_turned]
)
def test_pixels_changed_under_the_same_names_sizes_and_times_are_read(photos, tmp_path, act):
    def record():
        return [(str(p), p.stat().st_size, p.stat().st_mtime) for p in sorted(photos.glob("*/*"))]

    before, first = record(), read(photos, cache=str(tmp_path / "cache"))
    act(photos)
    assert (record() == before) == (act is not folders_exchanged)
    again = read(photos, cache=str(tmp_path / "cache"))
    assert again.fingerprint == read(photos).fingerprint != first.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the new in place of the old


def kept_with(change):
    def damage(path):
        with safe_open(path, "pt") as kept:
            images, about = kept.get_tensor("images").clone(), json.loads(kept.metadata()["about"])
        images, about = change(images, about)
        save_file({"images": images.contiguous()}, path, {"about": json.dumps(about)})

    return damage


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link_to_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "a bit": flipped,
    "the end": lambda path: os.truncate(path, 100),
    "everything": lambda path: path.write_bytes(b""),
    "one image fewer": kept_with(lambda images, about: (images[1:], about)),
    "another shape": kept_with(lambda images, about: (images.view(6, 1, 2, 8), about)),
    "another type": kept_with(lambda images, about: (images.view(torch.int8), about)),
    "other pixels": kept_with(lambda images, about: (images + 1, about)),
    "another order": kept_with(lambda images, about: (images.flip(0), about)),
    "no digest": kept_with(lambda images, about: (images, {"of": about["of"], "bits": ""})),
    "no record": kept_with(lambda images, about: (images, {})),
    "no number of bits": kept_with(lambda images, about: (images, about | {"bits": "x"})),
    "a pipe in its place": link_to_a_pipe,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_kept_and_not_whole_is_made_again(photos, tmp_path, monkeypatch, damage):
    cache = str(tmp_path / "cache")
    first = read(photos, cache=cache)
    (entry,) = (tmp_path / "cache").iterdir()
    damage(entry)
    again = read(photos, cache=cache)
    assert (again.fingerprint, again.train.dtype) == (first.fingerprint, torch.uint8)
    monkeypatch.setattr(decoding, "_read_one", None)  # now nothing is decoded
    assert read(photos, cache=cache).fingerprint == first.fingerprint
