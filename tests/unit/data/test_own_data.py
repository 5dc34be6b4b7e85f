"""A lab's own betas and images, as small made files of the formats in docs/own_data.md."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from neuropictor.config import PreprocessConfig
from neuropictor.data.own_data import import_betas, import_images
from neuropictor.data.responses import ResponseStore
from neuropictor.data.stimuli import StimulusStore
from neuropictor.surface import load_geometry

VERTICES, TRIALS = 10_242, 8
IMAGES = [5, 9, 30, 30, 41, 5, 9, 41]
SPLITS = {5: "train", 9: "train", 30: "test", 41: "validation"}


def save(path, values):
    """Write betas [trials, vertices] in the format of the ending."""
    if path.name.endswith(".npy"):
        np.save(path, values)
    elif path.name.endswith(".gii"):
        arrays = [nibabel.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_NONE") for row in values]
        nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), path)
    else:
        nibabel.save(nibabel.MGHImage(values.T.reshape(values.shape[1], 1, 1, -1), np.eye(4)), path)


def write_table(folder, lines=None):
    rows = [f"{session},{trial},{IMAGES[trial]},{SPLITS[IMAGES[trial]]}" for session in (1, 4) for trial in range(8)]
    (folder / "trials.csv").write_text("\n".join(["session,trial,image,split", *(lines or rows)]) + "\n")
    return folder / "trials.csv"


@pytest.fixture(scope="module")
def betas():
    generator = np.random.default_rng(0)
    return {
        (side, session): generator.standard_normal((TRIALS, VERTICES)).astype(np.float32)
        for side in ("lh", "rh")
        for session in (1, 4)
    }


def scans(folder, betas, ending):
    for (side, session), values in betas.items():
        save(folder / f"{side}.session{session}{ending}", values)
    return write_table(folder)


def run(table, out, **changes):
    import_betas(table, 3, PreprocessConfig(**{"validation_images": 1, **changes}), out)
    return ResponseStore(out)


@pytest.mark.parametrize("ending", [".mgh", ".mgz", ".func.gii", ".npy"])
def test_all_formats_give_the_z_scored_responses(betas, tmp_path, ending):
    store = run(scans(tmp_path, betas, ending), tmp_path / "responses.h5")
    assert (store.subject, store.data, store.mesh) == (3, "own", "fsaverage5")
    assert store.nsd_id.tolist() == IMAGES * 2 and store.session.tolist() == [1] * 8 + [4] * 8
    assert [store.images(split).tolist() for split in ("train", "validation", "test")] == [[5, 9], [41], [30]]
    assert store.repeat[store.nsd_id == 5].tolist() == [0, 1, 2, 3]
    operator = load_geometry().resampler("fsaverage5")
    for session in (1, 4):
        values = np.concatenate([betas["lh", session], betas["rh", session]], axis=1) @ operator.T
        known = np.array(IMAGES) != 30
        expected = (values - values[known].mean(0)) / values[known].std(0, ddof=1)
        found = store.responses(np.flatnonzero(store.session == session))
        np.testing.assert_allclose(found, np.clip(expected, -8, 8), atol=0.02)


def test_rows_of_the_table_choose_trials_and_may_leave_validation_to_the_settings(betas, tmp_path):
    scans(tmp_path, betas, ".npy")
    lines = ["4,6,9,train", "4,1,7,train", "4,2,30,test", "1,0,5,train", "1,3,30,test", "1,5,5,train"]
    store = run(write_table(tmp_path, lines), tmp_path / "responses.h5")
    assert store.nsd_id.tolist() == [5, 30, 5, 7, 30, 9]
    assert len(store.images("validation")) == 1 and len(store.images("train")) == 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1,0,5,train", "1,0,9,test"], r"row 3: this session and trial come twice"),
        (
            ["1,0,5,train", "1,1,5,test"],
            r"image 5 is in more than one split; allowed: all trials of an image in one",
        ),
        (["1,0,5,trian", "1,1,9,test"], r"row 2: split is 'trian'; allowed: train, validation, test\. Example: test"),
        (["1,0,5,train", "1,-1,9,test"], r"row 3: trial is '-1'; allowed: whole numbers from 0\. Example: 12"),
        (["1,0,5,train", "1,1,9,train"], r"no trial has the split test; allowed: at least one"),
        (
            ["1,0,5,train", "1,1,9,train", "1,8,2,test"],
            r"lh\.session1\.npy has 8 trials, but the table asks for trial 8",
        ),
    ],
)
def test_mistakes_in_the_table_are_named(betas, tmp_path, lines, words):
    scans(tmp_path, betas, ".npy")
    with pytest.raises(ValueError, match=words):
        run(write_table(tmp_path, lines), tmp_path / "r.h5")
    assert not (tmp_path / "r.h5").exists()


def test_mistakes_in_the_files_are_named(betas, tmp_path):
    table = scans(tmp_path, betas, ".npy")
    path = tmp_path / "lh.session1.npy"
    save(path, np.zeros((TRIALS, 100), np.float32))
    with pytest.raises(ValueError, match=r"lh\.session1\.npy has 100 vertices; allowed: 10242 \(fsaverage5\), 40962"):
        run(table, tmp_path / "r.h5")
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"lh\.session1\.npy cannot be read .*; allowed: numbers without pickles"):
        run(table, tmp_path / "r.h5")
    save(path, np.array([["a"]]))
    with pytest.raises(ValueError, match=r"holds <U1 \(1, 1\); allowed: numbers \[trials, vertices\]"):
        run(table, tmp_path / "r.h5")
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has 0 files lh\.session1 with one of the endings .*; allowed: exactly"
    ):
        run(table, tmp_path / "r.h5")
    save(path, betas["lh", 1])
    save(tmp_path / "rh.session4.npy", np.zeros((TRIALS, 40_962), np.float32))
    with pytest.raises(ValueError, match=r"rh\.session4\.npy has 40962 vertices; allowed: those of fsaverage5, 10242"):
        run(table, tmp_path / "r.h5")
    (tmp_path / "trials.csv").write_text("session,trial\n1,2\n")
    with pytest.raises(ValueError, match=r"the columns session, trial; allowed: session, trial, image, split"):
        run(table, tmp_path / "r.h5")


def images_table(folder, *lines, header="image,file,captions,category"):
    (folder / "images.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "images.csv"


def test_images_are_cropped_resized_and_sorted(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "flat.png")
    table = images_table(tmp_path, '30,wide.png,"a grey square | one more, with a comma",square', "5,flat.png,flat,")
    import_images(table, PreprocessConfig(image_size=16), tmp_path / "stimuli.h5")
    store = StimulusStore(tmp_path / "stimuli.h5")
    assert store.nsd_id.tolist() == [5, 30] and store.data == "own"
    assert (store.images([30]) == 200).all() and (store.images([5]) == 90).all()
    assert store.captions([30]) == [["a grey square", "one more, with a comma"]]
    assert store.category([30, 5]).tolist() == ["square", ""] and store.background([5]).tolist() == [""]


def test_mistakes_in_images_are_named(tmp_path):
    (tmp_path / "note.txt").write_text("no image")
    for lines, error, words in (
        (["1,gone.png,a"], FileNotFoundError, r"gone\.png is missing; files in the table are relative to it"),
        (["1,note.txt,a"], ValueError, r"note\.txt is no image; allowed: what Pillow reads"),
        (["1,note.txt,"], ValueError, r"image 1 has no caption; allowed: one to five"),
        (["1,note.txt,a", "1,note.txt,b"], ValueError, r"image 1 comes twice; allowed: a row an image"),
    ):
        table = images_table(tmp_path, *lines, header="image,file,captions")
        with pytest.raises(error, match=words):
            import_images(table, PreprocessConfig(image_size=16), tmp_path / "stimuli.h5")
    assert not (tmp_path / "stimuli.h5").exists()
    with pytest.raises(FileNotFoundError, match=r"absent\.csv is missing; expected a CSV table with the columns image"):
        import_images(tmp_path / "absent.csv", PreprocessConfig(), tmp_path / "stimuli.h5")
