"""Bad inputs as data: test_bad_inputs.py runs every case, and docs/bad-input.md lists what each gets."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rooms import (
    Malicious,
    Prepare,
    almost,
    at,
    configured,
    cut,
    damaged,
    entered,
    file_instead,
    folder_instead,
    foreign_checkpoint,
    foreign_tensors,
    half_jpeg,
    halve,
    huge_png,
    malicious_checkpoint,
    mounted,
    no_test_images,
    nothing,
    photos,
    picture,
    png,
    results,
    swapped,
    written,
)


@dataclass(frozen=True)
class Case:
    """One bad input.

    what: for people, and unique.  command: typed in a room; <key> and <other> are its models, train.py is TRAIN.
    says: what its sentence on stderr matches, or None where the command works as without the bad thing.
    prepare: makes the room bad.  limit: the largest file that may be written, in KiB.
    leaves, renews: match the further files that may be new, and those that may change.
    late: it is met in the middle of the work, as a disk that fills up is.
    at_import: libraries read it when they are imported, so that only a process of its own can tell.
    """

    what: str
    command: str
    says: str | None
    prepare: Prepare = nothing
    environment: dict[str, str] = field(default_factory=dict)
    limit: int | None = None
    leaves: str = "(?!)"
    renews: str = "(?!)"
    late: bool = False
    at_import: bool = False
    code: int = 1


TRAIN = "train.py experiment=smoke logger=none"
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
BEGUN = r"outputs/models/.*|outputs/runs/.*/training/.*"  # a training that its command would go on with
BOMB = "a0: &a0 [word, word]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
CACHES = "outputs/(statistics|classifiers)/.*"
DECODED = "outputs/data/folder-.*"  # the pixels of a folder's images

sample = "scripts/sample.py run=<key> tau=3"
evaluate = "scripts/evaluate.py run=<key> tau=3 evaluation.taus=[2]"
reconstruct = "scripts/reconstruct.py run=<key> taus=[5] exact=[5] tau=5"
load = 'skipstone.load("outputs/models/<key>")'
folder = "train.py dataset=folder dataset.root=photos"
inception = "train.py metrics.inception=w.pth dataset.held_out=2100 evaluation.images=2100"
report = "scripts/report.py outputs/sweeps/past"
resume = "train.py resume=outputs/sweeps/past"

# fmt: off
TYPOS = [
    Case("a schedule that there is not", "train.py schedule=expo",
         r"schedule=expo is unknown: choose one of custom, exp, leading, .*uniform"),
    Case("a data set misspelt", "train.py dataset=mnsit",
         r"dataset=mnsit is unknown: choose one of cifar10, .*mnist5k"),
    Case("a key misspelt", "train.py tua=7", r"there is no key tua \(in tua=7\): did you mean .*tau"),
    Case("a nested key misspelt", "train.py trainer.max_step=7",
         r"no key trainer.max_step .*did you mean trainer.max_steps"),
    Case("a group misspelt", "train.py shedule=exp", r"no key shedule .*did you mean schedule"),
    Case("a key of another solver", "train.py solver=dpm_solver_pp solver.sigma=large",
         r"no key solver.sigma \(in solver.sigma=large\): (did you mean (?!solver.sigma)|`--cfg)"),
    Case("a key without a value", "train.py tau", r"tau cannot be read: write key=value"),
    Case("a bracket left open", "train.py evaluation.taus=[2,4",
         r"evaluation.taus=\[2,4 cannot be read: write key=value"),
    Case("a flag that there is not", "train.py --tau=5", r"unrecognized arguments: --tau=5", code=2),
    Case("several values without -m", "train.py tau=2,3", r"tau=2,3 has several values: add -m"),
    Case("a launcher that there is not", "train.py -m hydra/launcher=slurmy tau=2,3",
         r"hydra/launcher=slurmy is unknown: choose one of .*basic"),
    Case("a key of training on a model", "scripts/sample.py run=<key> trainer.max_steps=5",
         r"no key trainer.max_steps \(in trainer.max_steps=5\): (did you mean (?!trainer)|`--cfg)"),
    Case("a launcher's setting without the launcher", "train.py hydra.launcher.n_jobs=2",
         r"^hydra.launcher.n_jobs=2 is a setting of a launcher that is not chosen: add hydra/launcher=joblib"),
    Case("no path", "train.py dataset=folder dataset.root=", r"^dataset.root is empty: name a folder, or leave"),
    Case("a group without an option", "train.py model=null", r"^model=null is not allowed: leave it out, or"),
    Case("a group taken away", "train.py ~trainer", r"^~trainer is not allowed: every setting is needed"),
    Case("a key of sampling misspelt", "scripts/sample.py run=<key> giff=true", r"no key giff .*did you mean gif"),
]

VALUES = [
    Case("tau of zero", "train.py tau=0",
         r"tau=0 is not allowed with schedule=uniform: tau is a stride there, an integer in 1 \.\.\. 19"),
    Case("a count above T", "train.py schedule=exp tau=21", r"tau=21 .*schedule=exp.*count.*1 \.\.\. 20"),
    Case("tau in words", "train.py tau=ten", r"tau='ten' is not allowed"),
    Case("tau where the schedule lists its steps", "train.py schedule=custom schedule.timesteps=[0,5] tau=3",
         r"tau=3 is not allowed: the schedule lists"),
    Case("steps that go down", "train.py schedule=custom schedule.timesteps=[0,5,3] tau=null",
         r"visited steps must be ascending, .* 0 \.\.\. 19, got .*correct schedule.timesteps"),
    Case("a listed schedule without its list", "train.py schedule=custom tau=null",
         r"schedule.timesteps has no value: set schedule.timesteps="),
    Case("eta below 0", "train.py eta=-0.5", r"eta=-0.5 is not allowed: eta is a number of at least 0"),
    Case("eta above 1", "train.py eta=1.5", r"eta=1.5 is not allowed with solver.sigma=paper.*choose eta in \[0, 1\]"),
    Case("eta for a solver without noise", "train.py solver=probability_flow eta=0.5",
         r"eta=0.5 is not allowed: the solver is deterministic"),
    Case("more noise than a step has room for", "train.py solver.sigma=adjacent eta=1.0",
         r"solver.sigma=adjacent .* at the step from t=\d+ to -?\d+ .*use solver.sigma=paper"),
    Case("an order that there is not", "train.py solver=dpm_solver_pp solver.order=4",
         r"solver.order=4 is not available: choose 1, 2 or 3"),
    Case("a key that follows another", "train.py schedule.tau=7",
         r"schedule.tau=7 .* it follows tau, so set tau=7 instead"),
    Case("a beta of zero", "train.py noise.beta_1=0", r"noise.beta_1=0.0 and noise.beta_T=0.02 must satisfy"),
    Case("a seed in words", "train.py seed=abc", r"seed='abc' is not allowed: it is an integer of at least 0"),
    Case("a seed of 65 bits", "train.py seed=18446744073709551616", r"seed=18446744073709551616 .* integer of at most"),
    Case("a switch that is neither", "train.py fresh=no", r"fresh='no' is not allowed: it is true or false"),
    Case("an empty batch", "train.py training.batch_size=0", r"training.batch_size=0 .* an integer of at least 1"),
    Case("a learning rate that diverges", "train.py training.learning_rate=1e6",
         r"the training diverged at step \d, .* so its model is not stored; .*: lower training.learning_rate",
         leaves=BEGUN, late=True),
    Case("a decay that there is not", "train.py training.decay=linear", r"training.decay='linear' is unknown"),
    Case("an image that patches do not divide", "train.py dataset.image_size=27",
         r"dataset.image_size=27 is not divisible by model.patch=2"),
    Case("an image too small for the network", "train.py dataset.image_size=4", r"dataset.image_size=4 is too small"),
    Case("two channels", "train.py dataset.channels=2", r"dataset.channels=2 must be 1 \(grey\) or 3 \(colour\)"),
    Case("attention where no level is", "train.py model.attention=[5]",
         r"model.attention=\[5\] names none of the levels' sizes \[14, 7, 3\]"),
    Case("all images held out", "train.py dataset.held_out=5000", r"dataset.held_out=5000 must lie in 1"),
    Case("a name that leaves its folder", "train.py dataset.name=../evil", r"dataset.name='../evil' is not allowed"),
    Case("a number for a list", "train.py evaluation.taus=5", r"evaluation.taus=5 is not allowed: it is a list"),
    Case("a cell of the grid out of range", "train.py evaluation.etas=[0.0,2.0]",
         r"eta=2.0 is not allowed.*It is a cell of taus=\[\d, \d+\] and etas=\[0.0, 2.0\]"),
    Case("further schedules as a list", "train.py evaluation.schedules=[quad]",
         r"evaluation.schedules=\['quad'\] is not allowed: it is null or such as"),
    Case("a further schedule that there is not", "train.py 'evaluation.schedules={expo: null}'",
         r"names expo, which is unknown there: choose among exp, leading"),
    Case("a classifier that is neither", "train.py metrics.classifier=perhaps",
         r"metrics.classifier='perhaps' is not allowed: it is auto, true or false"),
    Case("a classifier without labels", f"{folder} metrics.classifier=true",
         r"need labels, and dataset folder has none: leave out", photos(200), leaves=f"{CACHES}|{DECODED}"),
    Case("an accelerator that is not supported", "train.py trainer.accelerator=tpu", r"choose auto, cpu or gpu"),
    Case("a strategy that is not supported", "train.py trainer.strategy=ddp", r"trainer.strategy=ddp is not supported"),
    Case("more steps than fit into memory", "train.py noise.num_steps=100000000000",
         r"noise.num_steps=100000000000 is not allowed: it is an integer of at most 1000000"),
    Case("steps with an exponent", "train.py noise.num_steps=1e11", r"noise.num_steps=1.* is not allowed: .* integer"),
    Case("validation at no interval", "train.py trainer.val_check_interval=0",
         r"trainer.val_check_interval=0 is not allowed: it is a share of the training, above 0.0"),
    Case("validation after more than the training", "train.py trainer.val_check_interval=2.5",
         r"trainer.val_check_interval=2.5 is not allowed: it is a share"),
    Case("what Lightning refuses", "train.py seed=1 +trainer.max_tme=5",
         r"the trainer settings do not work: .*max_tme", leaves=BEGUN),
    Case("a sweep over no value", "train.py -m tau=range(0,0)",
         r"tau=range\(0,0\) names no value at all, so the sweep has no jobs"),
    Case("a sweep whose every job is wrong", "train.py -m tau=0,99", r"tau=0 is not allowed"),
]

COMMANDS = [
    Case("no model named", "scripts/sample.py", r"say which model with run=\S+: there is mnist5k-"),
    Case("a model that is not there", "scripts/sample.py run=nowhere",
         r"run=nowhere is neither a folder nor a key: there is mnist5k-"),
    Case("a number for a model", "scripts/sample.py run=5",
         r"run=5 is not allowed: it is a model's key, or its folder; .* is ./5"),
    Case("a model that is not finished", sample, r"<key> holds no finished model", halve),
    Case("no samples", f"{sample} n=0", r"n=0 is not allowed: it is an integer of at least 1"),
    Case("an animation that is neither", f"{sample} gif=maybe", r"gif='maybe' is not allowed: it is true or false"),
    Case("sampling with tau of zero", "scripts/sample.py run=<key> tau=0", r"tau=0 is not allowed with schedule=exp"),
    Case("a device that is not supported", f"{sample} device=tpu", r"device=tpu is unknown: choose auto, cpu or cuda"),
    Case("a folder that holds results", f"{sample} out=mine", r"out=mine holds files already: name a folder",
         written("mine/grid.png", "mine")),
    Case("noise between start noises", "scripts/interpolate.py run=<key> tau=3 eta=1.0",
         r"eta=1.0 is not allowed here"),
    Case("one column from end to end", "scripts/interpolate.py run=<key> tau=3 columns=1",
         r"columns=1 is not allowed: it is an integer of at least 2"),
    Case("encoding with a tau out of range", "scripts/reconstruct.py run=<key> taus=[5] exact=[5] tau=2000",
         r"tau=2000 is not allowed with schedule=quad"),
    Case("encoding with a number for a list", "scripts/reconstruct.py run=<key> exact=5", r"exact=5 .* it is a list"),
    Case("encoding with noise", f"{reconstruct} eta=0.5", r"eta=0.5 is not allowed for encoding"),
    Case("inverting what cannot be", f"{reconstruct} solver=dpm_solver_pp",
         r"exact=\[5\] is not allowed .*set exact=\[\]"),
    Case("encoding with listed steps", f"{reconstruct} schedule=custom schedule.timesteps=[0,19]",
         r"no tau to vary: choose another schedule"),
    Case("evaluating on other data", f"{evaluate} dataset.held_out=400",
         r"the model was trained on mnist5k \(fingerprint "),
    Case("studying with a number for a list", "scripts/study.py run=<key> dataset=mnist5k taus=5",
         r"taus=5 is not allowed: it is a list"),
    Case("studying more images than are held out",
         "scripts/study.py run=<key> dataset=mnist5k n=600 tau=3 taus=[2] metrics.features=8",
         r"600 images cannot be compared: .* of which there are 500"),
    Case("resuming what is not there", "train.py resume=nowhere", r"nowhere is no sweep: name a folder outputs/sweeps"),
    Case("resuming nothing", "train.py tau=0 resume=null", r"^tau=0 is not allowed"),
    Case("resuming a model", "train.py resume=outputs/models/<key>",
         r"outputs/models/<key> is no sweep: name a folder"),
    Case("a report on what is not there", "scripts/report.py nowhere", r"nowhere is no sweep: name a folder"),
    Case("loading what is not there", 'skipstone.load("nowhere")', r"nowhere holds no finished model: give a folder"),
]

FILES = [
    Case("weights cut off", sample, r"ema.safetensors is damaged or of another network: train .* fresh=true",
         damaged("ema.safetensors")),
    Case("weights cut off, met by train.py", "train.py", r"ema.safetensors is damaged or of another network: train",
         damaged("ema.safetensors")),
    Case("weights of no bytes", evaluate, r"ema.safetensors is damaged", written("{model}/ema.safetensors", "")),
    Case("no weights", load, r"ema.safetensors is damaged", damaged("ema.safetensors", how=Path.unlink)),
    Case("weights of another model", sample, r"ema.safetensors is of another model, <other>, .* which is of <key>: put",
         swapped("ema.safetensors")),
    Case("weights of no network", load, r"ema.safetensors is damaged or of another network",
         damaged("ema.safetensors", how=foreign_tensors)),
    Case("a folder for weights", reconstruct,
         r"ema.safetensors is damaged", damaged("ema.safetensors", how=folder_instead)),
    Case("settings of another model", load,
         r"ema.safetensors is of another model, <key>, .*config.yaml, which is of <other>",
         swapped("config.yaml")),
    Case("settings that were edited", sample, r"ema.safetensors is of another model, <key>, than \S+config.yaml",
         configured(noise__beta_T=0.5)),
    Case("settings cut off", sample,
         r"config.yaml is (damaged or absent|of another version): train", damaged("config.yaml")),
    Case("settings of no bytes", evaluate,
         r"config.yaml is damaged or absent: train", written("{model}/config.yaml", "")),
    Case("no settings", reconstruct,
         r"config.yaml is damaged or absent: train", damaged("config.yaml", how=Path.unlink)),
    Case("random bytes for settings", sample,
         r"config.yaml is damaged", written("{model}/config.yaml", bytes(range(256)))),
    Case("settings of a billion words in ten lines", sample, r"config.yaml is damaged or absent: train",
         written("{model}/config.yaml", BOMB)),
    Case("settings of a thousand brackets", sample, r"config.yaml is damaged or absent: train",
         written("{model}/config.yaml", "[" * 1000)),
    Case("settings of another version", sample, r"config.yaml is of another version: train", configured(format=99)),
    Case("settings without the data set", evaluate, r"config.yaml is damaged", configured(dataset=None)),
    Case("a file for a model's folder", "train.py", r"File exists at outputs/models/<key>: move what is in the way",
         at("outputs/models/{key}", file_instead)),
    Case("both checkpoints cut off", "train.py",
         r"last.ckpt and \S+previous.ckpt cannot be resumed from, damaged or of another network: move them away",
         damaged("last.ckpt", "previous.ckpt", after=almost)),
    Case("pictures for checkpoints", "train.py", r"cannot be resumed from, .*: move them away",
         damaged("last.ckpt", "previous.ckpt", how=png, after=almost)),
    Case("a folder for a checkpoint", "train.py", r"last.ckpt is a folder, and a checkpoint belongs there: remove it",
         damaged("last.ckpt", how=folder_instead, after=almost)),
    Case("a checkpoint of another model", "train.py",
         r"last.ckpt is of another model, <other>: remove it to train <key>",
         swapped("last.ckpt", after=almost)),
    Case("a checkpoint of another version", "train.py", r"last.ckpt is of another version: remove it to train",
         damaged("last.ckpt", how=foreign_checkpoint, after=almost)),
    Case("the last checkpoint cut off", "train.py", None, damaged("last.ckpt", after=almost), leaves=".*",
         renews=r".*/(metrics\.csv|last\.ckpt|previous\.ckpt)", code=0),
    Case("the last checkpoint of a wider network", "train.py", None,
         damaged("last.ckpt", how=entered(state_dict={"net.conv_in.weight": torch.zeros(1)}), after=almost),
         leaves=".*", renews=r".*/(metrics\.csv|last\.ckpt|previous\.ckpt)", code=0),
    Case("both checkpoints with a step in words", "train.py",
         r"last.ckpt and \S+ cannot be resumed from, .*: move them",
         damaged("last.ckpt", "previous.ckpt", how=entered(global_step="three"), after=almost)),
    Case("a checkpoint that Lightning cannot restore", "train.py",
         r"last.ckpt cannot be restored \(.*\): move it away to go on from previous.ckpt",
         damaged("last.ckpt", how=entered(averaging_state={}), after=almost), renews=r".*/metrics\.csv", leaves=BEGUN),
    Case("foreign tensors for results", report,
         r"no job of outputs/sweeps/past has a result: ", results(foreign_tensors)),
    Case("a sweep's command cut off", resume, r"multirun.yaml is damaged, .*: give its command again",
         at("outputs/sweeps/past/multirun.yaml", lambda path: cut(path, 0.02))),
    Case("a sweep's command of a billion words", resume, r"multirun.yaml is damaged, .*: give its command again",
         written("{sweep}/multirun.yaml", BOMB)),
    Case("a sweep's command of one word", report, r"multirun.yaml is damaged", written("{sweep}/multirun.yaml", "5")),
    Case("a sweep's command of no bytes", report, r"multirun.yaml is damaged", written("{sweep}/multirun.yaml", "")),
    Case("foreign tensors for a kept solution", "train.py", None,
         at("outputs/models/{key}/fine-seed0-n2.safetensors", foreign_tensors),
         leaves=".*", renews=r".*/fine-seed0-n2.safetensors", code=0),
    Case("no file for Inception's weights", inception, r"metrics.inception=w.pth is not a file: give the path"),
    Case("random bytes for Inception's weights", inception, r"metrics.inception=w.pth does not hold the weights",
         written("w.pth", bytes(range(256)))),
]

MALICE = [
    Case("a checkpoint with code in it", "train.py", r"last.ckpt is not opened, for it holds more than numbers",
         damaged("last.ckpt", how=malicious_checkpoint, after=almost)),
    Case("bare pickles for checkpoints", "train.py", r"cannot be resumed from, .*: move them away",
         damaged("last.ckpt", "previous.ckpt", how=lambda path: path.write_bytes(pickle.dumps(Malicious())),
         after=almost)),
    Case("a pickle for weights", sample, r"ema.safetensors is damaged",
         damaged("ema.safetensors", how=lambda path: path.write_bytes(pickle.dumps(Malicious())))),
    Case("a pickle for Inception's weights", inception, r"metrics.inception=w.pth does not hold the weights",
         written("w.pth", pickle.dumps(Malicious()))),
    Case("settings that call os.system", load, r"config.yaml asks for os.system, which skipstone.load does not build",
         configured(model={"_target_": "os.system", "command": "touch ran"})),
    Case("settings that call it deep in a list", sample, r"config.yaml asks for os.system",
         configured(model__multipliers=[1, [{"_target_": "os.system", "_args_": ["touch ran"]}]])),
    Case("settings with arguments of their own", sample, r"config.yaml has the key _args_, which is not followed",
         configured(model___args_=[28])),
    Case("settings with a tag that runs code", load, r"config.yaml is damaged",
         written("{model}/config.yaml", "model: !!python/object/apply:os.system ['touch ran']\n")),
    Case("settings that read the environment", load,
         r"config.yaml refers to \$\{oc.env:HOME\}, which is not looked up",
         configured(dataset__name="${oc.env:HOME}")),
    Case("settings that decode a string", load, r"config.yaml refers to \$\{oc.decode:28\}, which is not looked up",
         configured(model__image_size="${oc.decode:28}")),
    Case("a sweep's command with a tag that runs code", resume, r"multirun.yaml is damaged",
         written("{sweep}/multirun.yaml", "hydra: !!python/object/apply:os.system ['touch ran']\n")),
    Case("a sweep's command that calls os.system", resume,
         r"multirun.yaml asks for \+model.more=.*which is not followed, because it may run any code",
         written("{sweep}/multirun.yaml",
                 "hydra: {overrides: {hydra: [], task: ['+model.more={_target_:os.system,_args_:[touch ran]}']}}\n")),
    Case("a sweep's command with a launcher's script", resume,
         r"multirun.yaml asks for hydra.launcher.setup=.*which is not followed, because it may run any code",
         written("{sweep}/multirun.yaml",
                 "hydra: {overrides: {hydra: ['hydra.launcher.setup=[touch ran]'], task: [tau=2]}}\n")),
    Case("a sweep's command with a file from elsewhere", resume,
         r"multirun.yaml asks for model=../../evil, which is not followed",
         written("{sweep}/multirun.yaml", "hydra: {overrides: {hydra: [], task: [model=../../evil]}}\n")),
]

IMAGES = [
    Case("no folder said", "train.py dataset=folder", r"dataset=folder needs dataset.root=<folder of images>"),
    Case("a folder that is not there", folder, r"dataset.root=photos is not a folder"),
    Case("a file for the folder", folder, r"dataset.root=photos is not a folder", written("photos", "")),
    Case("an empty folder", folder, r"photos holds no images", at("photos", Path.mkdir)),
    Case("a folder of one image", folder, r"dataset.root=photos holds 1 images; at least 3", photos(1)),
    Case("a test folder without images", folder, r"photos/test holds no images", no_test_images),
    Case("a JPEG cut off", folder, r"photos/bad.jpg cannot be read as an image \(.*\): repair or remove it",
         photos(12, "bad.jpg", half_jpeg)),
    Case("text with a picture's name", folder, r"photos/bad.png cannot be read as an image",
         photos(12, "bad.png", lambda path: path.write_text("no image"))),
    Case("a picture of no bytes", folder,
         r"photos/bad.png cannot be read as an image", photos(12, "bad.png", Path.touch)),
    Case("drawings alone", folder, r"photos holds no images \(.bmp, ", written("photos/a.svg", "<svg/>")),
    Case("a picture of 3.6 billion pixels", folder, r"photos/bad.png cannot be read as an image",
         photos(12, "bad.png", huge_png)),
    Case("pixels without a range", folder, r"photos/bad.tiff cannot be read as an image \(32-bit pixels",
         photos(12, "bad.tiff", lambda path: picture(path, "F"))),
    Case("data that cannot be downloaded", "train.py dataset=mnist dataset.root=none",
         r"dataset.root=none holds no readable MNIST and it could not be downloaded", environment=OFFLINE),
]

PLACES = [
    Case("no folder for outputs", "train.py paths.outputs=", r"^paths.outputs is empty: name the folder"),
    Case("no paths", "train.py paths=null", r"^paths.outputs is empty: name the folder"),
    Case("outputs below a file", "train.py paths.outputs=/dev/null/x",
         r"Not a directory at /dev/null.*set paths.outputs"),
    Case("a file for outputs", "train.py paths.outputs=mine", r"Not a directory at mine.*set paths.outputs",
         written("mine", "mine")),
    Case("outputs where nobody may write", "train.py paths.outputs=/sys/x", r" at /sys/.*set paths.outputs"),
    Case("a file for the folder of samples", f"{sample} out=mine", r"File exists at mine: move what is in the way",
         written("mine", "mine")),
    Case("a read-only disk", "train.py seed=1", r"Read-only file system at outputs.*: make room or get access there",
         mounted(full=False)),
    Case("a read-only disk for samples", sample, r"Read-only file system at \S*outputs", mounted(full=False)),
    Case("a disk that is full at a fresh model's checkpoint", "train.py fresh=true",
         r"No space left on device at outputs/models/<key>.fresh/last.ckpt: make room", mounted(full=True),
         leaves=BEGUN, late=True),
    Case("a disk that is full at the next checkpoint", "train.py",
         r"No space left on device at outputs/models/<key>/last.ckpt: make room", mounted(full=True, after=halve),
         leaves=BEGUN, renews=r".*/metrics\.csv", late=True),
    Case("a disk that is full at samples", f"{sample} n=500",
         r"No space left on device at \S+samples.npz: make room", mounted(full=True), late=True),
    Case("a limit to the size of files", "train.py fresh=true", r"File too large at \S+.fresh/last.ckpt: make room",
         limit=20, leaves=BEGUN, late=True),
]

ENVIRONMENT = [
    Case("no GPU where one is asked for", "train.py trainer=gpu",
         r"asks for CUDA, and there is none here \(CUDA_VISIBLE_DEVICES=99\): use trainer=cpu",
         environment={"CUDA_VISIBLE_DEVICES": "99"}),
    Case("W&B in a mode that there is not", "train.py logger=wandb",
         r"WANDB_MODE='nonsense' is not allowed: it is one of",
         environment={"WANDB_MODE": "nonsense"}),
    Case("W&B with a key that is none", "train.py logger=wandb",
         r"W&B does not take the login .*WANDB_API_KEY.*: correct it, or set WANDB_MODE=offline",
         environment={"WANDB_API_KEY": "abc", **OFFLINE}),
    Case("a SLURM allocation that Lightning refuses", "train.py seed=1",
         r"the trainer settings do not work: .*--ntasks=2",
         environment={"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "5"}, leaves=BEGUN),
    Case("a traceback asked for by maybe", "train.py tau=0", r"tau=0 is not allowed",
         environment={"HYDRA_FULL_ERROR": "maybe"}),
    Case("W&B's mode, without W&B", sample, None, environment={"WANDB_MODE": "nonsense"}, leaves=".*", code=0),
    Case("W&B's folder where nobody may write", "train.py logger=wandb", None,
         environment={"WANDB_DIR": "/sys/x", "WANDB_MODE": "offline"}, leaves=".*", at_import=True, code=0),
    Case("threads in words", sample, None, environment={"OMP_NUM_THREADS": "abc"}, leaves=".*", at_import=True, code=0),
    Case("a GPU that is not there", sample, None, environment={"CUDA_VISIBLE_DEVICES": "99"}, leaves=".*", code=0),
    Case("no folder for temporary files", sample, None, environment={"TMPDIR": "/nowhere"}, leaves=".*", code=0),
    Case("a home where nobody may write", sample, None, environment={"HOME": "/sys/x"}, leaves=".*", code=0),
    Case("a backend of matplotlib that there is not", report, None, environment={"MPLBACKEND": "nonsense"},
         leaves=".*", renews="outputs/sweeps/past/report.html", at_import=True, code=0),
    Case("a terminal that knows ASCII alone", "train.py", None, leaves=".*", at_import=True, code=0,
         environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}),
]
# fmt: on

FAMILIES = {
    "Misspelt names": TYPOS,
    "Values": VALUES,
    "Commands on a model or a sweep": COMMANDS,
    "Damaged, swapped and foreign files": FILES,
    "Files with code in them": MALICE,
    "Folders of images": IMAGES,
    "Places": PLACES,
    "The environment": ENVIRONMENT,
}
CASES = [case for cases in FAMILIES.values() for case in cases]
