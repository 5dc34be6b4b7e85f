import hashlib
import json
import pickle
import re

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io

from neuropictor.config import SimulateConfig
from neuropictor.fetching import download, manifest
from neuropictor.nsd import keys
from neuropictor.nsd.annotations import load_annotations
from neuropictor.nsd.betas import beta_blocks, session_paths
from neuropictor.nsd.design import TEST, TRAIN, VALIDATION, Design, load_design
from neuropictor.simulation.scenes.scene import captions, render, scene
from neuropictor.simulation.writer.nsd import BETA_VERSION, write_images, write_own_images, write_subject
from neuropictor.surface import load_geometry

MESH = "fsaverage5"


def config(**changes):
    values = {
        "seed": 7,
        "mesh": MESH,
        "sessions": 3,
        "trials_per_session": 30,
        "shared_images": 4,
        "image_size": 64,
        "ncsnr": 0.42,
        "smooth_noise": 0.5,
    }
    return SimulateConfig(**(values | changes))


def read_session(root, subject, session, columns, version, *given):
    paths = session_paths(root, subject, session, version)
    return np.concatenate([block.copy() for block in beta_blocks(paths, columns, *given)])


def write(root, subjects, settings, threads=1):
    write_images(root, settings, threads)
    for subject in subjects:
        write_own_images(root, subject, settings, threads)
        write_subject(root, subject, settings)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nsd")
    write(folder, [1, 4], config(), threads=2)
    return folder


@pytest.fixture(scope="module")
def design(root):
    return load_design(root)


def test_trials(design):
    trials = design.trials(1)
    assert trials.columns.tolist() == ["session", "trial", "nsd_id", "repeat", "shared"] and len(trials) == 90
    assert trials["session"].unique().tolist() == [1, 2, 3] and trials["trial"].max() == 29
    assert (trials["nsd_id"].value_counts() == 3).all()
    assert (trials.groupby("nsd_id")["repeat"].apply(list).apply(tuple) == (0, 1, 2)).all()
    shown = {subject: set(design.trials(subject).query("not shared")["nsd_id"]) for subject in (1, 4)}
    assert not shown[1] & shown[4]
    np.testing.assert_array_equal(np.unique(trials.loc[trials["shared"], "nsd_id"]), design.shared)
    assert len(design.trials(1, sessions=1)) == 30
    np.testing.assert_array_equal(design.images([1]), np.unique(trials["nsd_id"]))


def test_splits(design):
    trials, split = design.trials(1), design.splits(1, 5)
    assert split.dtype == np.int8 and set(split) == {TRAIN, VALIDATION, TEST}
    assert ((split == TEST) == trials["shared"]).all()
    assert trials.loc[split == VALIDATION, "nsd_id"].nunique() == 5
    assert trials["nsd_id"].groupby(split).unique().explode().is_unique
    with pytest.raises(
        ValueError, match=r"preprocess\.validation_images is 26, but subject 1 saw only 26 .*allowed: 0 to 25"
    ):
        design.splits(1, 26)


def test_errors_of_the_design(design, tmp_path):
    with pytest.raises(ValueError, match=r"subject 9 is not in .*; allowed: 1, 2, 3, 4, 5, 6, 7, 8 \(e\.g\. 1\)"):
        design.trials(9)
    with pytest.raises(ValueError, match="sessions is 3; subject 4 has 2"):
        design.trials(4, sessions=3)
    with pytest.raises(
        FileNotFoundError, match=r"nsd_expdesign\.mat is missing: .* run the rule that fetches or simulates NSD"
    ):
        load_design(tmp_path)
    path = tmp_path / keys.EXPERIMENT_DESIGN
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, {"subjectim": np.ones((8, 3)), "masterordering": np.ones((1, 9))})
    with pytest.raises(ValueError, match="lacks the field 'sharedix'"):
        load_design(tmp_path)
    for content in (b"not a mat file" * 100, b"", pickle.dumps([1] * 999), path.read_bytes()[:150]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"nsd_expdesign\.mat is not a readable MAT file"):
            load_design(tmp_path)


@pytest.mark.parametrize("wrong", ["counted from 1", "other columns", "a column more", "empty", "no text"])
def test_tables_of_images_that_are_counted_otherwise_are_refused(root, tmp_path, wrong):
    design = Design(tmp_path, 1, {}, np.zeros(1), np.zeros((8, 1)), np.zeros(1))
    path = tmp_path / keys.STIMULUS_INFO
    path.parent.mkdir(parents=True)
    table = pd.read_csv(root / keys.STIMULUS_INFO, index_col=0)
    if wrong == "counted from 1":
        table.index, table["nsdId"] = table.index + 1, table["nsdId"] + 1
    elif wrong == "other columns":
        table = table.rename(columns={"nsdId": "id"})
    else:
        table["more"] = 0
    table.to_csv(path)
    if wrong in ("empty", "no text"):
        path.write_bytes(b"\xff" if wrong == "no text" else b"")
    words = "cannot be read" if wrong in ("empty", "no text") else "expected NSD's 41 columns in order"
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{words}"):
        _ = design.stimulus_info


def test_images_and_annotations(root, design):
    n = 4 + 8 * 26
    with h5py.File(root / keys.STIMULI) as file:
        brick = file["imgBrick"]
        assert (
            brick.shape == (n, 64, 64, 3)
            and brick.dtype == np.uint8
            and file["first"].chunks == (1, 64, 64, 3)
            and file["first"].compression == "gzip"
        )
        drawn = np.flatnonzero(brick[:].std(axis=(1, 2, 3)) > 1)
        np.testing.assert_array_equal(drawn, np.unique(design.images_of_subject[[0, 1, 3, 4]]))
        assert not np.delete(brick[:], drawn, axis=0).any()
    table = load_annotations(root, design.stimulus_info)
    scenes = [scene(7, nsd_id) for nsd_id in range(n)]
    assert table["captions"].tolist() == [captions(item) for item in scenes]
    assert table["category"].tolist() == [item.objects[0].category for item in scenes]
    assert table["background"].tolist() == [item.background for item in scenes]


def test_tables_have_the_columns_of_nsd(root):
    lines = (root / keys.STIMULUS_INFO).read_text().splitlines()
    header = lines[0].split(",")
    assert (
        len(header) == 41
        and header[0] == ""
        and header[1:9] == ["cocoId", "cocoSplit", "cropBox", "loss", "nsdId", "flagged", "BOLD5000", "shared1000"]
    )
    assert header[17:20] == ["subject1_rep0", "subject1_rep1", "subject1_rep2"] and header[-1] == "subject8_rep2"
    table = pd.read_csv(root / keys.STIMULUS_INFO, index_col=0)
    assert table["shared1000"].dtype == bool and table["shared1000"].sum() == 4
    repeats = (table.filter(like="_rep") > 0).sum(axis=1)
    assert set(repeats[table["shared1000"]]) == {24} and set(repeats[~table["shared1000"]]) == {3}
    crops = table["cropBox"].map(lambda text: tuple(float(part) for part in text.strip("()").split(",")))
    assert all(sum(edge == 0 for edge in crop) >= 2 and sum(crop) == pytest.approx(0.25) for crop in crops)

    fields = scipy.io.loadmat(root / keys.EXPERIMENT_DESIGN)
    shapes = {
        name: fields[name].shape for name in ("masterordering", "subjectim", "sharedix", "basiccnt", "stimpattern")
    }
    assert shapes == {
        "masterordering": (1, 90),
        "subjectim": (8, 30),
        "sharedix": (1, 4),
        "basiccnt": (3, 3),
        "stimpattern": (3, 12, 75),
    }
    assert fields["masterordering"].min() == 1 and fields["masterordering"].max() == 30
    assert (fields["basiccnt"] * [[1], [2], [3]]).sum() == 90


def test_betas_are_nsds_format(root):
    path = root / keys.betas(1, 1, "rh", BETA_VERSION)
    image = nib.load(path)
    assert image.shape == (10_242, 1, 1, 30) and image.get_data_dtype() == np.dtype(">f4")
    np.testing.assert_array_equal(
        np.asarray(image.dataobj)[:, 0, 0].T, read_session(root, 1, 1, np.arange(10_242, 20_484), BETA_VERSION, MESH)
    )
    assert not (root / keys.betas(4, 3, "lh", BETA_VERSION)).exists()
    assert not list(root.rglob("*.partial*"))


def test_notice(root):
    assert keys.is_simulated(root) and not keys.is_simulated(root / "nsddata")
    notice = json.loads((root / keys.SIMULATED).read_text())
    assert notice["sessions"]["4"] == 2 and notice["notice"].startswith("SIMULATED")


def test_written_twice_is_the_same(root, tmp_path):
    write(tmp_path, [1, 4], config())

    def digest(folder):
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".mat", ".mgz", ".jsonl"}
        )
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert digest(root) == digest(tmp_path)


def test_a_further_subject_adds_its_images_and_changes_no_file(tmp_path):
    write_images(tmp_path, config())
    made = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != manifest.NAME}
    write_own_images(tmp_path, 1, config())
    write_own_images(tmp_path, 6, config())
    listed = {tmp_path / manifest.NAME, tmp_path / keys.own_stimuli(6)}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*made, *listed}
    assert all(path.read_bytes() == content for path, content in made.items())
    seen = load_design(tmp_path).images([6])
    with h5py.File(tmp_path / keys.STIMULI) as file:
        for nsd_id in (seen[0], seen[-1]):
            np.testing.assert_array_equal(file["imgBrick"][nsd_id], render(scene(7, int(nsd_id)), 64))


def ncsnr(betas, trials, chosen=slice(None)):
    """NSD's rule, written out: of the images with three trials all, or every other one."""
    scored = np.concatenate([(part - part.mean(axis=0)) / part.std(axis=0, ddof=1) for part in betas])
    images = [image for image, times in sorted(trials["nsd_id"].value_counts().items()) if times == 3]
    variance = [scored[trials["nsd_id"] == image].var(axis=0, ddof=1) for image in images[chosen]]
    noise = np.nanmean(variance, axis=0)
    return np.sqrt(np.maximum(0, 1 - noise) / noise)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_noise_ceiling_lies_where_nsds_does(tmp_path):
    settings = config(sessions=2, trials_per_session=750, shared_images=20)
    write(tmp_path, [1], settings)
    trials = load_design(tmp_path).trials(1)
    chosen = np.arange(0, 20_484, 3)
    betas = [read_session(tmp_path, 1, session, chosen, BETA_VERSION) for session in (1, 2)]
    ratio = ncsnr(betas, trials)
    visual = load_geometry().source_visual(MESH)[chosen]
    assert 0.3 < np.nanmedian(ratio[visual]) < 0.55
    assert np.nanpercentile(ratio[visual], 10) < 0.2 and 0.6 < np.nanpercentile(ratio[visual], 95) < 1
    assert np.nanmedian(ratio[~visual]) < 0.05
    halves = [ncsnr(betas, trials, half)[visual] for half in (slice(0, None, 2), slice(1, None, 2))]
    assert np.corrcoef(*np.nan_to_num(halves))[0, 1] > 0.6


def test_images_come_first(tmp_path):
    with pytest.raises(FileNotFoundError, match="nsd_expdesign"):
        write_subject(tmp_path, 1, config())


def test_real_files_are_never_written_over(tmp_path):
    (tmp_path / keys.STIMULI).parent.mkdir(parents=True)
    (tmp_path / keys.STIMULI).touch()
    with pytest.raises(
        FileExistsError, match=r"holds nsddata_stimuli.* may be the real NSD.*Allowed: .*nsd\.source: local"
    ):
        write_images(tmp_path, config())


def test_no_betas_are_simulated_where_there_is_no_room_for_them(root, monkeypatch):
    bytes_of_all = 3 * 30 * 20484 * 4
    for free, subject, there in ((bytes_of_all - 1, 5, False), (0, 1, True)):
        monkeypatch.setattr(download, "free_bytes", lambda folder, free=free: free)
        if there:  # they are replaced, which takes no more
            write_subject(root, subject, config())
        else:
            with pytest.raises(download.FetchError, match=f"No room for betas of subject {subject} on the disk of"):
                write_subject(root, subject, config())
            assert not (root / keys.betas(subject, 1, "lh", BETA_VERSION)).exists()
