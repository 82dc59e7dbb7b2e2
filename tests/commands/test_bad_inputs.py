"""Every bad input gets one sentence that says what to do and an exit code, soon, and harms nothing."""

import hashlib
import re
import resource
import shlex
import shutil
from pathlib import Path

import pytest
from bad_inputs import CASES, FAMILIES, OFFLINE, TRAIN, Case
from omegaconf import OmegaConf
from rooms import Room, nothing
from shell import ENVIRONMENT, ROOT, WARM, python

TABLE = ROOT / "tests" / "commands" / "bad-input.md"
ERROR = re.compile(r"(?:error|\w+\.py: error|ValueError|FileNotFoundError): (.*)")  # the last two from Python
# What a run says of itself before it fails
LOG = r"outputs/(runs/[^/]+/[^/]+|sweeps/[^/]+/[^/]+(/\d+)?)/(\.hydra/\w+\.yaml|train\.log|error\.txt|multirun\.yaml)"


def words_of(case: Case, room: Room) -> list[str]:
    """The case's command line: a script and its arguments, or Python's."""
    command = case.command.replace("<key>", room.key).replace("<other>", room.other)
    if command.startswith("skipstone."):
        return ["-c", f"import skipstone; {command}"]
    return shlex.split(re.sub(r"^train\.py(?! resume=)", TRAIN, command))


def forked(words: list[str], folder: Path, environment: dict[str, str], limit: int | None = None):
    """The command in a fork of a process that has imported everything."""
    script = words if words[0] == "-c" else [ROOT / words[0], *words[1:]]
    return WARM.run(script, folder, ENVIRONMENT | environment, limit)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Room:
    """A store with two models, and the sweep that trained them."""
    folder = tmp_path_factory.mktemp("template") / "room"
    folder.mkdir()
    done = forked([*shlex.split(TRAIN), "model.base=8,16", "hydra.sweep.dir=outputs/sweeps/past", "-m"], folder, {})
    assert done.returncode == 0, done.stderr
    keys = {OmegaConf.load(path).model.base: path.parent.name for path in folder.glob("outputs/models/*/config.yaml")}
    return Room(folder, keys[8], keys[16])


@pytest.fixture(scope="module")
def shared(template, tmp_path_factory) -> Room:
    """The room of all cases in which only the command is bad: they must leave it as it is."""
    return copied(template, tmp_path_factory.mktemp("shared"))


def copied(room: Room, into: Path) -> Room:
    return Room(shutil.copytree(room.path, into / "room"), room.key, room.other)


def content(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder. A training's folder is renamed by each command that goes on with it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {unclaimed(str(path.relative_to(folder))): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def unclaimed(text: str) -> str:
    return re.sub(r"(outputs/models/[\w-]+(\.fresh)?)\.[0-9a-f]{8}(?=/)", r"\1", text)


def harm(case: Case, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The files that are gone or changed, and the new ones that nobody needs."""
    harmed = [name for name in before if before[name] != after.get(name) and not re.fullmatch(case.renews, name)]
    needed = re.compile(f"{LOG}|{case.leaves}")
    new = (name for name in after if name not in before)
    return harmed + [name for name in new if name.endswith(".tmp") or not needed.fullmatch(name)]


def tried(case: Case, room: Room, run) -> str:
    """The sentence that the case gets from `run`; fails unless it is as the case says, and nothing is harmed."""
    for module, mark in {"wandb": "logger=wandb", "torch_fidelity": "metrics.inception"}.items():
        if mark in case.command:
            pytest.importorskip(module)
    end = case.prepare(room)
    try:
        before = content(room.path)
        done = run(words_of(case, room), room.path, case.environment, case.limit)
        after = content(room.path)
    finally:
        if end is not None:
            end()
    assert done.returncode == case.code, done.stderr
    assert not harm(case, before, after)
    sentences = [found[1] for line in done.stderr.splitlines() if (found := ERROR.match(line))]
    if case.says is None:
        assert not sentences
        return "works as without it"
    if case.command.startswith("skipstone."):
        sentences = sentences[-1:]  # a traceback's last line; the causes stand above
    (sentence,) = sentences
    says = case.says.replace("<key>", room.key).replace("<other>", room.other).replace("<claim>", "[0-9a-f]{8}")
    assert re.search(says, sentence), sentence
    assert "Traceback" not in done.stderr or case.command.startswith("skipstone."), done.stderr
    return sentence


@pytest.mark.parametrize("case", [case for case in CASES if not case.at_import], ids=lambda case: case.what)
def test_it_gets_one_sentence_and_harms_nothing(case, template, shared, tmp_path):
    alone = case.prepare is not nothing or case.leaves != Case.leaves
    tried(case, copied(template, tmp_path) if alone else shared, forked)


def test_harm_is_seen(shared):
    """The guard itself: a file that changes, one that goes, a new one, a temporary one that was left."""
    case, log = CASES[0], "outputs/runs/today/now/train.log"
    assert harm(case, {"kept": "1"}, {"kept": "1", log: "2"}) == []
    assert harm(case, {"changed": "1", "gone": "1"}, {"changed": "2"}) == ["changed", "gone"]
    assert harm(case, {}, {"ran": "1", f"{log}.tmp": "1"}) == ["ran", f"{log}.tmp"]
    before = content(shared.path)
    (shared.path / "ran").touch()
    assert harm(case, before, content(shared.path)) == ["ran"]
    (shared.path / "ran").unlink()


def test_the_table_lists_every_case():
    listed = re.findall(r"^\| ([^|]+) \| `(.+?)` \|", TABLE.read_text(), re.MULTILINE)
    assert listed == [(case.what, shown(case)) for case in CASES]


def shown(case: Case) -> str:
    """The command line as it is typed."""
    words = [f"{name}={value}" for name, value in case.environment.items() if name not in OFFLINE]
    return " ".join([*([f"ulimit -f {case.limit};"] if case.limit else []), *words, case.command])


SECONDS = 5.0  # of a processor, to the sentence; on a slow one what a training imports, and half of that again


@pytest.fixture(scope="module")
def limit() -> float:
    began = _children()
    assert python("-c", "import skipstone.commands.train, skipstone.training.fit").returncode == 0
    return max(SECONDS, 1.5 * (_children() - began))


def _children() -> float:
    """Processor seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.attack
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_the_real_command_says_so_within_seconds(case, template, tmp_path, limit):
    """And renews its line of the table. Processor seconds are nearly a quiet machine's, also on a busy one."""
    took = []

    def run(words, folder, environment, largest):
        command = words if words[0] == "-c" else [ROOT / words[0], *words[1:]]
        shell = "exec" if largest is None else f"ulimit -f {largest}; exec"
        before = _children()
        done = python(*command, shell=shell, cwd=folder, environment=ENVIRONMENT | environment)
        took.append(_children() - before)
        return done

    room = copied(template, tmp_path)
    sentence = tried(case, room, run)
    for said, meant in ((f"{room.path}/", ""), (room.key, "<key>"), (room.other, "<other>")):
        sentence = sentence.replace(said, meant)
    sentence = re.sub(r"(?<=outputs/models/)(<key>(\.fresh)?)\.[0-9a-f]{8}/", r"\1.<claim>/", sentence)
    sentence = re.sub(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d+(-\d+)?", "<date>/<time>", sentence)
    sentence = re.sub(r"\(host \S+, process \d+", "(host <name>, process <id>", sentence)
    for sign in "<*|":
        sentence = sentence.replace(sign, f"\\{sign}")  # is none of Markdown's
    seconds = f"{took[0]:.1f}" + (" (late)" if case.late else "")
    write_table(lines() | {case.what: f"| {case.what} | `{shown(case)}` | {sentence} | {seconds} | {case.code} |"})
    if case.says is not None and not case.late:
        assert took[0] < limit


def lines() -> dict[str, str]:
    """The table's lines, by what is bad."""
    text = TABLE.read_text() if TABLE.exists() else ""
    return {found[1]: found[0] for found in re.finditer(r"^\| ([^|]+) \| `.*$", text, re.MULTILINE)}


def write_table(lines: dict[str, str]) -> None:
    text = f"""# What bad input gets

{len(CASES)} bad inputs, and what the command says of each on stderr. Nothing that was there is harmed:
`test_bad_inputs.py` runs every command in a folder with a small model store and compares all files before and after;
beside its log, a run leaves at most a training that its command would go on with, and the caches of metrics.

The cases are in `bad_inputs.py`. `python -m pytest tests/commands/test_bad_inputs.py -m attack` starts each command
from the shell and writes this table. Seconds are the processor's for the whole command, nearly what a user waits on a
quiet machine; where they are 5 and more, it is Lightning that refuses, once it is imported, or all the work is done.
What is met in the middle of the work, as a disk that fills up is, is late.

`train.py` stands for `{TRAIN}`, whose model is `<key>`; `<other>` is one with a
wider network, `<claim>` the process that trains, and `outputs/sweeps/past` the sweep that trained both.
`skipstone.load` raises ValueError or FileNotFoundError.
"""
    for family, cases in FAMILIES.items():
        text += f"\n## {family}\n\n| bad | command | sentence | seconds | exit code |\n|---|---|---|---|---|\n"
        text += "".join(f"{lines[case.what]}\n" for case in cases if case.what in lines)
    TABLE.write_text(text)
