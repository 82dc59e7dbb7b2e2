"""Encode held-out images and decode them: python scripts/reconstruct.py run=<key> schedule=quad

The error against the number of evaluations is the DDIM paper's table 2; exact inversion stands beside it.
"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="reconstruct")
def job(config: DictConfig) -> None:
    """Writes reconstruction.csv (mse of images in [0, 1]), reconstruction.png (its curve) and rows.png (at `tau`)."""
    settings.check(config)
    from skipstone.commands.finished import new_folder, open_model, require_own_form
    from skipstone.commands.grid import make_schedule

    model, config = open_model(config)
    if "tau" not in config.schedule:
        raise ValueError("this schedule lists its own steps and has no tau to vary: choose another schedule.")

    import torch
    from hydra.utils import instantiate

    from skipstone import engine

    process, net = model.process, model.net
    solver, inner = instantiate(config.solver), instantiate(config.solver, to_data=False)

    def visited(tau: int) -> tuple[int, ...]:
        return make_schedule(config, process, tau, model.costs)(process.num_steps)

    for tau in [config.tau, *config.taus, *config.exact]:  # refuses a tau that is out of range before any work
        solver.encode_table(process, visited(tau))
    for tau in config.exact:
        try:
            engine.require_invertible(inner.table(process, visited(tau)))
        except ValueError as error:
            raise ValueError(
                f"exact={config.exact} is not allowed with this solver: {error} Or set exact=[]."
            ) from error
    images = instantiate(config.dataset)
    require_own_form(model, images)

    from rich.progress import track

    from skipstone.data import pick, to_bytes, to_unit
    from skipstone.report import csv, curves, pictures, terminal
    from skipstone.studies.paper.published import TABLE_2

    x0 = to_unit(pick(images.held_out, config.n)).to(model.device)

    def encoded(tau: int) -> torch.Tensor:
        return engine.sample(net, solver.encode_table(process, visited(tau)), start=x0)

    def decoded(tau: int, z: torch.Tensor) -> torch.Tensor:
        return engine.sample(net, solver.table(process, visited(tau)), start=z)

    def mse(x: torch.Tensor) -> float:
        return float(((x - x0) / 2).square().mean())

    folder = new_folder(config.out)
    rows = []
    for tau in track(config.taus, "encoding and decoding", transient=True):
        nfe = len(visited(tau))
        rows.append(
            {"method": "euler", "tau": tau, "nfe": nfe, "evaluations": 2 * nfe, "mse": mse(decoded(tau, encoded(tau)))}
        )
    for tau in track(config.exact, "inverting", transient=True):
        steps = inner.table(process, visited(tau))
        z, solved = engine.invert(net, steps, x0)
        evaluations = sum(row.evaluations for row in solved) + steps.nfe
        error = mse(engine.sample(net, steps, start=z))
        coarse = [f"{row.t}-{row.p}" for row in solved if not row.converged]
        rows.append({"method": "exact", "tau": tau, "nfe": steps.nfe, "evaluations": evaluations, "mse": error})
        if coarse:
            print(f"tau={tau}: too coarse to invert at the steps {' '.join(coarse)}")
    csv.write_rows(rows, folder / "reconstruction.csv")
    curves.save_reconstruction(rows, TABLE_2, folder / "reconstruction.png")
    z = encoded(config.tau)
    shown = torch.cat([x[:10] for x in (x0, z / 2, decoded(config.tau, z))])  # the latent at half its contrast
    pictures.save_grid(to_bytes(shown).cpu(), folder / "rows.png", columns=min(10, len(x0)))
    terminal.print_rows(rows, f"{solver.name}, {len(x0)} held-out images, mse of pixels in [0, 1]")
    print(f"Look next at {folder / 'reconstruction.png'} and {folder / 'rows.png'}")


if __name__ == "__main__":
    main(job)
