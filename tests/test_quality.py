"""Quality against evaluations: what is tried costs what it says, and the page is what was measured."""

import csv
import json

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf
from shell import SHELL, python

from skipstone import EDM, ForwardProcess, noise, schedules, solvers
from skipstone.commands.finished import open_model
from skipstone.store.models import ModelStore
from skipstone.studies.quality import published
from skipstone.studies.quality.candidates import FAMILIES, candidate, families, spacings
from skipstone.studies.quality.page import Findings
from skipstone.studies.quality.race import BASELINE, BEST, CONVERGED, METRIC, TRIED, Race

SMALL = [
    "dataset=mnist5k", "nfes=[3,4,12]", "solvers=[DDIM,iPNDM]", "images=12", "images_tried=6", "nfe_converged=15",
    "batch_size=32", "metrics.features=4", "metrics.classifier_steps=2", "device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, composed):
    """A store with one small model of random weights."""
    folder = tmp_path_factory.mktemp("outputs")
    config = OmegaConf.to_container(composed("model.base=8", "noise.num_steps=100", "noise.beta_T=0.2"), resolve=True)

    def build(_):
        torch.manual_seed(0)
        net = instantiate(config["model"])
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        return net

    weights = {"dataset": {"name": "mnist5k", "fingerprint": instantiate(composed().dataset).fingerprint}}
    weights |= {name: config[name] for name in ("model", "noise", "training", "trainer")}
    ModelStore(folder).ensure(weights, build)
    return folder


def run(outputs, *words, **how):
    (key,) = ModelStore(outputs).keys()
    return python("scripts/quality.py", f"run={key}", f"paths.outputs={outputs}", *SMALL, *words, **how)


@pytest.fixture(scope="module")
def done(outputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    finished = run(outputs, f"out={out}", **SHELL)
    assert finished.returncode == 0, finished.stderr
    return out


def test_every_cell_of_the_page_is_measured_and_in_the_csv(done):
    with (done / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["role"] for row in rows} == {CONVERGED, BASELINE, TRIED, BEST}
    for part in ("DDIM", "iPNDM"):
        best = [row for row in rows if row["part"] == part and row["role"] == BEST]
        assert [int(row["nfe"]) for row in best] == [3, 4, 12]
        for row in best:
            tried = [r for r in rows if (r["part"], r["role"], r["nfe"]) == (part, TRIED, row["nfe"])]
            first = min(tried, key=lambda row: float(row[METRIC]))
            assert (row["solver"], row["spacing"]) == (first["solver"], first["spacing"])
            assert row["images"] == "12"
            assert first["images"] == "6"
    base = {row["nfe"]: float(row[METRIC]) for row in rows if row["role"] == BASELINE}
    late = [row for row in rows if row["part"] == "iPNDM" and row["role"] == TRIED and row["nfe"] == "12"]
    assert 1 <= len(late) <= 3
    shared = next(row for row in rows if row["part"] == "iPNDM" and row["role"] == BEST and row["nfe"] == "4")
    assert float(shared["share"]) == pytest.approx(float(shared[METRIC]) / base["4"])
    page = (done / "quality.md").read_text()
    assert f"{float(shared['share']):.2f} ({24.8 / 66.8:.2f})" in page
    assert (done / "quality.png").stat().st_size > 10_000


def test_what_was_chosen_is_measured_on_other_noise(outputs, done, composed, monkeypatch):
    """Or the best of many would look too good. `done` has trained the classifier."""
    (key,) = ModelStore(outputs).keys()
    words = [*SMALL, "images_tried=12", f"run={key}", f"paths.outputs={outputs}"]
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": {"overrides": {"task": words}}}))
    model, config = open_model(composed(*words, config="quality"))
    race = Race(config, model, instantiate(config.dataset))
    cell = candidate(model.process, solvers.DDIM(), race._spacings[0], 3)
    found = {
        role: race._measured("DDIM", role, [cell], lambda done, total: None)[0]
        for role in (TRIED, BEST, BASELINE, CONVERGED)
    }
    assert {row["images"] for row in found.values()} == {12}
    assert found[TRIED][METRIC] != pytest.approx(found[BEST][METRIC], rel=1e-3)
    assert found[BEST][METRIC] == found[BASELINE][METRIC] == found[CONVERGED][METRIC]


def test_a_run_that_left_solvers_out_goes_on(outputs, done, tmp_path):
    out = tmp_path / "out"
    first = run(outputs, f"out={out}", "budget=1")
    assert first.returncode == 0, first.stderr
    assert "Left out so far: converged, baseline, DDIM, iPNDM." in (out / "quality.md").read_text()
    second = run(outputs, f"out={out}")
    assert second.returncode == 0, second.stderr
    numbers = [
        [row[METRIC] for part in json.loads((folder / "results.json").read_text())["parts"].values()
         for row in part["rows"]]
        for folder in (out, done)
    ]  # fmt: skip
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("solvers=[ddim]", "solvers=['ddim'] is not allowed: ddim is none of DDIM, iPNDM, UniPC"),
        ("nfes=[3,3]", "nfes=[3, 3] is not allowed: list different integers of at least 1."),
        ("nfes=[0]", "nfes=[0] is not allowed: list different integers of at least 1."),
        ("images_tried=100000", "images_tried=100000 is not allowed: "),
    ],
)
def test_what_it_refuses(outputs, tmp_path, word, says):
    refused = run(outputs, f"out={tmp_path / 'out'}", word)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"error: {says}")
    assert not (tmp_path / "out").exists()


def test_every_family_has_candidates_that_cost_what_they_say():
    process = ForwardProcess(noise.linear(1000))
    ends = {spacing.name: spacing for spacing in spacings(process, schedules.Costs.even(process))}
    for family in FAMILIES:
        for spacing in (ends["karras, to t = 0"], ends["exp, to data"]):
            for nfe in (3, 4, 6):
                cells = [candidate(process, solver, spacing, nfe) for solver in family.variants]
                assert any(cells) or family.name in ("Heun", "DPM-Solver singlestep")
                for cell in filter(None, cells):
                    assert cell.table.nfe == nfe
                    assert (cell.table.p[-1] == -1) == spacing.to_data
    assert [family.name for family in families(["UniPC", "DDIM"])] == ["UniPC", "DDIM"]


def test_spacings_with_a_process_visit_its_real_times():
    process = EDM(18)
    ends = {spacing.name: spacing for spacing in spacings(process, schedules.Costs.even(process))}
    karras = ends["karras, to t = 0"].schedule(tau=6)(18)
    assert karras == pytest.approx(schedules.TimeUniform(6)(18), abs=1e-9)  # EDM's spacing is even in its time
    assert ends["logsnr, to t = 0"].schedule(tau=5)(18) == schedules.LogSNR(5, process)(18)


def test_nfe_3_is_reached_by_a_solver_whose_first_row_asks_nothing():
    process = ForwardProcess(noise.linear(1000))
    for to_data in (True, False):
        solver = solvers.AFS(solvers.AdamsBashforth(2), to_data=to_data)
        for nfe in (1, 2, 3):
            tau = solvers.reach(solver, schedules.TimeUniform, process, nfe)
            assert solver.table(process, schedules.TimeUniform(tau)(1000)).nfe == nfe


def test_an_excess_within_its_spread_is_0():
    def row(part, role, value, noise):
        replicates = [value + noise * (-1) ** k for k in range(20)]
        return {"part": part, "role": role, "nfe": 5, "solver": "", "spacing": "", METRIC: value,
                "replicates": replicates}  # fmt: skip

    found = Findings([
        row(CONVERGED, CONVERGED, 2.0, 0.1), row(BASELINE, BASELINE, 10.0, 0.1),
        row("near", BEST, 2.05, -0.1), row("apart", BEST, 2.05, 0.1), row("below", BEST, 1.5, 0.1),
    ])  # fmt: skip
    assert found.excess("near", 5) == 0  # the noise of the difference is 0.2 a replicate
    assert found.excess("apart", 5) == pytest.approx(0.05)  # here it cancels
    assert found.excess("below", 5) == 0
    assert found.share("apart", 5) == pytest.approx(0.205)
    assert found.share("apart", 5, excess=True) == pytest.approx(0.05 / 8)
    assert found.first(5) == "below"
    assert published.share("iPNDM", 5) == pytest.approx(0.27, abs=0.005)
    assert published.share("iPNDM", 12) is None
