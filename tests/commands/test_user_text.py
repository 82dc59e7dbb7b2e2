"""What a user names is never markup: through a real sweep into page, table, pictures, tracker; and in each writer."""

import csv
import re
from html.parser import HTMLParser

import pytest
from cells import make_result
from matplotlib.figure import Figure
from PIL import Image
from shell import ROOT, python, summary_of
from test_page import CHROME, browse

from skipstone import ForwardProcess, noise, schedules, solvers
from skipstone.commands.words import quoted
from skipstone.report import csv as written
from skipstone.report import curves, markdown, pictures, sheet, terminal
from skipstone.solvers import save_table

NAMES = [
    "x^$ and $", "<img src=x onerror=alert(1)>", "=1+1", "a|b", "{{7 * 7}}", "%s %d", "it's \"so\"", "[bold]b[.x]",
    "`c`", "-2+3", "@SUM(1)", "&amp; \\frac", "二 é",
]  # fmt: skip


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name for name, _ in attributes}))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """One job per name: of a table's file, and so of a solver, of cells, of their pictures, and of a swept setting."""
    folder = tmp_path_factory.mktemp("sweep")
    process = ForwardProcess(noise.linear(20, rescale=True))
    table = solvers.DDIM().table(process, schedules.Linspace(tau=3)(20))
    for name in NAMES:
        save_table(table, folder / f"{name}.json")
    paths = ",".join(quoted(f"{name}.json") for name in NAMES)
    words = ["solver=table", "schedule=custom", "schedule.timesteps=[]", f"solver.path={paths}"]
    words += ["tau=null", "evaluation.training.taus=[null]", "evaluation.images=10"]
    tracked = ["logger.project='x^$'", f"paths.outputs={folder}/outputs", f"hydra.sweep.dir={folder}/swept"]
    done = python(ROOT / "train.py", "-m", "experiment=smoke", *words, *tracked, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done, folder / "swept"


def test_every_job_leaves_its_samples_under_its_name(sweep):
    for job, name in enumerate(NAMES):
        (picture,) = (sweep[1] / str(job) / "samples").iterdir()
        assert picture.name == f"table_{name}-custom-eta0.0.png"


def test_its_names_are_text_in_the_page(sweep):
    page = Page((sweep[1] / "report.html").read_text(encoding="utf-8"))
    for name in NAMES:
        assert page.text.count(name) >= 2  # in the table, and below its samples
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert images
    assert all(attributes == {"src", "alt", "class", "width", "height"} for attributes in images)
    assert [tag for tag, _ in page.tags].count("script") == 2


@pytest.mark.skipif(CHROME is None, reason="no chromium or google-chrome is installed here")
def test_its_names_are_text_in_the_explorer(sweep, tmp_path):
    script = """
      found.shown = [];
      for (const radio of document.querySelectorAll("form.explorer [name=family]")) {
        radio.click();
        found.shown.push(radio.parentElement.textContent + document.querySelector(".says").textContent);
      }
      found.images = document.querySelectorAll("form.explorer img").length;
    """
    found = browse(sweep[1] / "report.html", script, tmp_path)
    assert found["images"] == 0
    assert len(found["shown"]) == len(NAMES)
    for name, shown in zip(NAMES, found["shown"], strict=True):
        assert f"table_{name}" in shown


def test_its_table_has_one_row_per_name_and_no_formula(sweep):
    with (sweep[1] / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["solver"] for row in rows] == [f"table_{name}" for name in NAMES]
    for row in rows:
        assert not [value for value in row.values() if re.match(r"[=+@\t\r]|-\D|-.*[+*]", value)]


def test_its_pictures_are_there(sweep):
    for name in ("curves.png", "contact.png"):
        with Image.open(sweep[1] / name) as picture:
            assert picture.convert("L").getextrema()[0] < picture.convert("L").getextrema()[1]


def test_its_runs_in_wandb_are_finished(sweep):
    records = list(sweep[1].glob("*/wandb/offline-run-*/*.wandb"))
    assert len(records) == 1 + len(NAMES)
    assert "finished (exit code 0)" in summary_of(records[0].parent)[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_figure_is_drawn_as_it_is(name):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], label=name)
    axes.set(title=name, xlabel=name, ylabel=f"{name} {name}")
    figure.legend()
    figure.supxlabel(name)
    assert pictures.png(figure)
    assert not any(text.get_parse_math() for text in (axes.title, axes.xaxis.label, *figure.legends[0].get_texts()))
    assert axes.get_title() == name


@pytest.mark.parametrize("name", [*NAMES, "\udcff.png", "a\x1b[2Jb\x00"])
def test_a_name_goes_through_every_writer_of_a_report(name, tmp_path, capsys):
    results = [make_result(name, nfe=nfe, film=False, name=name) for nfe in (10, 20)]
    curves.save_curves(results, tmp_path / "curves.png")
    sheet.save_sheet(results, tmp_path / "contact.png")
    written.write_csv(results, tmp_path / "evaluation.csv")
    terminal.print_table(results)
    if name.isascii() and name.isprintable():
        assert name in capsys.readouterr().out


@pytest.mark.parametrize(("value", "cell"), [
    ("=1+1", "'=1+1"), ("+a", "'+a"), ("-2+3", "'-2+3"), ("@SUM(1)", "'@SUM(1)"), ("\tx", "'\tx"), ("-1", "-1"),
    ("-1e-3", "-1e-3"), ("+0.5", "+0.5"), ("a=b", "a=b"), (-1.5, "-1.5"), (None, ""), ("a,\"b\nc", "a,\"b\nc"),
])  # fmt: skip
def test_what_a_spreadsheet_would_compute_is_text_in_csv(value, cell, tmp_path):
    written.write_rows([{"a": value, "+b": 1}], tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "'+b"], [cell, "1"]]


def test_a_text_of_ours_stays_as_it_is_in_csv(tmp_path):
    written.write_rows([{"a": "+1.00, from 0.2", "b": "+1.00, from 0.2"}], tmp_path / "rows.csv", ours=["a"])
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["+1.00, from 0.2", "'+1.00, from 0.2"]]


def test_what_is_named_is_text_in_markdown():
    table = markdown.table(
        ["a|b", markdown.literal("**c**")], [[markdown.code("x|`y"), markdown.literal("<b>|\n[l](u)")]]
    )
    assert table.splitlines() == [r"| a\|b | \*\*c\*\* |", "|---|---|", r"| `` x\|`y `` | \<b\>\| [l]\(u) |"]
    assert markdown.literal("blocks [1, 2], min_snr") == "blocks [1, 2], min_snr"
    assert markdown.literal("x^$ `c` _d_ &amp;") == r"x^\$ \`c\` \_d\_ \&amp;"


def test_a_log_axis_of_a_figure_has_plain_numbers(tmp_path):
    rows = [{"nfe": nfe, "mse": 1 / nfe, "method": "encode"} for nfe in (10, 100, 1000)]
    curves.save_reconstruction(rows, {10: 0.014, 1000: 0.0001}, tmp_path / "error.png")
    assert (tmp_path / "error.png").stat().st_size > 0
