"""One simulated person's responses, from NSD's betas and by way of MOSAIC's file: nearly the same, area by area."""

import lab_files
import nibabel
import numpy as np
import pandas as pd
import pytest
import small_nsd
from typer.testing import CliRunner

from neuropictor.cli import options as cli_options
from neuropictor.cli.app import app
from neuropictor.config import NsdConfig, PreprocessConfig
from neuropictor.data.own_data import import_betas
from neuropictor.data.preprocess import preprocess_subject
from neuropictor.data.response_comparison import ALL, compare_responses
from neuropictor.data.responses import ResponseStore
from neuropictor.nsd import keys
from neuropictor.nsd.design import TEST, load_design
from neuropictor.surface import load_geometry

HALF = 32_492


def as_mosaic(root, path, noise):
    """Write MOSAIC's file of the person: betas on fs_LR, z-scored in each session by its training trials."""
    geometry, design = load_geometry(), load_design(root)
    trials, split = design.trials(1, small_nsd.SESSIONS), design.splits(1, 2, small_nsd.SESSIONS, 40)
    every, names = [], []
    for session in range(1, small_nsd.SESSIONS + 1):
        files = [nibabel.load(root / keys.betas(1, session, side, small_nsd.BETAS)) for side in ("lh", "rh")]
        betas = np.concatenate([np.asarray(file.dataobj).reshape(small_nsd.VERTICES, -1) for file in files])
        known = np.isfinite(betas).astype(np.float32)
        operator = geometry.resampler("fsaverage5")
        responses = ((operator @ np.nan_to_num(betas)) / (operator @ known)).T
        rows = np.flatnonzero(trials["session"] == session)
        training = responses[split[rows] != TEST]
        every.append((responses - training.mean(0)) / training.std(0, ddof=1))
        for nsd_id, code in zip(trials["nsd_id"].to_numpy()[rows], split[rows], strict=True):
            names.append((f"{100 + nsd_id:012d}.jpg", "test" if code == TEST else "train"))
    brain = np.zeros((len(names), 2 * HALF), np.float32)
    made = np.concatenate(every)
    brain[:, geometry.vertex + HALF * geometry.hemisphere] = made
    brain += noise * np.random.default_rng(0).standard_normal(brain.shape).astype(np.float32)
    lab_files.mosaic(path, brain, names)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The person's store from NSD's betas, by MOSAIC's file, by one with noise, and without NSD's table of images."""
    folder = tmp_path_factory.mktemp("stores")
    root = small_nsd.write_root(folder / "nsd")
    nsd = NsdConfig(sessions=small_nsd.SESSIONS)
    preprocess_subject(root, 1, small_nsd.config(), nsd, folder / "nsd.h5")
    for name, noise, table in (("mosaic", 0, True), ("noisy", 1, True), ("unnumbered", 0, False)):
        (folder / name).mkdir()
        as_mosaic(root, folder / name / "sub-01_NSD.hdf5", noise)
        images = root / keys.STIMULUS_INFO if table else None
        betas = folder / name / "sub-01_NSD.hdf5"
        import_betas(None, "M01", PreprocessConfig(), folder / f"{name}.h5", betas, nsd_images=images)
    return folder


def test_two_ways_to_one_person_agree(stores, tmp_path):
    table = compare_responses(stores / "nsd.h5", stores / "mosaic.h5", tmp_path / "table.csv").set_index("area")
    names = list(load_geometry().visual_areas.values())
    assert list(table.index) == [*names, ALL] and len(names) == 31
    assert table.loc[names, "vertices"].sum() == table.loc[ALL, "vertices"] > 8900
    assert (table["images"] == small_nsd.SLOTS).all()
    assert (table["response_r"] > 0.99).all() and (table["ncsnr_r"] > 0.98).all()
    written = pd.read_csv(tmp_path / "table.csv", index_col="area")
    pd.testing.assert_frame_equal(written, table, rtol=1e-5, check_dtype=False)
    noisy = compare_responses(stores / "nsd.h5", stores / "noisy.h5", tmp_path / "noisy.csv").set_index("area")
    assert (noisy.loc[ALL, ["response_r", "ncsnr_r"]] < 0.95).all() and noisy.loc[ALL, "response_r"] > 0.5
    assert noisy.loc[ALL, "ncsnr_second"] < noisy.loc[ALL, "ncsnr_first"]


def test_correlations_are_those_of_the_mean_responses(stores, tmp_path):
    table = compare_responses(stores / "nsd.h5", stores / "noisy.h5", tmp_path / "table.csv").set_index("area")
    first, second = (ResponseStore(stores / name) for name in ("nsd.h5", "noisy.h5"))
    images = np.unique(first.nsd_id)
    means = [store.mean_response(images).astype(np.float64) for store in (first, second)]
    inside = np.flatnonzero(load_geometry().region("V1"))
    every = [np.corrcoef(means[0][:, vertex], means[1][:, vertex])[0, 1] for vertex in inside]
    assert table.loc["V1", "response_r"] == pytest.approx(np.nanmedian(every))
    ceilings = np.corrcoef(first.ncsnr[inside], second.ncsnr[inside])[0, 1]
    assert table.loc["V1", "ncsnr_r"] == pytest.approx(ceilings, abs=1e-6)


def test_the_command_shows_the_table(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_options, "start_log", lambda **given: None)
    files = [str(stores / "nsd.h5"), str(stores / "mosaic.h5"), "--out", str(tmp_path / "table.csv")]
    done = CliRunner().invoke(app, ["compare-responses", *files])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].split()[:4] == ["area", "vertices", "images", "response_r"] and ALL in lines[-1]
    assert len(lines) == 33 and (tmp_path / "table.csv").is_file()


def test_stores_without_images_in_common_are_refused(stores, tmp_path):
    with pytest.raises(ValueError, match=r"have 0 images in common, of 8 and 8; allowed: at least 3.*--nsd-images"):
        compare_responses(stores / "nsd.h5", stores / "unnumbered.h5", tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()
