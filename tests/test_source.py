"""The code of a network of one's own is in its key: edited code is another model."""

import importlib
import sys

import pytest
from torch import nn

from skipstone import UNet, noise
from skipstone.commands.finished import OpenedModel
from skipstone.store import source

FILES = {
    "mynet.py": "from torch import nn\nimport myact\nfrom mypart import W\n\nclass Net(nn.Module):\n    width = W\n",
    "mypart.py": "W = 3\n",
    "myact.py": "def act(x):\n    return x\n",
    "unused.py": "x = 1\n",
}


def opened(net, folder):
    """A model as a command opens it, with weights of three bytes."""
    (folder / "ema.safetensors").write_bytes(b"abc")
    trainer = {"precision": "32-true", "kernels": False}
    return OpenedModel(net, None, (1, 8, 8), folder, trainer)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def load(**changed):
        for name, text in {**FILES, **{f"{name}.py": text for name, text in changed.items()}}.items():
            (tmp_path / name).write_text(text)
            sys.modules.pop(name.removesuffix(".py"), None)
        importlib.invalidate_caches()
        return source.fingerprint([importlib.import_module("mynet").Net])

    yield load
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_our_code_and_installed_packages_have_no_fingerprint():
    assert source.fingerprint([UNet, nn.Linear, noise.linear, dict]) is None


def test_an_edited_file_changes_it_and_so_does_one_that_is_imported(own):
    before = own()
    assert before == own() == own(unused="x = 2\n")
    changed = {
        own(mynet=FILES["mynet.py"] + "    def forward(self, x, t):\n        return x\n"),
        own(mypart="W = 4\n"),
        own(myact="def act(x):\n    return 2 * x\n"),
    }
    assert len(changed) == 3
    assert before not in changed


def test_what_is_kept_of_an_edited_network_is_not_taken_for_its_own(own, tmp_path):
    def form(**changed):
        own(**changed)
        return opened(nn.Sequential(nn.SiLU(), sys.modules["mynet"].Net()), tmp_path).form

    before = form()
    assert before == form()
    assert form(myact="def act(x):\n    return 3 * x\n") != before
    assert "code" not in opened(UNet(8, 1, base=8, multipliers=(1,), blocks=1, attention=()), tmp_path).form
