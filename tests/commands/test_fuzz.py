"""Random command lines from the grammar of the configs: a finished run or one sentence, and nothing is overwritten."""

import random
import re
import resource
import shlex
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from forks import FORKS, become
from omegaconf import OmegaConf
from rooms import Room, photos
from test_bad_inputs import ERROR, content, copied, template  # noqa: F401, a fixture

from skipstone.commands.cli import CONF

FEW = "metrics.features=8 metrics.classifier_steps=10"
GRID = f"evaluation.taus=[2] evaluation.images=16 evaluation.fine_images=2 {FEW}"
# Each command with the fewest words that keep it short, and how often it is typed
COMMANDS = {
    "train.py experiment=smoke logger=none": 12,
    "scripts/sample.py run=<key> tau=2 n=2": 4,
    "scripts/interpolate.py run=<key> tau=2 rows=1 columns=2": 2,
    "scripts/reconstruct.py run=<key> tau=2 n=2 taus=[2] exact=[2]": 2,
    f"scripts/evaluate.py run=<key> tau=2 {GRID}": 2,
    "scripts/export.py run=<key>": 1,
    "scripts/solver.py nfe=4": 2,
    f"scripts/study.py run=<key> dataset=mnist5k tau=2 taus=[2] etas=[0.0] n=200 floors=2 repeats=1 {FEW}": 0.6,
    f"scripts/tables.py run=<key> dataset=mnist5k nfes=[2] nfes_compared=[2] nfes_back=[2] images=16 images_back=2"
    f" images_all_steps=2 {FEW}": 0.4,
    f"scripts/quality.py run=<key> dataset=mnist5k nfes=[3] images=16 images_tried=8 nfe_converged=8 {FEW}": 0.4,
}
CONFIGS = {"train": "train", "solver": "proof"}  # of a script, where the two names differ
LONG = {"max_steps", "classifier_steps", "num_steps", "n", "images", "repeats", "floors", "rows", "nfe_converged"}
FAR = ("cifar10", "mnist", "fashion_mnist", "wandb", "cifar10_long", "cifar10_plain", "unet_cifar10")

SMALL = ["0", "1", "2", "3", "4", "0.0", "0.5", "1.0"]
LISTS = [f"[{a},{b}]" for a in SMALL for b in SMALL]
NUMBERS = ["-1", "-0.0", "1e-3", "007", "0x10", "1_0", "1.5", "7"]
EXTREMES = [f"{10**400}", "1000000000000", "9223372036854775807", "18446744073709551616", "1e30", "1e-320"]
WORDS = [
    "", "null", "true", "no", "ten", "nan", "inf", "-.inf", "1e400", "auto", "é", "😀", "'a b'", "a b", "'\"'", "\t",
    "x" * 300, "=", ":", "a:b", "-", "--", "$", "#", "\\", "\x07", "'", "(", "]", "{", "}", "cpu", "none", "../x", "~",
    "[]", "[1]", "[1,2]", "[2,1]", "[1,1]", "[null]", "[a,b]", "[[1,2],[3]]", "[1.5,nan]", "{}", "{a:1}", "{a:{b:[1]}}",
    "{exp:[2]}", "{uniform:null,exp:[0]}", "{1:2}", "{_target_:nowhere.at_all}", "%s",
]  # fmt: skip
RESOLVERS = [
    "${tau}", "${eta}", "${nowhere}", "${seed}", "${oc.env:HOME}", "${oc.env:NOWHERE}", "${oc.env:NOWHERE,3}",
    "${oc.decode:3}", "${oc.decode:'[1'}", "${pid:}", "${now:%Y}", "${hydra:job.name}", "${oc.create:[1,2]}",
    "${outputs:x}", "${oc.select:tau}", "${oc.dict.keys:model}", "${.}", "${..}", "${", "${}", "${a", "${nowhere:1}",
]  # fmt: skip
SWEPT = [
    "1,2", "2,3", "0.0,1.0", "a,b", "range(2,4)", "choice(2,3)", "shuffle(2,3)", "sort(3,2)", "interval(0,1)",
    "glob(*)", "tag(a,choice(1,2))", "int(2)", "float(1)", "str(3)", "bool(1)", "json_str(1)", "2,", ",2",
]  # fmt: skip
PLACES = [
    "nowhere", "/nowhere/x", "mine", "mine/x", "photos", "outputs", "outputs/models", "outputs/models/<key>", ".",
    "outputs/sweeps/past", "outputs/sweeps/past/0", "new", "new/é (1)", "/dev/null", "/proc/self",
]  # fmt: skip
PATHS = re.compile(r"paths\.outputs|run|like|out|cells|baseline|tried|.*\.(root|cache|path|inception|dir)")


def keys(node, prefix=""):
    """Every key of nested settings with its value, as it stands in the file."""
    for key, value in node.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


@cache
def read(path: Path) -> tuple[list, dict]:
    """The defaults of a file of conf/, and its settings by their full names."""
    settings = OmegaConf.to_container(OmegaConf.load(path))
    defaults = settings.pop("defaults", [])
    whole = path.parent == CONF or path.read_text().startswith("# @package _global_")
    return defaults, dict(keys(settings, "" if whole else f"{path.parent.name}."))


def groups_of(config: str) -> dict[str, str]:
    """The groups of a command, and the option that each has."""
    found = {}
    for entry in read(CONF / f"{config}.yaml")[0]:
        named = groups_of(entry) if isinstance(entry, str) and entry != "_self_" else entry
        found |= {group.split()[-1]: option for group, option in named.items()} if isinstance(named, dict) else {}
    return {group: option for group, option in found.items() if "/" not in group}


def settings_of(config: str, options: dict[str, str]) -> dict[str, object]:
    """The settings of a command, with these options of its groups."""
    above = [entry for entry in read(CONF / f"{config}.yaml")[0] if isinstance(entry, str) and entry != "_self_"]
    paths = [CONF / f"{each}.yaml" for each in (*above, config)]
    paths += [CONF / group / f"{option}.yaml" for group, option in options.items()]
    found = {}
    for path in filter(Path.is_file, paths):
        found |= read(path)[1]
    return {key: value for key, value in found.items() if not key.startswith(("hydra", "push"))}  # nothing is sent away


def value_of(key: str, default: object, dice: random.Random) -> str:
    """A value, rather often such as the key has."""
    if PATHS.fullmatch(key) and dice.random() < 0.7:
        return dice.choice(PLACES)
    near = ["true", "false"] if isinstance(default, bool) else LISTS if isinstance(default, list) else SMALL
    near = [default] if isinstance(default, str) else near
    far = NUMBERS if key.rpartition(".")[2] in LONG else NUMBERS + EXTREMES
    return dice.choice(dice.choice([near] * 5 + [far] * 2 + [WORDS, RESOLVERS, SWEPT]))


def word(key: str, default: object, dice: random.Random) -> str:
    prefix = dice.choice([""] * 16 + ["+", "++", "~"])
    if dice.random() < 0.05:
        key = dice.choice([f"{key}@x", f"{key}.more", f"{key}.0", key[:-1], key.upper(), f"{key}_", f"hydra.{key}"])
    value = value_of(key, default, dice)
    return dice.choice([f"{prefix}{key}={value}"] * 30 + [f"{prefix}{key}", f"--{key}={value}"])


def line(dice: random.Random) -> str:
    """A command line, quoted for a shell: at most two options of groups and three settings, of these options."""
    script, *fixed = shlex.split(dice.choices(list(COMMANDS), COMMANDS.values())[0])
    config = CONFIGS.get(Path(script).stem, Path(script).stem)
    options = groups_of(config)
    options.pop("experiment", None)
    words = []
    for group in dice.sample(sorted(options), min(len(options), dice.choice([0, 0, 1, 1, 2]))):
        options[group] = dice.choice([p.stem for p in sorted(CONF.glob(f"{group}/*.yaml")) if p.stem not in FAR])
        words.append(f"{group}={options[group]}")
    known = settings_of(config, options)
    for _ in range(dice.choice([0, 1, 1, 2, 3]) if words else dice.choice([1, 1, 2, 3])):
        key = dice.choice(sorted(known))
        words.append(word(key, known[key], dice))
    typed = {each.lstrip("+~").partition("=")[0] for each in words}
    fixed = [each for each in fixed if each.partition("=")[0] not in typed or "experiment" in each]
    return shlex.join([script, *fixed, *words, *(["-m"] if dice.random() < 0.15 else [])])


HANG = 240  # seconds


def _limited(words, folder, files):
    resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))
    become(words, folder, files)


def done(words: list[str], room: Room) -> CompletedProcess:
    files = [room.path.with_suffix(end) for end in (".out", ".err")]
    process = FORKS.Process(target=_limited, args=(words, room.path, files))
    process.start()
    process.join(HANG)
    if process.exitcode is None:
        process.kill()
        process.join()
    return CompletedProcess(words, process.exitcode, *(file.read_text(errors="replace") for file in files))


# What a command that finds its own results goes on with, and what is derived from data and weights
RENEWED = re.compile(r".*\.lock|.*/(train\.log|multirun\.yaml|\.hydra/.*|fine-.*|costs.*|lock)")


def wrong(typed: str, room: Room) -> str | None:
    """What is wrong with how a command ends."""
    before = content(room.path)
    ended = done(shlex.split(typed.replace("<key>", room.key)), room)
    after = content(room.path)
    lost = [name for name in before if before[name] != after.get(name) and not RENEWED.fullmatch(name)]
    said = [found[1] for each in ended.stderr.splitlines() if (found := ERROR.match(each))]
    fine = ended.returncode == 0 or (ended.returncode in (1, 2) and len(said) == 1)
    noise = re.search(r"Traceback|Errno|Logging error", ended.stdout + ended.stderr)
    temporary = [name for name in after if name.endswith(".tmp")]
    if fine and not noise and not lost and not temporary:
        return None
    return f"{typed}\n  {ended.returncode} {lost} {temporary} {ended.stderr[-1500:]}"


@pytest.fixture
def room(template, tmp_path):  # noqa: F811
    room = copied(template, tmp_path)
    photos(12)(room)
    (room.path / "mine").write_text("mine")
    return room


def found(seed: int, lines: int, room: Room) -> list[str]:
    dice = random.Random(seed)
    return [said for _ in range(lines) if (said := wrong(line(dice), room))]


def test_random_command_lines(room):
    assert found(1, 20, room) == []


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(2, 18))
def test_more_of_them(seed, room):
    assert found(seed, 40, room) == []
