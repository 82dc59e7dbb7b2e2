"""Samples of a finished model: python scripts/sample.py run=<key> schedule=exp nfe=20 eta=0.0 n=64"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main

_BATCH = 128  # samples, where batch_size does not tell


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="sample")
def job(config: DictConfig) -> None:
    """Writes grid.png, samples.npz and samples_adm.npz, and what singles, gif and image ask for.

    samples.npz: samples, float32 [n, C, H, W] in [−1, 1], and labels.  samples_adm.npz: arr_0, uint8 [n, H, W, C].
    """
    settings.check(config)
    from skipstone.commands.editing import beginning
    from skipstone.commands.finished import new_folder, open_model, require_finite
    from skipstone.commands.grid import build_cells

    model, config = open_model(config)
    (cell,) = build_cells(config, model.process, [], [], model=model)
    begun = beginning(config, model, cell.table)

    import numpy as np
    import torch

    from skipstone import engine, progress
    from skipstone.data import to_bytes
    from skipstone.evaluation.labels import labels_of
    from skipstone.report import pictures
    from skipstone.store import files

    labels = labels_of(model.net, config.n, config.labels, config.first)
    engine.require_labels(model.net, [begun.table], labels, config.n)
    asked = {"seed": config.seed, "labels": labels} | begun.asked(config.n)
    folder = new_folder(config.out)
    with progress.shown(f"sampling {config.n} images of {cell.name}", "evaluations") as show:
        x = engine.sample(
            model.net,
            begun.table,
            config.n,
            model.shape,
            **asked,
            batch_size=config.batch_size or min(config.n, _BATCH),
            progress=show,
        )
    require_finite(model, begun.table, x, **asked)
    with files.replacing(folder / "samples.npz") as path, path.open("wb") as file:
        np.savez(file, samples=x.cpu().numpy(), **({} if labels is None else {"labels": labels.numpy()}))
    images = to_bytes(x).cpu()
    with files.replacing(folder / "samples_adm.npz") as path, path.open("wb") as file:
        np.savez(file, images.permute(0, 2, 3, 1).numpy())  # arr_0
    pictures.save_grid(images, folder / "grid.png")
    if config.singles:
        for k, image in enumerate(images, start=config.first):
            pictures.save_image(image, folder / "singles" / f"{k:05d}.png")
    if config.gif:
        shown = min(8, config.n)
        own = begun.asked(shown) | {"labels": None if labels is None else labels[:shown]}
        steps = engine.trajectory(model.net, begun.table, shown, model.shape, seed=config.seed, **own)
        pictures.save_animation(
            [(to_bytes(step.x).cpu(), to_bytes(step.x0).cpu()) for step in steps], folder / "steps.gif"
        )
    if begun.images is not None:
        rows = torch.cat([part[:10].cpu() for part in (begun.images, x)])
        pictures.save_grid(to_bytes(rows), folder / "rows.png", columns=min(10, config.n))
    print(f"{config.n} samples of {cell.name} ({begun.table.nfe} evaluations each) in {folder}")


if __name__ == "__main__":
    main(job)
