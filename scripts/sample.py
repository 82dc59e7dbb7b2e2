"""Samples of a finished model: python scripts/sample.py run=<key> schedule=exp nfe=20 eta=0.0 n=64"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="sample")
def job(config: DictConfig) -> None:
    """Writes grid.png, samples.npz (float32 [n, C, H, W] in [−1, 1]) and samples_adm.npz (arr_0: uint8 [n, H, W, C]).

    Also what singles and gif ask for.
    """
    settings.check(config)
    from skipstone.commands.finished import new_folder, open_model, require_finite
    from skipstone.commands.grid import build_cells

    model, config = open_model(config)
    (cell,) = build_cells(config, model.process, [], [], costs=model.costs)

    import numpy as np
    from rich.progress import Progress

    from skipstone import engine
    from skipstone.data import to_bytes
    from skipstone.report import pictures
    from skipstone.store import files

    folder = new_folder(config.out)
    with Progress(transient=True) as progress:
        task = progress.add_task(cell.name)
        x = engine.sample(
            model.net,
            cell.table,
            config.n,
            model.shape,
            seed=config.seed,
            batch_size=min(config.n, config.batch_size),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    require_finite(model, cell.table, x, seed=config.seed)
    with files.replacing(folder / "samples.npz") as path, path.open("wb") as file:
        np.savez(file, samples=x.cpu().numpy())
    images = to_bytes(x).cpu()
    with files.replacing(folder / "samples_adm.npz") as path, path.open("wb") as file:
        np.savez(file, images.permute(0, 2, 3, 1).numpy())  # arr_0
    pictures.save_grid(images, folder / "grid.png")
    if config.singles:
        for k, image in enumerate(images):
            pictures.save_image(image, folder / "singles" / f"{k:05d}.png")
    if config.gif:
        steps = engine.trajectory(model.net, cell.table, min(8, config.n), model.shape, seed=config.seed)
        pictures.save_animation(
            [(to_bytes(step.x).cpu(), to_bytes(step.x0).cpu()) for step in steps], folder / "steps.gif"
        )
    print(f"{config.n} samples of {cell.name} ({cell.table.nfe} evaluations each) in {folder}")


if __name__ == "__main__":
    main(job)
