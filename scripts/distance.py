"""How far one set of images is from another: python scripts/distance.py samples/ dataset=mnist5k

A set is a folder of images, an .npz (arr_0 or samples; as the second also mu and sigma), a run's folder, the folder of
scripts/sample.py, or dataset=<name> (its training part; dataset=<name>/held_out the other).
"""

import argparse
import json

from skipstone.commands.cli import main
from skipstone.commands.words import home_path


def job() -> None:
    """Prints a table; writes it as --json and --csv ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", help="what is measured")
    parser.add_argument("b", help="what it is compared with")
    parser.add_argument("--cell", help="of a run with several; by default its own")
    parser.add_argument("--features", type=int, default=64, help="of the random network and the classifier")
    parser.add_argument("--inception", help="path to Inception-V3's weights, for fid")
    parser.add_argument("--outputs", type=home_path, default="outputs", help="where classifiers and data are kept")
    parser.add_argument("--json", type=home_path, help="a file to write")
    parser.add_argument("--csv", type=home_path, help="a file to write")
    words = parser.parse_args()
    from skipstone.commands import distance
    from skipstone.report.csv import write_rows
    from skipstone.store import files

    a, b = (distance.read(name, home_path(str(words.outputs)), words.cell) for name in (words.a, words.b))
    if isinstance(a, distance.Statistics):
        raise ValueError(f"{words.a} holds mu and sigma: a reference stands second, after the images.")
    measured, left_out = distance.distances(a, b, home_path(str(words.outputs)), words.features, words.inception)
    rows = distance.rows(measured)
    print(f"{'metric':<16}{'value':>14}{'spread':>14}{'floor':>14}")
    for row in rows:
        value, spread, floor = ("" if row[k] is None else f"{row[k]:.6g}" for k in ("value", "spread", "floor"))
        print(f"{row['metric']:<16}{value:>14}{spread:>14}{floor:>14}")
    print(*left_out, sep="\n", end="\n" if left_out else "")
    if words.json:
        files.write(words.json, (json.dumps(rows, indent=1) + "\n").encode())
    if words.csv:
        write_rows(rows, words.csv)


if __name__ == "__main__":
    main(job)
