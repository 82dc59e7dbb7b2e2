"""report.html: what is in the file, and what a browser makes of it."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from cells import METRICS, STEPS, make_grid, make_result, noisy_film
from PIL import Image

from skipstone.evaluation.sampled import Batch
from skipstone.report import curves, sheet
from skipstone.report.page import Neighbours, Story, write_page
from skipstone.report.rows import show


def make_page(folder, results, **told):
    """The page of these results; its drawings are blank unless `whole_story` has made them."""
    for name in ("curves.png", "contact.png"):
        if not (folder / name).exists():
            Image.new("RGB", (40, 30)).save(folder / name)
    return write_page(
        results, folder, Story(**{"model": "mnist5k-abc", "config": "a: 1", "command": "python train.py"} | told)
    )


def whole_story(folder, results):
    """Everything that a page can tell, and its drawings."""
    curves.save_curves(results, folder / "curves.png")
    sheet.save_sheet(results, folder / "contact.png")
    (folder / "metrics.csv").write_text("step,train/loss,val/loss\n1,0.9,\n2,,0.8\n3,0.7,\n")
    curve = curves.training_curve(folder / "metrics.csv").embedded
    samples = results[0].samples[:6]
    nearest = results[1].samples[:18].unflatten(0, (6, 3))
    near = Neighbours(samples, nearest, torch.rand(6, 3), "Nothing says that they are copied.")
    return {"training_curve": curve, "neighbours": near, "notes": ["Fewer images than asked for."]}


CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROME is None, reason="no chromium or google-chrome is installed here")
CHECK_IMAGES = """
  found.images = document.images.length;
  found.unseen = [...document.images].filter((image) => !image.naturalWidth || !image.offsetWidth || !image.alt).length;
"""


def browse(page, script, folder, frame=None):
    """What `script` leaves in `found`, run in the page by a headless browser; any console error fails.

    frame: a width in pixels, the page then stands in a frame of a page, narrower than a window can be.
    """
    ending = f"""<script>addEventListener("load", async () => {{
      const found = {{}};
      try {{ {script} }} catch (error) {{ console.error(error); found.error = String(error); }}
      if (parent !== window) return parent.postMessage(found, "*");
      const pre = document.createElement("pre");
      pre.id = "found"; pre.textContent = JSON.stringify(found); document.body.append(pre);
    }});</script></body>"""
    copy = folder / "copy.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", ending), encoding="utf-8")
    opened = copy
    if frame:
        opened = folder / "frame.html"
        opened.write_text(f"""<body><script>addEventListener("message", (event) => {{
          const pre = document.createElement("pre");
          pre.id = "found"; pre.textContent = JSON.stringify(event.data); document.body.append(pre); }});
        </script><iframe src="copy.html" style="width: {frame}px; height: 700px; border: 0"></iframe></body>""")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    more = "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=10000 --dump-dom"
    done = subprocess.run(
        [CHROME, *flags.split(), *more.split(), f"--user-data-dir={folder / 'profile'}", opened.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    assert not console, console
    written = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert written, "the script did not finish"
    found = json.loads(html.unescape(written[1]))
    assert "error" not in found, found["error"]
    return found


@needs_browser
@pytest.mark.parametrize(
    "kind", ["grey", "colour", "one cell", "no tau, no film"]
)  # fmt: skip
def test_every_image_is_seen_and_the_console_is_quiet(kind, tmp_path):
    results = {
        "grey": make_grid,
        "colour": lambda: make_grid(shape=(3, 32, 32), names=METRICS),
        "one cell": lambda: [make_result(own=True, shape=(3, 64, 64))],
        "no tau, no film": lambda: [make_result("custom", None, film=False, own=True)],
    }[kind]()
    told = whole_story(tmp_path, results) if len(results) > 1 else {}
    found = browse(make_page(tmp_path, results, **told), CHECK_IMAGES, tmp_path)
    strips = 0 if results[0].film is None else 4
    assert found == {"images": len(results) + 2 + strips + (1 + 2 * 6 if told else 0), "unseen": 0}


EXPLORE = """
  const form = document.querySelector("form.explorer");
  const set = async (name, value) => {
    const control = form.elements[name];
    control.value = value;
    (control.length ? control[value === "x0" ? 1 : Number(value)] ?? control[0] : control)
      .dispatchEvent(new Event("input", { bubbles: true }));
    await look();
  };
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const grey = (canvas) => (probe.drawImage(canvas, 0, 0), probe.getImageData(14, 14, 1, 1).data[0]);
  found.seen = [];
  const look = async () => {
    await new Promise((resolve) => setTimeout(resolve, 100));
    found.seen.push({
      greys: [...form.querySelectorAll("canvas")].map(grey),
      outputs: [...form.querySelectorAll("output")].map((output) => output.textContent),
      numbers: [...form.querySelectorAll(".scale b")].map((number) => number.textContent),
      disabled: form.elements.eta.disabled,
    });
  };
  await look();                                    // 0: the user's own cell, finished
  await set("step", 0);                            // 1: its first step
  await set("stop", 0);                            // 2: 11 evaluations, the nearest eta
  await set("eta", 1);                             // 3: eta 0.5 there
  await set("view", "x0");                         // 4
  await set("family", 0);                          // 5: uniform
  document.querySelector("[data-cell='ddim-exp-tau20-eta1.0']").click();
  await look();                                    // 6: from the table
  const { play } = form.elements;
  found.play = [play.textContent];
  play.click();
  found.play.push(play.textContent);
  await new Promise((resolve) => setTimeout(resolve, 400));  // it has moved
  found.moved = form.elements.step.value;
  await set("step", 0);                            // 7: a control stops it
  found.play.push(play.textContent);
  await new Promise((resolve) => setTimeout(resolve, 600));
  await look();                                    // 8: and it stays there
"""


@needs_browser
def test_the_explorer_shows_the_cell_and_the_step_that_the_sliders_say(tmp_path):
    everything = browse(make_page(tmp_path, make_grid()), EXPLORE, tmp_path)
    found = everything["seen"]
    cells = {(r.row["schedule"], r.row["tau"], r.row["eta"]): r for r in make_grid()}

    def assert_shown(seen, schedule, tau, eta, frame, view):
        result = cells[schedule, tau, eta]
        expected = getattr(result.film, view)[frame, :, 0, 14, 14].tolist()
        assert seen["greys"] == pytest.approx(expected, abs=2)
        t, p = result.film.t[frame], result.film.p[frame]
        assert seen["outputs"] == [
            f"{result.row['nfe']} (τ = {tau})", f"{eta:g}", f"t = {t} → {'data' if p < 0 else p}"
        ]  # fmt: skip
        assert seen["numbers"] == [show(result.row[name]) for name in ("solver_rmse", "fd_random", "kid_random")]

    assert_shown(found[0], "exp", 30, 0.25, STEPS - 1, "x")
    assert found[0]["disabled"]  # no other eta is there
    assert_shown(found[1], "exp", 30, 0.25, 0, "x")
    assert_shown(found[2], "exp", 100, 0.0, 0, "x")
    assert_shown(found[3], "exp", 100, 0.5, 0, "x")
    assert not found[3]["disabled"]
    assert_shown(found[4], "exp", 100, 0.5, 0, "x0")
    assert_shown(found[5], "uniform", 100, 0.5, 0, "x0")
    assert_shown(found[6], "exp", 20, 1.0, 0, "x0")
    assert everything["play"] == ["Play the steps", "Pause", "Play the steps"]
    assert int(everything["moved"]) > 0
    for seen in found[7:]:
        assert_shown(seen, "exp", 20, 1.0, 0, "x0")


SORT_AND_ENLARGE = """
  const table = document.querySelector("table");
  const headings = [...table.tHead.rows[0].cells];
  const sorted = (name, times) => {
    const k = headings.findIndex((heading) => heading.textContent.replace(/\\W/g, "") === name);
    for (let i = 0; i < times; i++) headings[k].querySelector("button").click();
    return [headings[k].ariaSort, ...[...table.tBodies[0].rows].map((row) => row.cells[k].textContent)];
  };
  found.up = sorted("nfe", 1);
  found.down = sorted("nfe", 1);
  found.missing = [sorted("solver_rmse", 1), sorted("solver_rmse", 1)];
  found.words = sorted("schedule", 1);
  found.marked = document.querySelectorAll("th[aria-sort]").length;
  found.last = table.rows[table.rows.length - 1].textContent.trim().slice(0, 5);
  const dialog = document.querySelector("dialog");
  const button = document.querySelectorAll("#samples .enlarge")[2];
  button.click();
  found.open = dialog.open && dialog.querySelector("img").src === button.querySelector("img").src;
  dialog.querySelector("button").click();
  await new Promise((resolve) => setTimeout(resolve, 50));
  found.closed = !dialog.open;
  found.width = document.documentElement.scrollWidth;
"""


@needs_browser
def test_columns_sort_pictures_enlarge_and_a_phone_does_not_scroll_sideways(tmp_path):
    results = make_grid(names=METRICS)
    page = make_page(tmp_path, results, config="a" * 300, command="python train.py " + "b" * 300)
    found = browse(page, SORT_AND_ENLARGE, tmp_path, frame=360)
    assert found["up"] == ["ascending", *(["11"] * 5), "31", *(["51"] * 6)]
    assert found["down"] == ["descending", *reversed(found["up"][1:])]
    missing, low, high = ["–"] * 8, ["0.0588 ± 0.002"] * 2, ["0.273 ± 0.0091"] * 2
    assert found["missing"][0] == ["ascending", *low, *high, *missing]
    assert found["missing"][1] == ["descending", *high, *low, *missing]
    assert [word.split()[0] for word in found["words"]] == ["ascending", *(["exp"] * 6), *(["uniform"] * 6)]
    assert (found["marked"], found["last"]) == (1, "floor")
    assert found["open"]
    assert found["closed"]
    assert found["width"] <= 360


class Document(HTMLParser):
    """Tags, what they refer to, and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.references, self.text = [], [], ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        self.text += data


@needs_browser
@pytest.mark.parametrize("width", [1200, 1400])
def test_every_column_of_the_default_job_is_seen_without_scrolling(width, tmp_path):
    script = """
      const wide = document.querySelector("#cells .wide");
      const heads = [...wide.querySelectorAll("thead button")];
      found.columns = heads.map((head) => head.textContent.replaceAll("\u200b", ""));
      found.cut = wide.scrollWidth - wide.clientWidth;
    """
    results = make_grid(names=METRICS[:4])
    widest = {  # of a default job's numbers
        "solver_rmse": (0.0492, 0.0095), "fd_random": (0.0437, 0.0042), "kid_random": (0.000725, 0.00015),
        "fd_classifier": (8.31, 0.93), "kid_classifier": (0.0891, 0.023),
    }  # fmt: skip
    for result in results:
        for name, (value, spread) in widest.items():
            result.measured[name] = replace(result.measured[name], value=value, spread=spread)
    found = browse(make_page(tmp_path, results), script, tmp_path, frame=width)
    assert found["columns"][-3:] == ["kid_classifier", "seconds", "images_per_second"]
    assert found["cut"] == 0


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)], ids=str)
def test_a_page_of_twelve_cells_is_one_file_below_five_megabytes(shape, tmp_path):
    torch.manual_seed(0)
    results = [replace(r, film=noisy_film(shape)) for r in make_grid(shape=shape, n=256)]
    page = make_page(tmp_path, results, **whole_story(tmp_path, results))
    assert len(results) == 12
    assert 3e5 < page.stat().st_size < 5e6
    document = Document(page)
    assert all(reference.startswith(("data:", "#")) for reference in document.references)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|import\(", page.read_text(encoding="utf-8"))


def test_nothing_in_names_or_configuration_becomes_markup(tmp_path):
    evil = "</script></pre><script>document.title = 'taken'</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"
    plain = Document(make_page(tmp_path, [make_result(own=True)]))
    near = {"config": evil, "command": evil, "model": evil, "notes": [evil]}
    page = make_page(tmp_path, [make_result(own=True, name=evil, schedule=evil)], **near)
    document = Document(page)
    assert sorted({*document.tags} - {"ul", "li"}) == sorted({*plain.tags})
    assert document.tags.count("script") == plain.tags.count("script")
    assert document.tags.count("img") == plain.tags.count("img")
    assert document.text.count(evil) >= 5


def test_the_page_says_how_many_images_and_that_distances_are_biased(tmp_path):
    text = " ".join(Document(make_page(tmp_path, [make_result(n=48), make_result(nfe=20, n=48)])).text.split())
    assert "Each distance is of 48 samples" in text
    assert "A Fréchet distance of n images is biased upwards" in text
    assert "floor: 48 real images" in text


def test_only_measured_times_are_on_the_page(tmp_path):
    batch = Batch(2, 96, 1.25)
    cells = [make_result(n=48, own=True), make_result(nfe=20, n=48)]
    packed = [replace(r, batch=batch, facts=r.facts | {"seconds": None, "images_per_second": None}) for r in cells]
    text = " ".join(Document(make_page(tmp_path, packed)).text.split())
    assert "All 2 cells were sampled in one batch, which took 1.25 s." in text
    assert "sampling1.25 s2 cells in one batch" in text
    assert "images_\u200bper_\u200bsecond" not in text
    assert "seconds are measured" not in text
    (tmp_path / "alone").mkdir()
    text = " ".join(Document(make_page(tmp_path / "alone", cells[:1])).text.split())
    assert "seconds are measured, of a cell that was sampled alone" in text
    assert "images_\u200bper_\u200bsecond" in text
    assert "one batch" not in text
    (tmp_path / "mixed").mkdir()
    text = " ".join(Document(make_page(tmp_path / "mixed", [*packed, make_result(nfe=10, n=48)])).text.split())
    assert "2 of the 3 cells were sampled in one batch, which took 1.25 s." in text
    assert "seconds are measured, of a cell that was sampled alone" in text
