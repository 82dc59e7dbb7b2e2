"""The tour of docs/tour.py, run from its first cell to its last."""

import re

from shell import ROOT, python


def test_the_tour_runs_from_data_to_report_in_ten_cells(tmp_path):
    tour = ROOT / "docs" / "tour.py"
    cells = re.findall(r"(?m)^# %% (\d+)\. ", tour.read_text())
    assert cells == [str(n) for n in range(1, 11)]
    done = python(tour, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "outputs").rglob("report.html"))
    assert len(pages) == 2
    pictures = {path.name for path in (tmp_path / "outputs" / "tour").iterdir()}
    assert pictures == {"data.png", "forward.png", "samples.png", "etas.png"}
    assert "evaluations" in done.stdout  # of the table that is printed
