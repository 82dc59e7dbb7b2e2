"""Curves, the contact sheet, and how rows of evaluation.csv are read for them."""

import io
from dataclasses import replace

import pytest
import torch
from cells import METRICS, make_grid, make_result
from matplotlib.figure import Figure
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid as torchvisions

from skipstone.evaluation.metrics.metric import read
from skipstone.report import csv, curves, pictures, sheet, terminal
from skipstone.report.rows import families, metrics, show, stops
from skipstone.report.tiles import tiled, to_pil


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("n", "columns", "gap"), [(1, None, 2), (5, None, 2), (64, None, 2), (6, 3, 1), (7, 3, 0), (2, 9, 1)]
)
def test_samples_as_one_picture_are_torchvisions(channels, n, columns, gap):
    images = torch.randint(256, (n, channels, 5, 7), dtype=torch.uint8)
    side = columns or int((n - 1) ** 0.5) + 1
    assert torch.equal(tiled(images, columns, gap), torchvisions(images, nrow=side, padding=gap, pad_value=96))
    for picture in (images[0], tiled(images, columns, gap)):
        ours, theirs = to_pil(picture), to_pil_image(picture)
        assert (ours.mode, ours.size, ours.tobytes()) == (theirs.mode, theirs.size, theirs.tobytes())


@pytest.mark.parametrize("schedules", [1, 2, 4])
@pytest.mark.parametrize("names", [METRICS[:1], METRICS], ids=len)
def test_curves_have_a_panel_a_schedule_and_a_line_an_eta(schedules, names):
    results = [
        make_result(f"s{s}", tau, eta, nfe, film=False, names=names, n=2)
        for s in range(schedules) for tau, nfe in ((5, 10), (6, 12), (7, 300)) for eta in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    sick = results[1].measured["fd_random"].without_value()
    results[1] = replace(results[1], measured=results[1].measured | {"fd_random": sick})
    figure = curves.draw_curves(results)
    figure.draw_without_rendering()
    assert len(figure.axes) == schedules * (1 + len(names))
    for axes in figure.axes:
        drawn = axes.get_lines()
        etas = {line.get_label() for line in drawn} - {"floor"}
        if axes in figure.axes[:schedules]:  # solver_rmse, of deterministic cells alone; its floor is 0
            assert [line.get_label() for line in drawn] == ["η = 0"]
        else:
            assert etas == {"η = 0", "η = 0.5", "η = 1"}
            assert len(drawn) == 4
            assert axes.get_yscale() == ("symlog" if drawn[-1].get_ydata()[0] < 0 else "log")
        assert not axes.get_window_extent().overlaps(figure.legends[0].get_window_extent())
    assert len(figure.axes[schedules].get_lines()[1].get_xdata()) == 2  # without the cell that diverged
    ticks = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert ticks == ["10", "300"]  # 12 would be printed over 10


def test_limits_for_many_images_are_dotted_and_share_their_metrics_panel():
    results = [make_result(film=False, nfe=nfe) for nfe in (10, 20)]
    for result in results:
        result.measured["fd_random"] = replace(result.measured["fd_random"], limit=0.3, limit_floor=0.1)
    figure = curves.draw_curves(results)
    assert len(figure.axes) == 3
    assert [line.get_linestyle() for line in figure.axes[1].get_lines()] == ["-", ":", "--"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.5], ["0.2", "0.3", "0.5"]),
        ([0.3, 0.7], ["0.3", "0.4", "0.5", "0.6", "0.7"]),
        ([0.02, 0.3], ["0.02", "0.03", "0.05", "0.2", "0.3"]),
    ],
)
def test_between_decades_an_axis_is_labelled_as_far_as_there_is_room(values, labels):
    axes = Figure().subplots()
    axes.plot(values, marker="o")
    curves.plain_log(axes, span=max(values) / min(values))
    axes.figure.draw_without_rendering()
    ticks = zip(axes.get_yticks(minor=True), axes.get_yticklabels(minor=True), strict=True)
    low, high = axes.get_ylim()
    assert [label.get_text() for y, label in ticks if low <= y <= high and label.get_text()] == labels


def test_an_axis_of_a_narrow_span_is_linear_for_it_may_hold_no_number_of_one_digit():
    axes = Figure().subplots()
    axes.plot([1.05, 1.9])
    curves.plain_log(axes, span=1.9 / 1.05)
    assert axes.get_yscale() == "linear"


def test_an_axis_of_many_decades_has_no_ticks_between_them():
    axes = Figure().subplots()
    curves.plain_log(axes, span=100)
    assert not len(axes.get_yticks(minor=True))


def test_a_figure_is_drawn_once_and_as_savefig_draws_it():
    class Counted(Figure):
        drawn = 0

        def draw(self, renderer):
            Counted.drawn += 1
            super().draw(renderer)

    figure = Counted(figsize=(3, 2), layout="constrained")
    figure.subplots(1, 2)[0].set_ylabel("fd_random")
    ours = Image.open(io.BytesIO(pictures.png(figure, dpi=144)))
    assert Counted.drawn == 1
    theirs = io.BytesIO()
    figure.savefig(theirs, dpi=144)
    assert ours.size == (432, 288)
    assert ours.tobytes() == Image.open(theirs).tobytes()


@pytest.mark.parametrize("text", [None, "", "step,lr\n1,0.1\n", "step,train/loss,val/loss\n1,,\n2,na"])
def test_no_training_curve_without_losses(text, tmp_path):
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    assert curves.training_curve(tmp_path / "metrics.csv") is None


def test_the_contact_sheet_has_the_same_sample_down_a_column_and_holes_where_no_cell_is():
    def constant(result, grey):
        samples = torch.full((8, 1, 32, 32), grey, dtype=torch.uint8)
        return replace(result, samples=samples, film=None)

    results = [make_result("a", 100, 0.0, 11), make_result("a", 20, 0.0, 51), make_result("a", 20, 1.0, 51)]
    picture = sheet.draw_sheet([constant(result, 50 + 50 * k) for k, result in enumerate(results)])
    picture = picture.crop(picture.getchannel("A").getbbox())
    tiles, pitch = 8, 2 * 32 + 3
    left = [picture.width - 2 * tiles * pitch - 22 + 3 + 32, picture.width - tiles * pitch + 3 + 32]
    bottom = [picture.height - pitch - 32, picture.height - 32]
    pixels = [[picture.getpixel((x, y)) for x in left] for y in bottom]
    assert pixels == [[(50, 50, 50, 255), (0, 0, 0, 0)], [(100, 100, 100, 255), (150, 150, 150, 255)]]


def test_metrics_are_whatever_has_a_floor():
    rows = [
        make_result(names=()).row,
        make_result(names=("fd_new",)).row | {"other": 1.0, "fd_new_infinity_floor": 1.0},
    ]
    found = [read(row) for row in rows]
    assert [list(each) for each in found] == [["solver_rmse"], ["solver_rmse", "fd_new"]]
    assert (found[1]["fd_new"].floor, found[0]["solver_rmse"].floor) == (0.5, 0.0)
    assert metrics([make_result(names=()), make_result(names=("fd_new",))]) == ["solver_rmse", "fd_new"]
    assert metrics([make_result(eta=1.0)]) == ["fd_random", "kid_random"]


def test_families_are_told_apart_by_what_differs():
    rows = [make_result("exp").facts, make_result("exp", tau=5).facts, make_result("exp").facts | {"clip_x0": True}]
    assert families(rows[:2]) == {"exp": [0, 1]}
    assert families(rows) == {"exp, clip_x0=false": [0, 1], "exp, clip_x0=true": [2]}
    assert stops([make_result(nfe=9).row, make_result(nfe=5).row, make_result(nfe=9, eta=1.0).row]) == [1, 0, 1]
    assert stops([make_result(tau=None).row, make_result(tau=3).row]) == [0, 1]


def test_a_table_of_many_metrics_fits_a_terminal_and_names_what_does_not(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    terminal.print_table(make_grid(names=METRICS, n=4))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    assert "classifier" in printed.split("In evaluation.csv")[0]
    assert "fid, kid_inception, seconds" in printed.split("In evaluation.csv")[1]
    monkeypatch.setenv("COLUMNS", "200")
    terminal.print_table(make_grid(names=METRICS, n=4))
    printed = capsys.readouterr().out
    assert "inception" in printed
    assert "evaluation.csv" not in printed


def test_rows_with_further_columns_go_into_one_csv(tmp_path):
    csv.write_rows([{"a": 1}, {"a": 2, "b": 3}], tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text().split() == ["a,b", "1,", "2,3"]


def test_numbers_are_shown_short():
    assert [show(value) for value in (None, 3, 0.012345, 12345.6, -1234.5, 1.0)] == [
        "–",
        "3",
        "0.0123",
        "12346",
        "-1234",
        "1",
    ]
