"""What can be shown of a solver without a model: python scripts/solver.py solver=unipc nfe=10"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="proof")
def job(config: DictConfig) -> None:
    """Prints order, constants and stability; writes proof.json, table.json (solver=table) and coefficients.png."""
    settings.check(config)
    import json
    from dataclasses import asdict, replace

    import torch
    from hydra.utils import instantiate

    from skipstone.commands.finished import new_folder
    from skipstone.commands.grid import choose_taus
    from skipstone.evaluation.cells import label
    from skipstone.process import process_of
    from skipstone.report import terminal
    from skipstone.report.coefficients import save_coefficients
    from skipstone.solvers import amplification, between_noise, prove, save_table
    from skipstone.store import files

    process = process_of(instantiate(config.noise))
    choose_taus(config, process)
    solver, schedule = instantiate(config.solver), instantiate(config.schedule)
    table = solver.table(process, schedule(process.num_steps))
    proof = prove(replace(table, clip_x0=False), process, solver)
    if table.clip_x0:
        proof = replace(proof, left_out=("clipping, which is not linear: all of this is without", *proof.left_out))
    folder = new_folder(config.out)
    rates, growth = torch.linspace(0.02, 5.0, 250, dtype=torch.float64), None
    if proof.stable_to is not None:
        growth = amplification(between_noise(table), process, rates)
    save_coefficients(table, rates, growth, folder / "coefficients.png")
    names = {"solver": label(solver, ("eta",)), "schedule": label(schedule, ("tau",))}
    save_table(table, folder / "table.json", names)
    files.write(folder / "proof.json", json.dumps(asdict(proof), indent=1, ensure_ascii=False).encode() + b"\n")
    rows = [{"what": what, "value": value} for what, value in proof.lines()]
    terminal.print_rows(rows, f"{names['solver']} on {names['schedule']}")
    print(f"Look next at {folder / 'coefficients.png'}")


if __name__ == "__main__":
    main(job)
