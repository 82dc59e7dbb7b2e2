"""What README and docs say, typed: every command line of every page, and the list of claims with the test of each."""

import ast
import re
import shlex
import tomllib

import pytest
from shell import ENVIRONMENT, ROOT, python

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}

# Small enough for a test; everything else is as it is typed.
SMALL = [
    "logger=none", "model.base=8", "training.batch_size=8", "training.warmup=2", "trainer.max_steps=4",
    "trainer.log_every_n_steps=2", "trainer.checkpoint_every_n_steps=2", "trainer.enable_progress_bar=false",
    "evaluation.images=16", "evaluation.fine_images=2", "evaluation.training.images=10", "metrics.features=8",
    "metrics.classifier_steps=10",
]  # fmt: skip
SMALL_SCRIPT = {
    "evaluate": [
        "evaluation.images=16", "evaluation.fine_images=2", "metrics.features=8", "metrics.classifier_steps=10",
    ],
    "distance": ["metrics.features=8", "metrics.classifier_steps=10"],
    "sample": ["n=4"],
    "interpolate": ["rows=1", "columns=3"],
    "reconstruct": ["n=2", "taus=[5]", "exact=[]"],
}  # fmt: skip
# What cannot be typed here, and why. test_readme.py composes them all the same.
NOT_HERE = {
    "dataset=cifar10": "downloads CIFAR-10",
    "experiment=cifar10": "downloads CIFAR-10 and wants a GPU",
    "path/to/": "wants a folder of diffusers, or of a run; test_exchange_commands.py types both",
    "image=": "wants images; test_editing.py types it",
    "start=": "wants latents; test_editing.py types it",
    "to=onnx": "takes half a minute; test_editing.py types it",
    "own_": "wants the page's own files; test_extending.py types it",
    "<folder>": "wants CIFAR-10 as a folder",
    "dataset=mnist": "downloads MNIST",
    "guidance=": "wants a model with classes; test_guidance_commands.py types it",
    "scripts/tables.py": "wants the CIFAR-10 model; test_results.py runs it on a small one",
    "scripts/quality.py": "wants the CIFAR-10 model; test_quality.py runs it on a small one",
    "scripts/fit.py": "fits for minutes; test_fit.py runs it on a small model",
    "solver=fitted": "wants a fitted table; test_fit.py types it",
    "scripts/study.py": "wants a trained model of MNIST; test_commands.py runs it on a small one",
    "scripts/benchmark.py": "measures for minutes; test_benchmark.py runs every subcommand",
}


def commands():
    """Every indented `python …` or `skipstone …` line of every page, once and as a checkout types it."""
    found = {}
    for page in PAGES.values():
        page = re.sub(r"(?m)^    skipstone (?!train)(\w+)", r"    python scripts/\1.py", page.replace("\\\n", ""))
        page = re.sub(r"(?m)^    skipstone train", "    python train.py", page)
        for line in re.findall(r"(?m)^    (python (?:train|scripts/\w+)\.py.*)$", page):
            found[" ".join(shlex.split(line, comments=True))] = None
    return [line for line in found if not any(word in line for word in NOT_HERE)]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder of outputs with the small default model, a sweep over it, and photos."""
    folder = tmp_path_factory.mktemp("room")
    words = ["schedule=exp", "nfe=5,6", *SMALL, f"paths.outputs={folder}/outputs"]
    done = python("train.py", "-m", *words)
    assert done.returncode == 0, done.stderr
    (key,) = (path.parent.name for path in folder.glob("outputs/models/*/DONE"))
    (folder / "key").write_text(key)
    images = "from PIL import Image; [Image.effect_noise((40, 32), 60 + i).save(f'{i}.png') for i in range(100)]"
    (folder / "photos").mkdir()
    assert python("-c", images, cwd=folder / "photos").returncode == 0
    return folder


@pytest.mark.parametrize("line", commands())
def test_every_command_line_runs(line, room):
    key = (room / "key").read_text()
    sweep = next(path.parent for path in sorted(room.glob("outputs/sweeps/*/*/multirun.yaml")))
    typed = line.replace("<key>", key).replace("outputs/sweeps/<date>/<time>", str(sweep))
    _, script, *words = shlex.split(typed.replace("dataset.root=photos", f"dataset.root={room}/photos"))
    if script == "train.py" and "--cfg" not in words and not any(word.startswith("resume=") for word in words):
        small = [word for word in SMALL if word.partition("=")[0] not in {word.partition("=")[0] for word in words}]
        words += small if "experiment=smoke" not in words else []
    if script.startswith("scripts/"):
        words += SMALL_SCRIPT.get(script.removeprefix("scripts/").removesuffix(".py"), [])
    if script != "scripts/report.py" and not any(word.startswith("resume=") for word in words):
        words.append(f"paths.outputs={room}/outputs")
    done = python(script, *words)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_every_package_is_pinned():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*wanted["dependencies"], *wanted["optional-dependencies"]["dev"], *wanted["optional-dependencies"]["fid"]]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    asked = {re.match(r"[\w-]+", name)[0].lower() for name in names} - {"skipstone"}
    assert asked <= pinned


def test_the_traceback_is_shown_where_it_is_asked_for(tmp_path):
    words = ("experiment=smoke", "tau=0", f"paths.outputs={tmp_path}")
    for asked, shown in (({}, False), ({"HYDRA_FULL_ERROR": "1"}, True)):
        done = python("train.py", *words, environment=ENVIRONMENT | asked)
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == shown


def test_a_sweep_with_the_whole_grid_in_each_job(room):
    words = ["-m", "schedule=exp", "nfe=5,6", "evaluation.grid=true", "evaluation.taus=[10,12]", *SMALL]
    sweep = room / "outputs" / "grid"
    done = python("train.py", *words, f"paths.outputs={room}/outputs", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 0, done.stderr
    for job in ("0", "1"):
        assert len((sweep / job / "evaluation.csv").read_text().splitlines()) == 1 + 2 * 2 + 1  # header, grid, own cell


def sentences(page):
    """The sentences of a page's prose: without code blocks, tables, headings and pictures."""
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    text = re.sub(r"(?m)^(    |\||#|!\[|<!--).*$", "", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=- )", text)
    parts = [re.split(r"(?<=[.])\s+(?=[A-Z`\[*])", " ".join(each.removeprefix("- ").split())) for each in paragraphs]
    return [part for each in parts for part in each if part]


def claims():
    """The rows of docs/claims.md: page → [(beginning of the sentence, tests)]."""
    rows, page = {}, None
    for line in PAGES["docs/claims.md"].splitlines():
        if line.startswith("## "):
            page = line.removeprefix("## ")
            rows[page] = []
        elif line.startswith("| ") and not line.startswith(("| claim", "|---")):
            claim, tests = line.strip("| ").rsplit(" | ", 1)
            rows[page].append((claim.replace("\\|", "|"), tests))
    return rows


def test_every_claim_stands_in_its_page_and_has_a_test_that_is_there():
    there = {}
    for path in ROOT.glob("tests/**/test_*.py"):
        tree = ast.parse(path.read_text())
        there[path.name] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for page, rows in claims().items():
        text = " ".join(re.sub(r"(?m)^[-*] ", "", PAGES[page]).split())
        for claim, tests in rows:
            assert claim in text, f"{page} no longer says: {claim}"
            for test in tests.split(", "):
                file, _, name = test.partition("::")
                assert name in there[file], f"{page}: {claim}: there is no {test}"


@pytest.mark.parametrize("page", ["README.md", "docs/running.md", "docs/outputs.md", "docs/solvers.md"])
def test_every_sentence_that_names_what_can_be_typed_is_a_claim(page):
    listed = [claim for claim, _ in claims()[page]]
    missing = [s for s in sentences(PAGES[page]) if "`" in s and not any(claim in s or s in claim for claim in listed)]
    assert missing == []
