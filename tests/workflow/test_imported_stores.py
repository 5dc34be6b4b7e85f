"""A lab's own scans, imported, then the workflow without any of NSD's files."""

import re
from collections import Counter

import numpy as np
import pytest
import yaml
from dry_runs import chain, copy_workflow, planned, refused
from PIL import Image
from tiny_chain import ROOT, WARM, snakemake
from typer.testing import CliRunner

from neuropictor.cli.app import app
from neuropictor.surface.atlas import MESH_VERTICES

pytestmark = pytest.mark.workflow
ONE = {"nsd": {"source": "prepared"}, "subjects": {"pretrain": [1], "refine": [1]}}
IMAGES, TRIALS = 60, 90
CARD = "results/report/data_card.html"


def write_scans(folder):
    """Two sessions on fsaverage5, numbers without meaning; every third image comes twice, the last ten test."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = ["image,file,captions"]
    for number in range(IMAGES):
        name = f"images/{number}.png"
        blocks = generator.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(20, 0).repeat(20, 1)).save(folder / name)
        words = generator.choice(["boat", "cat", "car", "mug", "tree", "red", "blue", "pink", "sea", "city", "room"], 4)
        rows.append(f"{number},{name},a {words[0]} and {words[1]}|{words[2]} {words[3]}")
    (folder / "images.csv").write_text("\n".join(rows) + "\n")
    shown = np.concatenate([np.arange(IMAGES), np.arange(0, IMAGES, 2)])
    rows = ["session,trial,image,split"]
    for place, number in enumerate(shown):
        rows.append(f"{1 + place // 45},{place % 45},{number},{'test' if number >= 50 else 'train'}")
    (folder / "trials.csv").write_text("\n".join(rows) + "\n")
    for session in (1, 2):
        for side in ("lh", "rh"):
            betas = generator.standard_normal((TRIALS // 2, MESH_VERTICES["fsaverage5"])).astype(np.float32)
            np.save(folder / f"{side}.session{session}.npy", betas)


def command(*arguments):
    found = CliRunner().invoke(app, [str(part) for part in arguments])
    assert found.exit_code == 0, found.output


def test_without_stores_the_way_to_them_is_told(tmp_path):
    message = refused(copy_workflow(tmp_path), ONE)
    for words in (
        "no stage makes the stores of subject 01, and data/prepared/sub-01/responses.h5 is missing",
        "e.g. neuropictor import-betas --out data/prepared/sub-01/responses.h5",
        "docs/own_data.md",
    ):
        assert words in message
    assert "Traceback" not in message


def test_the_chain_runs_on_imported_stores_and_a_lab_s_own_files(tmp_path):
    """One person's stores were imported before, and are never written; the other's are made by the workflow."""
    for name in ("sub-01", "sub-MM02"):
        write_scans(tmp_path / "scans" / name)
    stores = tmp_path / "data/prepared/sub-01"
    tiny = ["--settings", ROOT / "presets/tiny.yaml"]
    betas, images = (["--table", tmp_path / "scans/sub-01" / name] for name in ("trials.csv", "images.csv"))
    command("import-betas", *betas, "--subject", 1, "--out", stores / "responses.h5", *tiny)
    command("import-images", *images, "--out", stores / "stimuli.h5", *tiny)
    before = {path.name: path.read_bytes() for path in stores.iterdir()}
    copy_workflow(tmp_path)
    skipped = Counter({rule: n for rule, n in chain(1).items() if not re.match("simulate|preprocess", rule)})
    assert planned(tmp_path, ONE) == planned(tmp_path, ONE, forced=True) == skipped
    people = ["subject,dataset,path,refine", "1,mylab,,no", "MM02,mylab,scans/sub-MM02,yes"]
    (tmp_path / "subjects.csv").write_text("\n".join(people))
    table = {"subjects": {"table": "subjects.csv"}}
    further = Counter(["import_betas", "import_images", "cache_latents", "align"])
    assert planned(tmp_path, table, forced=True) == skipped + further
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(table))
    snakemake(tmp_path, "--forceall", CARD, further=[tmp_path / "own.yaml"], program=WARM)
    assert {path.name: path.read_bytes() for path in stores.iterdir()} == before
    card = (tmp_path / CARD).read_text()
    assert "SIMULATED" not in card and "own on fsaverage5" in card
    scores = (tmp_path / "results/metrics.csv").read_text()
    assert "\nMM02,refined," in scores and "\n01," not in scores and ",own" in scores
