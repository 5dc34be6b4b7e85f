"""The paper's preset at tiny sizes, from a bucket's first byte to the report: what its structure alone would break."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from published_weights import STAND_IN
from stable_diffusion_folder import make_clip, make_stable_diffusion
from stand_in_bucket import Stored, packed, serving

from neuropictor.config import ControlsConfig, SimulateConfig
from neuropictor.evaluation.networks import WEIGHT_FILES
from neuropictor.fetching import nsd as fetch
from neuropictor.simulation.writer.nsd import write_images, write_subject

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.workflow
# Release 37 is without the last three sessions: one is left.
SIMULATED = SimulateConfig(sessions=4, trials_per_session=60, shared_images=6, image_size=64)


class Paper:
    """A folder in which the workflow runs with the paper's preset, made small."""

    def __init__(self, folder: Path, address: str):
        self.folder, self.results = folder, folder / "results"
        nsd = {"endpoint": address, "coco_endpoint": address}
        settings = {"nsd": nsd, "weights": dict.fromkeys(("torchvision", "clip", "swav"), address)}
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))

    def snakemake(self, *arguments: str, presets: tuple[str, ...] = ("nsd",)) -> str:
        """Run the workflow of this checkout."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", self.folder]
        command += ["--workflow-profile", ROOT / "profiles/default", "--cores", 2, *arguments]
        files = [ROOT / "config.yaml", *(ROOT / f"presets/{name}.yaml" for name in presets)]
        command += ["--configfile", *files, ROOT / "tests/paper_structure.yaml", self.folder / "settings.yaml"]
        paths = os.pathsep.join([str(STAND_IN), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": paths, "NO_PROXY": "127.0.0.1"},
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        return output

    def rows(self, name: str) -> list[dict[str, str]]:
        """Read a table of the results."""
        with open(self.results / name, newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def paper(published_weights, tmp_path_factory):
    """The finished chain."""
    folder, original = (tmp_path_factory.mktemp(name) for name in ("paper", "original"))
    write_images(original, SIMULATED)
    for subject in (1, 2):
        write_subject(original, subject, SIMULATED)
    make_stable_diffusion(folder / "backbone", sample_size=8)
    make_clip(folder / "target")
    archives = dict(zip(fetch.ARCHIVES, (("captions", "instances"), ("stuff",)), strict=True))
    objects = packed(original, archives)
    objects |= {file.name: Stored((published_weights / file.name).read_bytes()) for file in WEIGHT_FILES.values()}
    with serving(objects) as server:
        paper = Paper(folder, server.address)
        paper.snakemake()
        yield paper


def test_all_models_have_scores_under_all_protocols(paper):
    rows = paper.rows("metrics.csv")
    assert {row["networks"] for row in rows} == {"published"}
    found = {(row["protocol"].split()[0], row["model"]) for row in rows}
    models = ("refined", "pretrained", "ridge", "ridge_diffusion", "nearest", "mean_image")
    assert found >= {(protocol, model) for protocol in ("ours", "neuropictor", "mindeye2") for model in models}


def test_trainings_are_the_presets(paper):
    """Steps with the adaptation to guidance, the backbone's own noise schedule, and a target of its own."""
    schedule = json.loads((paper.results / "refine/sub-01/scheduler/scheduler_config.json").read_text())
    expected = {"prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1}
    assert schedule.items() >= (expected | {"set_alpha_to_one": False, "beta_schedule": "scaled_linear"}).items()
    for stage, losses in (("pretrain", {"loss", "diffusion"}), ("refine/sub-01", {"loss", "diffusion", "semantic"})):
        rows = paper.rows(f"{stage}/history.csv")
        assert {int(row["step"]) for row in rows} == {1, 2, 3, 4}
        assert {row["name"] for row in rows} == losses
        record = json.loads((paper.results / stage / "run.json").read_text())
        assert not [name for name in record["outputs"] if name.startswith("alignment")]


def test_all_controls_have_a_table_and_figures(paper):
    kinds = set(get_args(get_args(ControlsConfig.model_fields["made"].annotation)[0]))
    kinds -= {"agreement"}  # a session of 60 trials repeats no test image
    rows = paper.rows("controls/controls.csv")
    assert {row["control"] for row in rows} == kinds
    assert {row["data"] for row in rows} == {"simulated+miniature"}
    assert {row["metric"] for row in rows} >= {"pixcorr", "category", "two_way"}
    figures = {path.name for path in (paper.results / "report/controls").iterdir()}
    assert figures == {f"{kind}_sub-01{end}.png" for kind in kinds for end in ("", "_scores")}


def test_report_holds_figures_tables_and_captions(paper):
    paper.snakemake("--report", "report.html")
    text = (paper.folder / "report.html").read_text()
    for word in (
        "contact_sheet_sub-01.png",
        "metrics.html",
        "statistics.html",
        "published.html",
        "scores.png",
        "categories.png",
        "training_curves.png",
        "response_map_sub-01.png",
        "data_card.html",
    ):
        assert word in text, word
    for page in ("metrics.html", "statistics.html", "published.html", "../gallery.html", "data_card.html"):
        assert "simulated" in (paper.results / "report" / page).read_text().lower()


def test_aligned_networks_are_refined(paper):
    """The last one here: it replaces results."""
    paper.snakemake("results/refine/sub-01/alignment/config.json", presets=("nsd", "nsd-aligned"))
    record = json.loads((paper.results / "refine/sub-01/run.json").read_text())
    assert [name for name in record["outputs"] if name.startswith("alignment")]
