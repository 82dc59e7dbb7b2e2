"""Where compiled code is kept, and what is said while it is made."""

import logging
import os

import pytest
import tiny
import torch

from skipstone.network import compiling

VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    monkeypatch.setattr(compiling, "_done", set())
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "/somewhere")  # so that it is put back
        monkeypatch.delenv(variable)


def test_compiled_code_is_kept_under_outputs_unless_the_user_says_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    compiling.keep_under("outputs")
    assert [os.environ[name] for name in VARIABLES] == [str(tmp_path / "outputs" / "cache" / "inductor"), "/mine"]
    from torch._inductor.runtime.runtime_utils import cache_dir

    assert cache_dir() == os.environ["TORCHINDUCTOR_CACHE_DIR"]  # read when it is used, not when torch is imported


def test_the_default_that_torch_itself_writes_there_is_no_users_word(tmp_path):
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    cache_dir()  # as some of torch's modules do when they are imported
    assert "TORCHINDUCTOR_CACHE_DIR" in os.environ
    compiling.keep_under(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "inductor")


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (("/a/b/inductor", "/a/b/triton"), "in /a/b"),
        (("/a/b", "/c/d/e"), "in /a/b and /c/d/e"),
        ((), "torch's own cache"),
    ],
)
def test_the_folder_of_the_cache_is_named_whole(folders, told, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "skipstone")
    for variable, folder in zip(VARIABLES, folders, strict=False):
        monkeypatch.setenv(variable, folder)
    with compiling.announced("a thing", {"compile": True, "kernels": False}):
        pass
    assert caplog.messages[0].endswith(told)


def test_a_training_that_compiles_says_so_once_and_says_how_long_it_took(tmp_path, caplog):
    caplog.set_level(logging.INFO, "skipstone")
    compiling.keep_under(tmp_path)
    with torch._dynamo.config.patch(disable=True):  # compiling in earnest takes a minute
        for name in ("one", "two"):
            tiny.train(tmp_path / name, max_steps=2, compile=True)
    said = [record.message for record in caplog.records if record.name == "skipstone.network.compiling"]
    assert len(said) == 2
    assert said[0].startswith("compiling the network, to train it: about a minute the first time")
    assert said[0].endswith(f"found again in {tmp_path / 'cache'}")
    assert said[1].startswith("compiled the network, to train it in ")


def test_one_that_compiles_nothing_says_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO, "skipstone")
    tiny.train(tmp_path / "plain", max_steps=2)
    assert not [record for record in caplog.records if record.name == "skipstone.network.compiling"]


def test_it_is_known_whether_something_is_compiled_now():
    said = []
    for compiled in (False, True, True):
        with compiling.announced("a thing", {"compile": compiled, "kernels": False}) as now:
            said.append(now)
    assert said == [False, True, False]
