# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # From data to a report
#
# Ten cells, as a notebook (`jupytext --to notebook docs/tour.py`, or open it in an editor that knows `# %%`) or as a
# script (`python docs/tour.py`). Everything is written below `outputs` where you stand.

# %% 1. What to train. experiment=smoke takes seconds and learns nothing; with WHAT = ["schedule=exp"] it takes minutes
import subprocess
import sys
from pathlib import Path

import torch

import skipstone
from skipstone import engine, schedules, solvers
from skipstone.data import pick, sources, to_bytes, to_unit
from skipstone.report import pictures

WHAT = ["experiment=smoke"]
OUT = Path("outputs", "tour")


def command(*words: str) -> None:
    """What a shell would do with `skipstone <words>`."""
    subprocess.run([sys.executable, "-m", "skipstone", *words], check=True)


# %% 2. Data: bytes, split into images to train on and images held out
images = sources.mnist5k("mnist5k", image_size=28, channels=1, held_out=500, flip=False)
print(f"{len(images.train)} images to train on, {len(images.held_out)} held out, each {images.shape}")
pictures.save_grid(pick(images.held_out, 16), OUT / "data.png")

# %% 3. A model: trained now, or found again when this cell runs a second time
command("train", *WHAT, "logger=none")
command("models")
newest = max(Path("outputs", "models").glob("*/DONE"), key=lambda done: done.stat().st_mtime).parent
model, process = skipstone.load(newest)
model = skipstone.fast(model)  # changes something on a GPU alone

# %% 4. The forward process: an image on its way to noise
x0 = to_unit(pick(images.held_out, 1))
t = torch.linspace(0, process.num_steps - 1, 8).long()
x_t = process.diffuse(x0.expand(8, -1, -1, -1), t, torch.randn(8, *images.shape))
pictures.save_grid(to_bytes(x_t), OUT / "forward.png", columns=8)

# %% 5. Which steps a sampler visits, and what it does at each: a table with a row per network evaluation
visited = schedules.Linspace(tau=6)(process.num_steps)
table = solvers.DDIM(eta=0.0).table(process, visited)
print(table)

# %% 6. Samples; image k of a seed starts from the same noise in every sampler
x = engine.sample(model, table, n=16, shape=images.shape, seed=0)
pictures.save_grid(to_bytes(x), OUT / "samples.png")

# %% 7. The same start noise at three etas, in one batch that stays full
tables = [solvers.DDIM(eta).table(process, visited) for eta in (0.0, 0.5, 1.0)]
grids = engine.sample_many(model, tables, n=8, shape=images.shape, seed=0)
pictures.save_grid(to_bytes(torch.cat(grids)), OUT / "etas.png", columns=8)

# %% 8. On the way: x0 as the network predicts it after each row
for step in engine.trajectory(model, table, n=1, shape=images.shape, seed=0):
    print(f"t = {step.t:3g}  mean of x0 = {step.x0.mean():+.3f}")

# %% 9. What can be shown of a solver without a model
for name, value in skipstone.prove(table, process).lines():
    print(f"{name:45} {value}")

# %% 10. Quality: another solver on the same model, measured beside real images; it ends with the path of report.html
command("evaluate", f"run={newest}", "solver=dpm_solver_pp", "schedule=linspace", "tau=6", "evaluation.taus=[3]",
        "evaluation.images=100", "metrics.features=16", "logger=none")  # fmt: skip
