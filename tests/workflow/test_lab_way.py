"""A lab's way, from fMRIPrep and GLMsingle to scores, by the commands that docs/own_data.md prints."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from dry_runs import PARTS
from lab_files import glmsingle, without_wall
from PIL import Image
from tiny_chain import ROOT, WARM

from neuropictor.data.responses import ResponseStore

pytestmark = pytest.mark.workflow
SECTION = "## A lab's way"
IMAGES, SESSIONS, RUNS, TRIALS = 40, 2, 2, 25


def printed():
    """The section's blocks of code, without their margin."""
    section = (ROOT / "docs/own_data.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    return [re.sub(r"^ {4}", "", block, flags=re.M) for block in re.findall(r"(?:^ {4}.*\n?)+", section, re.M)]


def write_data_set(folder):
    """Files as fMRIPrep and GLMsingle name them; every image is shown two or three times, with a blank trial a run."""
    generator = np.random.default_rng(0)
    (folder / "stimuli").mkdir(parents=True)
    for number in range(IMAGES):
        blocks = generator.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(20, 0).repeat(20, 1)).save(folder / f"stimuli/item{number}.png")
    shown = iter(np.tile(generator.permutation(IMAGES), 3))
    for session in range(1, SESSIONS + 1):
        for run in range(1, RUNS + 1):
            name = f"sub-MM01_ses-{session:02d}_task-images_run-{run}"
            rows = ["onset\tduration\tstim_file", "0.0\t3.0\tn/a"]
            rows += [f"{4 * place}.0\t3.0\titem{next(shown)}.png" for place in range(1, TRIALS + 1)]
            events = folder / f"sub-MM01/ses-{session:02d}/func/{name}_events.tsv"
            events.parent.mkdir(parents=True, exist_ok=True)
            events.write_text("\n".join(rows) + "\n")
        betas = without_wall(generator.standard_normal((RUNS * TRIALS, 64_984)).astype(np.float32))
        fit = folder / f"derivatives/glmsingle/sub-MM01/ses-{session:02d}/TYPED_FITHRF_GLMDENOISE_RR.hdf5"
        glmsingle(fit, np.pad(betas, ((0, 0), (0, 91_282 - betas.shape[1]))))


def test_the_printed_commands_lead_from_the_files_to_scores(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in PARTS:
        (folder / part).symlink_to(ROOT / part)
    write_data_set(folder / "bids")
    layout, imports, settings, workflow = printed()
    for line in layout.splitlines():
        name = line.split()[0]
        assert name.endswith((".dtseries.nii", "/")) or list((folder / "bids").glob(name.replace("dog", "item0"))), name
    (folder / settings.splitlines()[0].removeprefix("# ")).write_text(settings)
    programs = folder / "programs"
    programs.mkdir()
    # The real program, but for the seconds that each job takes to load torch.
    (programs / "snakemake").write_text(f'#!/bin/sh\nexec {sys.executable} {WARM[0]} "$@"\n')
    (programs / "snakemake").chmod(0o755)
    path = os.pathsep.join([str(programs), os.path.dirname(sys.executable), os.environ["PATH"]])
    for command in [*imports.splitlines(), workflow]:
        done = subprocess.run(
            shlex.split(command),
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    store = ResponseStore(folder / "data/prepared/sub-MM01/responses.h5")
    assert (store.subject, store.mesh, len(store.nsd_id)) == ("MM01", "fs_LR_32k", SESSIONS * RUNS * TRIALS)
    assert len(store.images("test")) == pytest.approx(IMAGES / 10, abs=3)
    scores = (folder / "results/metrics.csv").read_text()
    assert "\nMM01,refined," in scores and ",own+miniature," in scores
    assert "drawn by a miniature that knows 12 cartoon objects" in (folder / "results/gallery.html").read_text()
