"""What the README and the docs say is so."""

import re
import shlex

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from skipstone.commands.cli import CONF
from skipstone.store.models import ModelStore

README = (CONF.parent / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((CONF.parent / "docs").glob("*.md")))]
COMMANDS = [
    (script or "train", arguments)
    for page in PAGES
    for script, arguments in re.findall(
        r"^    python (?:train|scripts/(?!benchmark|report)(\w+))\.py (.*?)(?: +#.*)?$",
        page.replace("\\\n", ""),
        re.MULTILINE,
    )
]


def test_the_table_lists_every_option_of_every_group():
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", README, re.MULTILINE))
    groups = {path.parent for path in CONF.glob("*/*.yaml")}
    there = {folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in groups}
    assert {group: set(options.split(", ")) for group, options in listed.items() if group in there} == there


@pytest.mark.parametrize(("config", "arguments"), COMMANDS)
def test_every_command_composes(config, arguments, composed):
    arguments = re.sub(r"<\w+>", "x", arguments)
    overrides = [word for word in shlex.split(arguments) if not word.startswith("-") and word != "job"]
    config = {"solver": "proof"}.get(config, config)
    composed(*(re.split(r",(?![^\[]*\])", override)[0] for override in overrides), config=config)  # not within a list


def test_every_picture_and_page_that_is_linked_is_there():
    for page in (CONF.parent / "README.md", *(CONF.parent / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert page.parent.joinpath(target).exists(), f"{page}: {target}"


def test_the_python_example_runs(tmp_path, capsys, composed):
    config = OmegaConf.to_container(composed("model.base=8"), resolve=True)
    weights = {"dataset": {"name": "mnist5k"}, "model": config["model"], "noise": config["noise"]}
    folder = ModelStore(tmp_path).ensure(weights, lambda _: instantiate(config["model"]))
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(example.replace("outputs/models/<key>", str(folder)), {})
    assert len(capsys.readouterr().out.splitlines()) == 50
