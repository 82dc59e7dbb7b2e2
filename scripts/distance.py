"""How far one set of images is from another: python scripts/distance.py a=samples/ b=mnist5k"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="distance")
def job(config: DictConfig) -> None:
    """Prints a table, and writes it as distance.json and distance.csv."""
    settings.check(config)
    import json

    from skipstone.commands import distance
    from skipstone.commands.finished import new_folder
    from skipstone.report.csv import write_rows
    from skipstone.store import files

    a, b = distance.read("a", config), distance.read("b", config)
    measured, remarks = distance.distances(a, b, config)
    rows = distance.rows(measured)
    print(f"{'metric':<16}{'value':>14}{'spread':>14}{'floor':>14}")
    for row in rows:
        value, spread, floor = ("" if row[k] is None else f"{row[k]:.6g}" for k in ("value", "spread", "floor"))
        print(f"{row['metric']:<16}{value:>14}{spread:>14}{floor:>14}")
    print(*remarks, sep="\n", end="\n" if remarks else "")
    folder = new_folder(config.out)
    files.write(folder / "distance.json", (json.dumps(rows, indent=1) + "\n").encode())
    write_rows(rows, folder / "distance.csv")
    print(f"The table is in {folder}")


if __name__ == "__main__":
    main(job)
