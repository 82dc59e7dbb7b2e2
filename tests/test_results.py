"""The paper's tables: exactly the evaluations they say, parts that fit a budget, a page of what was measured."""

import csv
import json
import re

import pytest
import scipy.stats
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file
from shell import SHELL, python

from skipstone import engine, load, schedules, solvers
from skipstone.data import to_bytes
from skipstone.evaluation.metrics import rank_correlation
from skipstone.report.rows import show
from skipstone.store.models import ModelStore
from skipstone.studies.paper import Ledger, Part, carry_out, cells, published
from skipstone.studies.paper.agreement import agreement
from skipstone.studies.paper.parts import Outcome
from skipstone.studies.paper.tables import table_2

NFES = [10, 20]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, composed):
    """A store with two small models, whose weights are random but not the zeros that a fresh one predicts with."""
    folder = tmp_path_factory.mktemp("outputs")
    config = OmegaConf.to_container(composed("model.base=8", "noise.num_steps=100", "noise.beta_T=0.2"), resolve=True)
    fingerprint = instantiate(composed().dataset).fingerprint

    def build(seed):
        torch.manual_seed(seed)
        net = instantiate(config["model"])
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        return net

    for seed in (0, 1):
        weights = {"dataset": {"name": "mnist5k", "fingerprint": fingerprint}, "seed": seed}
        weights |= {name: config[name] for name in ("model", "noise", "training", "trainer")}
        ModelStore(folder).ensure(weights, lambda _, seed=seed: build(seed))
    return folder


def run(outputs, out, *arguments, **how):
    main, baseline = ModelStore(outputs).keys()
    few = ["images=12", "images_all_steps=10", "images_back=3", "batch_size=16", "nfes_back=[5,20,100]"]
    few += [
        f"nfes={NFES}".replace(" ", ""),
        "nfes_compared=[10,20]",
        "metrics.features=8",
        "metrics.classifier_steps=5",
    ]
    where = [f"paths.outputs={outputs}", f"out={out}", "device=cpu", "dataset=mnist5k"]
    return python("scripts/tables.py", f"run={main}", f"baseline={baseline}", *where, *few, *arguments, **how)


@pytest.fixture(scope="module")
def done(outputs, tmp_path_factory):
    """The folder that the command leaves."""
    out = tmp_path_factory.mktemp("run") / "out"
    tried = out.parent / "tried.yaml"
    tried.write_text("- {what: a wider network, images_seen: 1234567, fd_classifier at 10: 8.125, note: slow}\n")
    finished = run(outputs, out, f"tried={tried}", "train_command='python train.py model.base=8'", **SHELL)
    assert finished.returncode == 0, finished.stderr
    return out


@pytest.fixture(scope="module")
def results(done):
    return json.loads((done / "results.json").read_text())


def tables_of(page):
    """Every Markdown table under the line above it: {line: {first cell of a row: the others}}."""
    found = {}
    for block in re.finditer(r"([^\n]*)\n\n((?:\|[^\n]*\n)+)", page):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block[2].splitlines()]
        found[block[1]] = {row[0]: row[1:] for row in rows}
    return found


def test_every_cell_of_table_1_costs_what_its_column_says(results):
    many, every = table_1(results)
    assert {(row["row"], row["nfe"]) for row in many} == {(row, nfe) for row in published.TABLE_1 for nfe in NFES}
    every = {row["row"]: row for row in every}
    assert every.keys() == {"0", "1", "σ̂"}
    assert {row["nfe"] for row in every.values()} == {100}
    assert every["σ̂"]["clip_x0"]
    assert not every["1"]["clip_x0"]
    for part in results["parts"].values():
        ways = 2 if part["rows"][0]["part"] == "table 2" else 1
        assert part["evaluations"] == sum(ways * row["nfe"] * row["images"] for row in part["rows"])
    assert results["left_out"] == []


def test_the_fast_path_is_held_against_float32(outputs, tmp_path):
    """bfloat16 on the CPU: not the same samples, but near; and only where there is a faster path than float32."""
    few = ["nfes=[10]", "nfes_back=[5]", "nfes_compared=[5,10]"]
    assert run(outputs, tmp_path / "out", "precision=bf16-mixed", *few).returncode == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    fast, reference = rows(results, "precision")
    assert (fast["precision"], reference["precision"]) == ("bf16-mixed", "32-true")
    assert fast["images"] == reference["images"] == 10
    assert fast["nfe"] == reference["nfe"] == 10
    assert results["parts"]["precision"]["evaluations"] == 2 * 10 * 10
    assert 1e-4 < fast["difference"] < 0.05
    assert 0 < abs(fast["fd_random"] - reference["fd_random"]) < 0.05 * reference["fd_random"]
    page = (tmp_path / "out" / "results.md").read_text()
    assert (
        f"| bf16-mixed | {show(fast['fd_classifier'])} | {show(fast['fd_random'])} | {show(fast['difference'])} |"
        in page
    )


def test_in_float32_there_is_no_fast_path(results):
    assert not rows(results, "precision")


def rows(results, *parts):
    return [row for name, its in results["parts"].items() for row in its["rows"] if name in parts]


def table_1(results):
    """Of all cells at the larger number of images, then of those over every step."""
    found = [row for name in results["parts"] if name.startswith("table 1") for row in rows(results, name)]
    return [row for row in found if row["images"] == 12], [row for row in found if row["images"] == 10]


def test_what_lies_in_the_folder_is_little_and_all_that_the_page_shows(done):
    files = {path.name: path.stat().st_size for path in done.iterdir()}
    assert len(files) <= 8
    assert max(files.values()) < 2**24
    shown = set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", (done / "results.md").read_text()))
    assert shown == {name for name in files if name.endswith(".png")}
    assert shown == {"results-samples.png", "results-best.png", "results-curves.png"}  # nothing was trained: no losses


def test_the_pages_numbers_are_those_of_the_json(done, results):
    found = tables_of((done / "results.md").read_text())
    many, every = table_1(results)
    for name in ("fd_classifier", "fd_random"):
        table = found[f"**`{name}`**, in brackets the paper's FID (50,000 images, Inception):"]
        assert table["NFE"] == ["10", "20", "100"]
        for row in many + every:
            said = table[published.said(row["row"])][[*NFES, 100].index(row["nfe"])]
            assert said == f"{show(row[name])} ({published.TABLE_1[row['row']][row['nfe']]})"
            assert table["floor"][[*NFES, 100].index(row["nfe"])] == show(row[f"{name}_floor"])
        assert table["images"] == ["12", "12", "10"]
        assert table["η = 0.2"][2] == "– (4.25)"
        rho = scipy.stats.spearmanr([(row[name], published.TABLE_1[row["row"]][row["nfe"]]) for row in many]).statistic
        column = ["`fd_classifier`", "`fd_random`"].index(f"`{name}`")
        assert found["Rank correlation (Spearman's ρ) with the paper's FIDs:"]["all 10 cells"][column] == f"{rho:+.2f}"
    (back,) = (table for table in found.values() if "the paper" in table)
    assert back["here"] == [f"{row['mse']:.2g}" for row in rows(results, "table 2")]
    assert back["the paper"] == ["–", "0.0065", "0.0009"]
    (tried,) = (table for table in found.values() if "what" in table)
    of_baseline, wider, ours = (line for name, line in tried.items() if name not in ("what", "---"))
    fd = [show(row["fd_classifier"]) for part in ("baseline", "table 1, η = 0") for row in rows(results, part)]
    assert [*of_baseline[2:4], *ours[2:4]] == [*fd[:2], *fd[2:4]]
    assert wider == ["1,234,567", "–", "8.12", "–", "slow"]


def test_csv_and_json_hold_the_same_cells(done, results):
    with (done / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    everything = rows(results, *results["parts"])
    assert [line["cell"] for line in lines] == [row.get("cell", "") for row in everything]
    assert [line["fd_random"] for line in lines] == [str(row.get("fd_random", "")) for row in everything]


def test_solver_error_is_that_of_deterministic_cells_against_every_step(outputs, results):
    net, process = load(ModelStore(outputs).folder(results["model"]["key"]))
    tables = (
        solvers.DPMSolverPP(order=3).table(process, range(100)),
        solvers.DDIM().table(process, cells.exactly(10, 100)(100)),
    )
    fine, coarse = (engine.sample(net, table, 10, (1, 28, 28)) for table in tables)
    (row,) = (row for row in rows(results, "table 1, η = 0") if row["nfe"] == 10)
    assert row["solver_rmse"] == pytest.approx(float((coarse - fine).square().mean().sqrt()), rel=1e-3)
    assert all(row["solver_rmse"] is None for row in rows(results, "table 1, η = 1"))
    assert all(row["solver_rmse"] > 0 for row in rows(results, "schedules", "solvers"))


def test_samples_kept_are_the_models_and_not_the_baselines(outputs, done, results):
    kept = load_file(done / "samples.safetensors")
    assert kept.keys() == {row["cell"] for row in table_1(results)[0]}
    net, process = load(ModelStore(outputs).folder(results["model"]["key"]))
    schedule = cells.exactly(10, 100)
    x = engine.sample(net, solvers.DDIM().table(process, schedule(100)), 12, (1, 28, 28))
    assert (kept[f"ddim-quad-tau{schedule.tau}-eta0.0"].int() - to_bytes(x).int()).abs().max() <= 1


def test_the_page_quotes_the_commands_without_this_machines_folders(outputs, done, composed):
    page = (done / "results.md").read_text()
    assert str(outputs) not in page
    assert str(done) not in page
    trained, command = re.findall(r"^    (python .*)$", page, re.MULTILINE)
    assert trained == "python train.py model.base=8"
    config = composed(*command.split()[2:], config="tables")
    assert (config.images, config.nfes, config.metrics.features) == (12, NFES, 8)


@pytest.mark.attack  # one more start of the command; what it needs of the ledger is tested below
def test_a_run_that_was_cut_off_does_what_is_missing_and_nothing_else(outputs, done, results):
    half = json.loads(json.dumps(results))
    del half["parts"]["table 2"], half["parts"]["table 1, η = 0.2"]
    (done / "results.json").write_text(json.dumps(half))
    again = run(outputs, done)
    assert again.returncode == 0, again.stderr
    assert re.findall(r"(.*): done in", again.stdout) == ["table 1, η = 0.2", "table 2"]
    completed = json.loads((done / "results.json").read_text())
    assert {name: completed["parts"][name] for name in half["parts"]} == half["parts"]
    fresh = {name: [{**row, "seconds": 0, "images_per_second": 0} for row in part["rows"]]
             for name, part in completed["parts"].items()}  # fmt: skip
    assert fresh.keys() == results["parts"].keys()
    for name, part in results["parts"].items():
        assert [{**row, "seconds": 0, "images_per_second": 0} for row in part["rows"]] == fresh[name]


def test_steps_are_exactly_as_many_as_asked_for_and_spaced_as_the_papers():
    for nfe in (10, 20, 50, 100, 200, 500, 688):
        assert len(cells.exactly(nfe, 1000)(1000)) == nfe
    assert cells.exactly(10, 1000) == schedules.Quad(10)
    assert cells.exactly(50, 1000) == schedules.Quad(51)
    assert cells.exactly(1000, 1000)(1000) == tuple(range(1000))
    for wrong in (0, 1001, 700, "10"):
        with pytest.raises(ValueError, match="steps are not allowed"):
            cells.exactly(wrong, 1000)
    nearest = [len(cells.nearest(kind, 50, 1000)(1000)) for kind in (schedules.Uniform, schedules.Exp)]
    assert nearest == [49, 50]  # a stride of 20 visits 51


def test_there_and_back_is_encoding_and_then_decoding(net, process):
    x0 = torch.rand(3, 1, 16, 16) * 2 - 1
    steps = schedules.Quad(7)(1000)
    z = engine.sample(net, solvers.DDIM().encode_table(process, steps), start=x0)
    back = engine.sample(net, solvers.DDIM().table(process, steps), start=z)
    (together,) = engine.sample_many(net, [cells.there_and_back(process, 7)], start=x0, batch_size=2)
    torch.testing.assert_close(together, back, rtol=1e-4, atol=1e-4)


def test_rank_correlation_is_scipys():
    generator = torch.Generator().manual_seed(0)
    for n in (3, 10, 40):
        x, y = torch.randn(2, n, generator=generator, dtype=torch.float64)
        for a, b in ((x, y), (x, x + y), (x, -x.exp()), ((2 * x).round(), (2 * y).round()), (x, (x > 0).double())):
            assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation([1, 2, 3], [5, 5, 5]) is None
    assert rank_correlation([1, 2, float("nan")], [1, 2, 3]) != rank_correlation([1, 2, 3], [1, 2, 3])


def of_paper(change):
    """Cells that have the paper's own FIDs, changed by a function of them, the η and the NFE, as a distance."""
    return [
        {"row": row, "nfe": nfe, "cell": f"{row}-{nfe}", "fd_classifier": change(fid, row, nfe)}
        for row, by_nfe in published.TABLE_1.items()
        for nfe, fid in by_nfe.items()
        if nfe < 1000
    ]


def test_what_is_said_of_the_order_follows_from_the_numbers():
    said = agreement(of_paper(lambda fid, row, nfe: fid**0.5), [], ["fd_classifier"])
    assert "| all 20 cells | +1.00 |" in said
    assert "over all 20 cells: ρ = +1.00. The paper's order exactly: η = 0, over NFE; " in said
    assert "at NFE 10 η = 0 in both" in said
    assert not re.search("Mostly|No agreement|Farthest", said)
    said = agreement(of_paper(lambda fid, row, nfe: -fid if nfe == 10 else fid), [], ["fd_classifier"])
    assert "No agreement, or the reverse: η = 0, over NFE (-0.20)" in said
    assert said.count("η = 0, over NFE (-0.20)") == 1
    assert "NFE 10, over η (-1.00)" in said
    assert "at NFE 10 η = 0 in the paper, σ̂ here; at NFE 20 η = 0 in both" in said
    assert "Farthest out of order: σ̂ at NFE 10 (-367), place 20 of 20 in the paper and 1 here." in said
    full = [{"row": row, "nfe": 1000, "cell": row, "fd_classifier": fd} for row, fd in (("0", 2), ("1", 3), ("σ̂", 1))]
    assert "| every step, over η | +1.00 |" in agreement(of_paper(lambda fid, row, nfe: fid), full, ["fd_classifier"])
    assert agreement([], full[:2], ["fd_classifier"]) == ""


def test_an_error_that_is_not_finite_is_a_dash_and_ends_no_page():
    rows = [
        {"part": "table 2", "row": "0", "nfe": nfe, "images": 4, "mse": mse} for nfe, mse in ((10, None), (20, 1.0))
    ]
    said = table_2(rows)
    assert "| here | – | 1 |" in said
    assert "not finite" in said
    assert "falls" not in said
    assert "falls with every column" in table_2([{**rows[1], "nfe": 10, "mse": 2.0}, rows[1]])


class Work:
    """Parts of so many evaluations, on a clock that they turn: a second an evaluation."""

    def __init__(self, **evaluations):
        self.seconds, self.ran = 0.0, []
        self.parts = [Part(name, n, 1, self.does(name, n), name == "needed") for name, n in evaluations.items()]

    def does(self, name, n):
        def work(progress):
            self.seconds += n
            self.ran.append(name)
            return Outcome([{"part": name, "seconds": float(n), "fd_random": float("nan")}], {})

        return work

    def carry_out(self, ledger, budget, rate=1.0):
        carry_out(
            ledger.missing(self.parts),
            ledger,
            rate=rate,
            budget=budget,
            spent=lambda: self.seconds,
            device="x",
            entered=lambda: None,
        )
        return self.ran


def test_a_budget_drops_the_least_important_and_says_which(tmp_path):
    ledger = Ledger(tmp_path / "a", {})
    assert Work(first=100, second=100, needed=50, last=100).carry_out(ledger, None) == [
        "needed",
        "first",
        "second",
        "last",
    ]
    assert ledger.results["left_out"] == []
    ledger = Ledger(tmp_path / "b", {})
    assert Work(first=100, second=100, needed=50, last=100).carry_out(ledger, 300.0) == ["needed", "first", "second"]
    assert json.loads((tmp_path / "b" / "results.json").read_text())["left_out"] == ["last"]
    # what others need does not take the time of what is more important
    ledger = Ledger(tmp_path / "c", {})
    assert Work(first=100, second=100, needed=50, small=5).carry_out(ledger, 240.0) == ["first", "second", "small"]
    assert ledger.results["left_out"] == ["needed"]
    # the rate that was promised is mended by the first part
    ledger = Ledger(tmp_path / "d", {})
    assert Work(first=100, second=100).carry_out(ledger, 200.0, rate=1000.0) == ["first"]


def test_a_ledger_goes_on_and_never_overwrites_what_is_not_its_own(tmp_path):
    ledger = Ledger(tmp_path / "out", {"model": "a", "seed": 0})
    Work(first=1).carry_out(ledger, None)
    again = Ledger(tmp_path / "out", {"model": "a", "seed": 0})
    assert again.rows == [{"part": "first", "seconds": 1.0, "fd_random": None}]
    assert Work(first=1, second=1).carry_out(again, None) == ["second"]
    assert [row["part"] for row in Ledger(tmp_path / "out", {"model": "a", "seed": 0}).rows] == ["first", "second"]
    for other in ({"model": "a", "seed": 1}, {"model": "b", "seed": 0}):
        with pytest.raises(FileExistsError, match=r"holds results of another (seed|model): name a folder"):
            Ledger(tmp_path / "out", other)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "results.json").write_text("[]")
    with pytest.raises(FileExistsError, match="is no file of this command"):
        Ledger(tmp_path / "foreign", {})
    (tmp_path / "foreign" / "results.json").rename(tmp_path / "foreign" / "letter.txt")
    with pytest.raises(FileExistsError, match="holds other files"):
        Ledger(tmp_path / "foreign", {})
