"""Words of a command line as people type them: paths with any signs, keys that nothing reads, short names."""

import contextlib
import inspect
import io
import json
import os
import re
import runpy
import signal
import sys

import lightning
import numpy as np
import pytest
from forks import FORKS
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image
from shell import ENVIRONMENT, ROOT, python

from skipstone.commands import trackers
from skipstone.commands.schema import CONF, keys_of
from skipstone.commands.trainer import REFUSED
from skipstone.commands.words import PATHS, readable, unquoted
from skipstone.store.models import ModelStore

ODD = [
    "photos (1)", "it's", 'a "b"', "a,b", "2,5", "[2024] trip", "{x}", "a=b", "cost$5", "a b ", "back\\slash", "end\\",
    "größe", "写真", "photos(1)", "a[1]", "a#b;c&d", "!x", "a:b", "`ls`",
]  # fmt: skip
PASSED = {
    "num_nodes", "gradient_clip_algorithm", "deterministic", "benchmark", "inference_mode", "profiler",
    "detect_anomaly", "default_root_dir",
}  # fmt: skip
REFUSALS = {
    "sample": {
        "+wxyz=latents.npy": r"there is no key wxyz \(in \+wxyz=latents.npy\): `--cfg job` shows",
        "+logger=csv": r"\+logger=csv is not allowed: this command has no group logger; `--cfg job` shows",
        "++gift=true": r"there is no key gift \(in \+\+gift=true\): did you mean gif\?",
        "+trainer.max_steps=5": r"\+trainer.max_steps=5 is not allowed: this command has no group trainer",
        "noise={num_steps: 50}": r"there is no key noise.num_steps \(in noise=",
        "noise={_target_: skipstone.noise.linear}": "noise=.* is not allowed: it is that of the model, so leave it out",
        "solver={order: 2}": r"there is no key solver.order .*: solver=ddim has no order; these do: adams_bashforth, ",
        "schedule.rho=3": r"there is no key schedule.rho .*: schedule=exp has no rho; these do: karras, polynomial\.$",
        "+solver.order=2": r"there is no key solver.order .*: solver=ddim has no order; these do: adams_bashforth, ",
        "solver={etta: 1}": r"there is no key solver.etta \(in solver=\{etta: 1\}\): did you mean solver.eta",
    },
    "evaluate": {"+evaluation.grid=true": r"there is no key evaluation.grid .*did you mean evaluation"},
    "tables": {"+nfe=5": r"there is no key nfe \(in \+nfe=5\): did you mean nfes"},
    "train": {
        "+tua=5": r"there is no key tua \(in \+tua=5\): did you mean tau",
        "+note.mine=5": r"there is no key note \(in \+note.mine=5\)",
        "+evaluation.tau=5": r"there is no key evaluation.tau .*did you mean evaluation.taus",
        "evaluation.training={tuas: [1]}": r"there is no key evaluation.training.tuas .*did you mean \S+training.taus",
        "trainer={max_tme: 5}": r"there is no key trainer.max_tme .*did you mean trainer.max_steps",
        "+trainer.max_tme=5": r"there is no key trainer.max_tme .*did you mean trainer.max_steps",
        "+training.batchsize=5": r"there is no key training.batchsize .*did you mean training.batch_size",
        "+schedule.power=3": r"there is no key schedule.power .*did you mean schedule.tau",
        "noise.offset=1": r"there is no key noise.offset .*: noise=linear has no offset; these do: cosine\.$",
        "+metrics.images=5": r"there is no key metrics.images \(",  # an argument that the command passes itself
        "logger=none": None,
        "+trainer.benchmark=true": None,
        "+metrics.own.mine._target_=a.b": None,
        "evaluation.schedules={quad: [5]}": None,
        "+noise.more=5": r"there is no key noise.more \(",
    },
}


def quietly(script, words):
    """The last line on stderr of a command in this process, which ends before it trains."""
    sys.argv = [str(ROOT / script), *words]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        runpy.run_path(sys.argv[0], run_name="__main__")
    return (said.getvalue().splitlines() or [""])[-1].removeprefix("error: ")


def _each(lines, folder):
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.chdir(folder)
    said = [quietly(script, words) for script, words in lines]
    (folder / "said").write_text(json.dumps(said))


def said_of(lines, folder):
    """What each command line is answered, in one fork."""
    process = FORKS.Process(target=_each, args=(lines, folder))
    process.start()
    process.join(200)
    assert process.exitcode == 0
    return json.loads((folder / "said").read_text())


@pytest.mark.parametrize("command", REFUSALS)
def test_a_key_that_nothing_reads_is_refused_with_the_nearest(command, tmp_path):
    script = "train.py" if command == "train" else f"scripts/{command}.py"
    # a last word that is wrong by itself, for what passes
    always = ["logger=csv", "tau=0", "dataset=mnist5k"] if command == "train" else ["run=K"]
    lines = [(script, [*always, word]) for word in REFUSALS[command]]
    for (_, words), said, expected in zip(lines, said_of(lines, tmp_path), REFUSALS[command].values(), strict=True):
        assert re.match(expected or "tau=0 is not allowed", said), (words, said)


def test_a_key_in_a_file_of_the_users_own_is_refused_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nevaluaton:\n  images: 5\n")
    done = python("train.py", f"--config-dir={tmp_path}", "experiment=mine", f"paths.outputs={tmp_path}/outputs")
    assert done.returncode == 1
    assert "error: there is no key evaluaton (in a file of settings): did you mean evaluation" in done.stderr


def test_every_option_that_is_shipped_has_known_keys_alone(composed):
    """A configuration of every option passes: nothing of ours is refused."""
    options = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))
    for group, option in options:
        config = OmegaConf.to_container(composed(f"{group}={option}"), resolve=False)
        known = keys_of("train", () if group == "experiment" else ((group, option),))
        assert set(config) <= known | {"experiment"}, (group, option)


def test_every_argument_of_lightnings_trainer_is_ours_refused_or_passed():
    ours = set(OmegaConf.load(CONF / "trainer" / "auto.yaml"))
    taken = set(inspect.signature(lightning.Trainer).parameters)
    assert taken == (taken & ours) | REFUSED.keys() | PASSED
    assert not ours & REFUSED.keys()


def test_each_argument_that_collides_is_refused_with_the_key_in_its_place(tmp_path):
    lines = [("train.py", ["experiment=smoke", "logger=none", f"+trainer.{name}=2"]) for name in REFUSED]
    for name, said in zip(REFUSED, said_of(lines, tmp_path), strict=True):
        assert said == f"trainer.{name} is not allowed: {REFUSED[name]}."
    named = {
        key for why in REFUSED.values() for key in re.findall(r"(?:trainer|training|evaluation|paths)\.[\w.]+", why)
    }
    assert named <= keys_of("train", ())
    assert not [path.name for path in tmp_path.glob("outputs/models/*")]


@pytest.mark.parametrize("swept", [[], ["-m"]], ids=["one", "sweep"])
@pytest.mark.parametrize("path", ODD)
def test_hydra_reads_a_path_as_it_is_typed(path, swept):
    if swept and "," in path:
        return  # separates two values: see below
    for key in PATHS:
        *_, word = readable([*swept, f"{key}={path}"])
        typed = path.strip() if swept and not key.startswith("hydra.") else path  # there may be blanks after a comma
        assert OverridesParser.create().parse_override(word).value() == typed
        assert unquoted(word.partition("=")[2]) == typed


def test_a_comma_separates_paths_in_a_sweep_alone_and_quotes_keep_it():
    def read(word):
        return OverridesParser.create().parse_override(readable(["-m", f"dataset.root={word}"])[1])

    def values(word):
        return [OverridesParser.create().parse_override(f"a={v}").value() for v in read(word).sweep_string_iterator()]

    assert values("photos (1),it's, ~/b") == ["photos (1)", "it's", os.path.expanduser("~/b")]
    assert values("'a, b',c") == ["a, b", "c"]
    assert read("'a, b'").value() == "a, b"
    assert read("choice(a,b)").is_sweep_override()


@pytest.mark.parametrize("word", ["dataset.root=5", "dataset.root=null", "dataset.root='5'", "tau=2,3", "a.b=[1,2]"])
def test_what_is_no_path_stays_what_it_is(word):
    assert readable([word]) == [word]


NAMES = ["a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "x" * 129, "x" * 128, "skipstone", "a b", "größe", "a.b-c_d", "(1)"]


def test_a_name_is_refused_where_wandb_itself_refuses_it():
    wandb = pytest.importorskip("wandb")
    for name in NAMES:
        refused = []
        for check in (
            lambda name=name: wandb.Settings(project=name),
            lambda name=name: trackers.check(OmegaConf.create({"logger": {"_target_": "x.Wandb", "project": name}})),
        ):
            try:
                check()
                refused.append(False)
            except (wandb.errors.UsageError, ValueError):
                refused.append(True)
        assert refused[0] == refused[1], name


def test_an_id_or_a_tag_that_wandb_refuses_is_refused(monkeypatch):
    config = OmegaConf.create({"logger": {"_target_": "x.Wandb", "project": "p"}, "dataset": {"name": "x" * 65}})
    with pytest.raises(ValueError, match=r"dataset.name='x+' is not allowed: it is at most 64 characters long"):
        trackers.check(config)
    config.dataset.name = "x" * 64
    trackers.check(config)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        for value in ("a/b", " a", "a'b"):
            with monkeypatch.context() as context:
                context.setenv(name, value)
                with pytest.raises(ValueError, match=f"{name}=.* is not allowed: it is a word without"):
                    trackers.check(config)


PHOTOS = "my photos (1), it's [a] = $5 größe"


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    """Where a user stands, with a folder of images, and a training from there with Hydra in a folder of its own."""
    folder = tmp_path_factory.mktemp("stand")
    (folder / PHOTOS).mkdir()
    for i in range(60):
        Image.effect_noise((32, 32), 60 + i).save(folder / PHOTOS / f"{i}.png")
    done = train(folder, "hydra.job.chdir=true", "hydra.run.dir=my run (1)")
    assert done.returncode == 0, done.stderr
    return folder


def train(folder, *words):
    always = ["experiment=smoke", "logger=none", "metrics=none", "dataset=folder", f"dataset.root={PHOTOS}"]
    return python(ROOT / "train.py", *always, *words, cwd=folder)


def test_relative_paths_mean_where_the_user_stands_whatever_hydra_does(stand):
    assert {path.name for path in stand.iterdir()} == {PHOTOS, "outputs", "my run (1)"}
    assert (stand / "my run (1)" / "report.html").is_file()
    assert not (stand / "my run (1)" / "outputs").exists()
    (model,) = stand.glob("outputs/models/*/DONE")
    began = model.stat().st_mtime_ns
    # with -m a comma separates values, so the path has quotes
    words = ["-m", "dataset.root='" + PHOTOS.replace("'", r"\'") + "'", "tau=2,3", "hydra.sweep.dir=a sweep (2)"]
    done = train(stand, "hydra.job.chdir=true", *words)
    assert done.returncode == 0, done.stderr
    assert (stand / "a sweep (2)" / "1" / "report.html").is_file()
    assert [path.stat().st_mtime_ns for path in stand.glob("**/models/*/DONE")] == [began]


@pytest.mark.parametrize("by", ["prefix", "latest", "run", "home", "job"])
def test_a_model_is_found_by_a_short_name(stand, by, tmp_path):
    (key,) = (path.parent.name for path in stand.glob("outputs/models/*/DONE"))
    if by == "job" and not (stand / "a sweep (2)").is_dir():
        pytest.skip("its sweep is the test before")
    name = {
        "prefix": key[:-3],
        "latest": "latest",
        "run": "my run (1)",
        "home": f"~/outputs/models/{key}",
        "job": "a sweep (2)/0",
    }
    words = [f"run={name[by]}", f"out=~/{by} (1)", "tau=2", "n=2", "hydra.job.chdir=true"]
    done = python(ROOT / "scripts" / "sample.py", *words, cwd=stand, environment=ENVIRONMENT | {"HOME": str(stand)})
    assert done.returncode == 0, done.stderr
    assert np.load(stand / f"{by} (1)" / "samples.npz")["samples"].shape == (2, 3, 32, 32)


def test_python_loads_from_the_home_folder(stand):
    (key,) = (path.parent.name for path in stand.glob("outputs/models/*/DONE"))
    load = f"import skipstone; print(skipstone.load('~/outputs/models/{key}')[0].image_size)"
    assert python("-c", load, environment=ENVIRONMENT | {"HOME": str(stand)}).stdout == "32\n"


def finished(root, *keys):
    for i, key in enumerate(keys):
        (root / "models" / key).mkdir(parents=True)
        done = root / "models" / key / "DONE"
        done.touch()
        os.utime(done, (i, i))
    return ModelStore(root)


def test_a_beginning_is_that_of_one_key_and_four_characters_long(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = finished(tmp_path / "outputs", "mnist5k-ab12", "mnist5k-ab34", "faces-cd56", "faces-cd56e")

    def find(name):
        return store.find(name, lambda folder: None).name

    assert find("mnist5k-ab1") == "mnist5k-ab12"
    assert find("faces-cd56") == "faces-cd56"  # a whole key, though another begins with it
    assert find("latest") == "faces-cd56e"
    with pytest.raises(ValueError, match=r"run=mnist5k is the beginning of several keys: .* mnist5k-ab12, mn"):
        find("mnist5k")
    with pytest.raises(FileNotFoundError, match="run=mni is neither a folder nor a key: there is faces-cd56, "):
        find("mni")


def test_a_run_names_its_model_in_the_store_that_it_stands_beside_and_no_path(tmp_path):
    here, there = (finished(tmp_path / name, "faces-cd56") for name in ("here", "there"))
    run = tmp_path / "there" / "runs" / "1"
    run.mkdir(parents=True)
    assert here.find(str(run), lambda folder: "faces-cd56") == here.folder("faces-cd56")
    (here.folder("faces-cd56") / "DONE").unlink()
    assert here.find(str(run), lambda folder: "faces-cd56") == there.folder("faces-cd56")
    assert here.find(str(run), lambda folder: "../../etc") == run
    with pytest.raises(FileNotFoundError, match="is of the model gone-1, which is not there"):
        here.find(str(run), lambda folder: "gone-1")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_after_the_one_that_ended_the_command_leaves_its_sentence_alone(second):
    tell = (
        "import atexit, os, signal; from skipstone.commands.cli import main; "
        f"atexit.register(lambda: os.kill(os.getpid(), {int(second)})); "
        "main(lambda: signal.raise_signal(signal.SIGTERM))"
    )
    done = python("-c", tell)
    assert done.returncode == 130
    (line,) = done.stderr.splitlines()
    assert line.startswith("interrupted; the same command continues")
