"""Encode held-out images and decode them: python scripts/reconstruct.py run=<key> schedule=quad

The error against the number of evaluations is the DDIM paper's table 2; exact inversion stands beside it. Solvers that
undo their own steps (solver=belm, or solver=edict dtype=float64) need no fixed point for it.
"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main

_FINE = 200  # steps of the solution from which latents are held apart


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="reconstruct")
def job(config: DictConfig) -> None:
    """Writes reconstruction.csv (mse of images in [0, 1]), reconstruction.png (its curve) and rows.png (at `tau`)."""
    settings.check(config)
    if config.dtype not in ("float32", "float64"):
        raise ValueError(f"dtype={config.dtype} is unknown: choose float32 or float64.")
    from skipstone.commands.finished import new_folder, open_model, require_finite, require_own_form
    from skipstone.commands.grid import make_schedule

    model, config = open_model(config)
    if "tau" not in config.schedule:
        raise ValueError("this schedule lists its own steps and has no tau to vary: choose another schedule.")

    import torch
    from hydra.utils import instantiate

    from skipstone import engine, schedules, solvers

    process, net, dtype = model.process, model.net, getattr(torch, config.dtype)
    solver = instantiate(config.solver)

    def visited(tau: int) -> tuple[int, ...]:
        return make_schedule(config, process, tau, model)(process.num_steps)

    explicit = hasattr(solver, "return_table")
    if config.exact and getattr(solver, "needs_float64", False) and config.dtype != "float64":
        raise ValueError(
            f"dtype={config.dtype} is not allowed with solver={solver.name}, whose way back loses up to 1e-2 in it: "
            "set dtype=float64, or exact=[]."
        )
    for tau in [config.tau, *config.taus, *config.exact]:  # refuses a tau that is out of range before any work
        solver.encode_table(process, visited(tau))
    inner = instantiate(config.solver, to_data=False)
    for tau in config.exact:
        if explicit:
            solver.return_table(process, visited(tau))
            continue
        try:
            engine.require_invertible(inner.table(process, visited(tau)))
        except ValueError as error:
            raise ValueError(
                f"exact={config.exact} is not allowed with this solver: {error} Or set exact=[]."
            ) from error
    images = instantiate(config.dataset)
    require_own_form(model, images)

    from skipstone import progress
    from skipstone.data import pick, to_bytes, to_unit
    from skipstone.evaluation.cells import label
    from skipstone.report import csv, curves, pictures, terminal
    from skipstone.studies.paper.published import TABLE_2

    x0 = to_unit(pick(images.held_out, config.n)).to(model.device, dtype)

    def run(table: solvers.StepTable, start: torch.Tensor) -> torch.Tensor:
        x = engine.sample(net, table, start=start, dtype=dtype)
        require_finite(model, table, x, start=start)
        return x

    def encoded(tau: int) -> torch.Tensor:
        return run(solver.encode_table(process, visited(tau)), x0)

    def decoded(tau: int, z: torch.Tensor) -> torch.Tensor:
        return run(solver.table(process, visited(tau)), z)

    def errors(x: torch.Tensor) -> dict[str, float]:
        """mse of pixels in [0, 1]; rms and max in [−1, 1]."""
        off = (x - x0).double()
        return {
            "mse": float((off / 2).square().mean()),
            "rms": float(off.square().mean().sqrt()),
            "max": float(off.abs().max()),
        }

    def undone(tau: int) -> dict[str, object]:
        """There and back by a solver that undoes its own steps, from the last two states."""
        up, down = (make(process, visited(tau)) for make in (solver.encode_table, solver.return_table))
        z, before = engine.sample_pair(net, up, x0, dtype=dtype)
        back, _ = engine.sample_pair(net, down, before, z, dtype=dtype)
        off = float((z - fine).double().square().mean().sqrt())
        return {"nfe": up.nfe, "evaluations": up.nfe + down.nfe, **errors(back), "latents_off": off}

    folder = new_folder(config.out)
    rows = []
    for tau in progress.each(config.taus, "encoding and decoding", "taus"):
        nfe = solver.table(process, visited(tau)).nfe
        row = {"method": "encode", "solver": solver.name, "tau": tau, "nfe": nfe, "evaluations": 2 * nfe}
        row |= errors(decoded(tau, encoded(tau)))
        rows.append(row | ({"latents_off": None} if explicit else {}))
    if explicit and config.exact:
        steps = schedules.Polynomial(min(_FINE, process.num_steps))(process.num_steps)
        fine_solver = solvers.DPMSolverPP(2, to_data=solver.to_data)
        fine = run(fine_solver.encode_table(process, steps), x0)
    for tau in progress.each(config.exact, "inverting", "taus"):
        if explicit:
            rows.append({"method": "explicit", "solver": solver.name, "tau": tau, **undone(tau)})
            continue
        steps = inner.table(process, visited(tau))
        z, solved = engine.invert(net, steps, x0)
        evaluations = sum(row.evaluations for row in solved) + steps.nfe
        error = errors(run(steps, z))
        coarse = [f"{row.t}-{row.p}" for row in solved if not row.converged]
        row = {"method": "exact", "solver": solver.name, "tau": tau, "nfe": steps.nfe, "evaluations": evaluations}
        rows.append(row | error)
        if coarse:
            print(f"tau={tau}: too coarse to invert at the steps {' '.join(coarse)}")
    csv.write_rows(rows, folder / "reconstruction.csv")
    curves.save_reconstruction(rows, TABLE_2, folder / "reconstruction.png")
    z = encoded(config.tau)
    shown = torch.cat([x[:10] for x in (x0, z / 2, decoded(config.tau, z))])  # the latent at half its contrast
    pictures.save_grid(to_bytes(shown).cpu(), folder / "rows.png", columns=min(10, len(x0)))
    terminal.print_rows(rows, f"{label(solver, ('eta',))}, {len(x0)} held-out images, mse of pixels in [0, 1]")
    print(f"Look next at {folder / 'reconstruction.png'} and {folder / 'rows.png'}")


if __name__ == "__main__":
    main(job)
