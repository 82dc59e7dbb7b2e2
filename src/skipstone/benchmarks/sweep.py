"""What a multirun costs beside its parts: python -m skipstone.benchmarks.sweep [overrides as for train.py]

Twelve jobs, tau=10,20,50,100 eta=0.0,0.5,1.0, by the default launcher. Beside them, on models of their own, stand two
separate runs of one cell each, one before and one after the multirun, so that all three meet the same neighbours. A
separate run's seconds less those of its cell are one training, start-up and report included. A cell's seconds are those
of sampling and measuring it in a process that has everything loaded and does nothing else.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

TAUS, ETAS = (10, 20, 50, 100), (0.0, 0.5, 1.0)
ROOT = Path(__file__).parents[3]


def sweep(overrides: list[str]) -> None:
    """Print the seconds of all of it, and the multirun's over those of one training and twelve samplings."""
    with tempfile.TemporaryDirectory() as name:
        first, all_of_them, last = (Path(name) / part for part in ("first", "all", "last"))
        cells = list(product(TAUS, ETAS))
        runs = [_command(first, cells[:1], overrides)]
        whole = _command(all_of_them, cells, overrides)
        runs.append(_command(last, cells[-1:], overrides))
        sampled = _cells_alone(all_of_them, overrides)
        fits = [_training_seconds(folder) for folder in (first, all_of_them, last)]
    trained = [run - sampled[cell] for run, cell in zip(runs, (cells[0], cells[-1]), strict=True)]
    training, sampling = statistics.mean(trained), sum(sampled.values())
    separate = len(cells) * training + sampling
    print(f"one training, alone          {training:7.1f} s   ({' and '.join(f'{seconds:.1f}' for seconds in trained)})")
    print(f"{len(cells)} samplings, alone         {sampling:7.1f} s")
    print(f"the sweep                    {whole:7.1f} s   {whole / (training + sampling):6.3f} of both")
    print(
        f"{len(cells)} separate runs            {separate:7.1f} s   {separate / whole:6.2f} sweeps (from two of them)"
    )
    print(f"Lightning's fit took {fits[0]}, {fits[1]} (in the sweep) and {fits[2]} s.")


def _command(outputs: Path, cells: list[tuple[int, float]], overrides: list[str]) -> float:
    """Seconds of train.py on these cells, from nothing."""
    taus, etas = (",".join(map(str, dict.fromkeys(values))) for values in zip(*cells, strict=True))
    settings = [f"paths.outputs={outputs}", "evaluation.grid=false", f"tau={taus}", f"eta={etas}", *overrides]
    command = [sys.executable, ROOT / "train.py", *(["-m"] if len(cells) > 1 else []), *settings]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "WANDB_MODE": "offline"})
    return time.perf_counter() - began


def _cells_alone(outputs: Path, overrides: list[str]) -> dict[tuple[int, float], float]:
    """Seconds of each cell on the model that is trained there."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from skipstone import load
    from skipstone.evaluation import build_cells, evaluate
    from skipstone.review import proxies_of
    from skipstone.settings import CONF
    from skipstone.training import hardware

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"paths.outputs={outputs}", *overrides])
    trainer = hardware.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    hardware.use_threads(trainer["threads"])
    (folder,) = (outputs / "models").iterdir()
    net, process = load(folder)
    net, images = hardware.place(net, trainer), instantiate(config.dataset)
    proxies, batch = proxies_of(config, images, trainer), config.evaluation.batch_size

    def seconds(cell: tuple[int, float]) -> float:
        config.tau, config.eta = cell
        cells = build_cells(config, process, [], [])
        began = time.perf_counter()
        with hardware.autocast(trainer):
            evaluate(net, cells, images.shape, proxies, seed=config.seed, batch_size=batch, film=True)
        return time.perf_counter() - began

    seconds((TAUS[-1], ETAS[0]))  # the first call of all is slower
    return {cell: seconds(cell) for cell in product(TAUS, ETAS)}


def _training_seconds(outputs: Path) -> int:
    """Of Lightning's fit, by the log."""
    (said,) = re.findall(r"trained in (\d+) s", "".join(log.read_text() for log in outputs.glob("**/train.log")))
    return int(said)


if __name__ == "__main__":
    sweep(sys.argv[1:])
