"""Images between images: python scripts/interpolate.py run=<key> schedule=exp nfe=50

Each row goes from one start noise to another on the sphere (Shoemake's slerp), as in the DDIM paper's section 5.3.
"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="interpolate")
def job(config: DictConfig) -> None:
    """Writes grid.png: `rows` pairs of start noises, `columns` images from one to the other."""
    settings.check(config)
    from skipstone.commands.finished import new_folder, open_model, require_finite
    from skipstone.commands.grid import build_cells

    model, config = open_model(config)
    (cell,) = build_cells(config, model.process, [], [], costs=model.costs)
    if cell.table.stochastic:
        raise ValueError(f"eta={config.eta} is not allowed here: fresh noise hides what start noise does; set eta=0.")

    import torch
    from rich.progress import Progress

    from skipstone import engine, rng
    from skipstone.data import to_bytes
    from skipstone.report import pictures

    folder = new_folder(config.out)
    ends = rng.normal(config.seed, rng.Stream.START, torch.arange(2 * config.rows), model.shape)
    start = torch.cat([engine.slerp(a, b, config.columns) for a, b in zip(ends[::2], ends[1::2], strict=True)])
    with Progress(transient=True) as progress:
        task = progress.add_task(cell.name)
        x = engine.sample(
            model.net,
            cell.table,
            start=cell.table.start_scale * start,
            batch_size=len(start),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    require_finite(model, cell.table, x, start=cell.table.start_scale * start)
    pictures.save_grid(to_bytes(x).cpu(), folder / "grid.png", columns=config.columns)
    print(f"{config.rows} rows between start noises, {cell.name}, in {folder}")


if __name__ == "__main__":
    main(job)
