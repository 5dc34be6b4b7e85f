"""Responses in every format of labs give the same store, and wrong files their message."""

import json
import pickle
import re
from pathlib import Path

import h5py
import lab_files
import nibabel
import numpy as np
import pytest

from neuropictor.config import PreprocessConfig
from neuropictor.data.labs.formats import grayordinates, sizes
from neuropictor.data.labs.kinds import KINDS
from neuropictor.data.own_data import import_betas
from neuropictor.data.responses import ResponseStore
from neuropictor.surface import load_geometry

TRIALS, HALF = 8, 32_492
IMAGES = [5, 9, 30, 30, 41, 5, 9, 41]
SPLITS = {5: "train", 9: "train", 30: "test", 41: "validation"}


@pytest.fixture(scope="module")
def values():
    smooth = np.random.default_rng(3).standard_normal((TRIALS, 2 * HALF // 8 + 1), dtype=np.float32)
    made = np.repeat(smooth, 8, axis=1)[:, : 2 * HALF] + np.linspace(0, 1, 2 * HALF, dtype=np.float32)
    made[:, ~load_geometry().cortex.ravel()] = 0
    return made


def table(folder, trials=TRIALS, images=IMAGES):
    rows = [f"1,{trial},{images[trial]},{SPLITS[images[trial]]}" for trial in range(trials)]
    (folder / "trials.csv").write_text("\n".join(["session,trial,image,split", *rows]) + "\n")
    return folder / "trials.csv"


def store(folder, trials=True, betas=None, **options):
    out = folder / "responses.h5"
    import_betas(table(folder) if trials else None, "03", PreprocessConfig(), out, betas, **options)
    return ResponseStore(out)


def halves(folder, left, right, name="session1.npy"):
    np.save(folder / f"lh.{name}", left)
    np.save(folder / f"rh.{name}", right)


def gifti(folder, values):
    for side, part in zip(("lh", "rh"), np.split(values, 2, axis=1), strict=True):
        arrays = [nibabel.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_NONE") for row in part]
        nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), folder / f"{side}.session1.func.gii")


def mgh(folder, values, ending):
    for side, part in zip(("lh", "rh"), np.split(values, 2, axis=1), strict=True):
        image = nibabel.MGHImage(part.T.reshape(-1, 1, 1, len(part)), np.eye(4))
        nibabel.save(image, folder / f"{side}.session1{ending}")


def hdf5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, numbers in datasets.items():
            file[name] = numbers


def cortex():
    return [np.flatnonzero(side) for side in load_geometry().cortex]


def visual(values):
    geometry = load_geometry()
    return values[:, geometry.vertex + HALF * geometry.hemisphere]


def two_runs(folder, values):
    for run, part in enumerate(np.split(values, 2), start=1):
        lab_files.cifti(folder / f"sub-01_ses-01_task-x_run-{run}_betas.dscalar.nii", part)


TYPED = "TYPED_FITHRF_GLMDENOISE_RR"
FS_LR = {
    "npy 64984": lambda folder, v: np.save(folder / "session1.npy", v),
    "npy turned": lambda folder, v: np.save(folder / "session1.npy", v.T),
    "npy big-endian float64": lambda folder, v: np.save(folder / "session1.npy", v.astype(">f8")),
    "npy 59412": lambda folder, v: np.save(folder / "session1.npy", lab_files.without_wall(v)),
    "npy 91282": lambda folder, v: np.save(
        folder / "session1.npy", np.pad(lab_files.without_wall(v), ((0, 0), (0, 91_282 - 59_412)))
    ),
    "npy 8921": lambda folder, v: np.save(folder / "session1.npy", visual(v)),
    "h5": lambda folder, v: hdf5(folder / "session1.h5", betas=v),
    "npy halves": lambda folder, v: halves(folder, *np.split(v, 2, axis=1)),
    "func.gii": gifti,
    "mgh": lambda folder, v: mgh(folder, v, ".mgh"),
    "mgz": lambda folder, v: mgh(folder, v, ".mgz"),
    "dscalar": lambda folder, v: lab_files.cifti(folder / "session1.dscalar.nii", v),
    "dscalar without wall": lambda folder, v: lab_files.cifti(folder / "session1.dscalar.nii", v, *cortex()),
    "dtseries, right first": lambda folder, v: lab_files.cifti(
        folder / "session1.dtseries.nii", v, *cortex(), turned=True, series=True
    ),
    "two runs": two_runs,
    "glmsingle": lambda folder, v: lab_files.glmsingle(folder / f"{TYPED}.hdf5", v),
    "glmsingle 59412": lambda folder, v: lab_files.glmsingle(folder / f"{TYPED}.hdf5", lab_files.without_wall(v)),
    "glmsingle halves": lambda folder, v: [
        lab_files.glmsingle(folder / side / f"{TYPED}.hdf5", part)
        for side, part in zip(("lh", "rh"), np.split(v, 2, axis=1), strict=True)
    ],
    "glmsingle MATLAB": lambda folder, v: lab_files.glmsingle(folder / f"{TYPED}.mat", v, matlab=True),
}


@pytest.fixture(scope="module")
def expected(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    np.save(folder / "session1.npy", values)
    every = store(folder).responses(range(TRIALS))
    known = visual(values)[np.array(IMAGES) != 30].astype(np.float64)
    made = (visual(values) - known.mean(0)) / known.std(0, ddof=1)
    np.testing.assert_allclose(every, np.clip(made, -8, 8), atol=0.02)
    return every


@pytest.mark.parametrize("name", FS_LR)
def test_formats_on_fs_lr_give_the_same_store(values, expected, tmp_path, monkeypatch, name):
    monkeypatch.setattr("neuropictor.data.labs.reader._TRIALS_AT_ONCE", 3)
    FS_LR[name](tmp_path, values)
    made = store(tmp_path)
    assert made.mesh == "fs_LR_32k" and made.nsd_id.tolist() == IMAGES
    np.testing.assert_array_equal(made.responses(range(TRIALS)), expected)


def test_formats_on_fsaverage_give_the_same_store(tmp_path):
    made = np.random.default_rng(1).standard_normal((TRIALS, 2 * 10_242), dtype=np.float32)
    ways = {
        "npy": lambda folder: np.save(folder / "session1.npy", made),
        "halves": lambda folder: halves(folder, *np.split(made, 2, axis=1)),
        "mgz": lambda folder: mgh(folder, made, ".mgz"),
        "gifti": lambda folder: gifti(folder, made),
        "glmsingle": lambda folder: lab_files.glmsingle(folder / f"{TYPED}.hdf5", made),
    }
    stores = {}
    for name, way in ways.items():
        (tmp_path / name).mkdir()
        way(tmp_path / name)
        stores[name] = store(tmp_path / name)
        assert stores[name].mesh == "fsaverage5"
        every = stores[name].responses(range(TRIALS))
        np.testing.assert_array_equal(every, stores["npy"].responses(range(TRIALS)))


NAMES = [(f"{image:012d}.jpg", "test" if image == 30 else "train") for image in IMAGES]


def mosaic_record(folder, values, names=NAMES, **options):
    """Import a file of MOSAIC with NSD's table of images, and return the store and its record's results."""
    lab_files.mosaic(folder / "sub-01_NSD.hdf5", values, names, **options)
    (folder / "info.csv").write_text("nsdId,cocoId\n" + "".join(f"{1000 + image},{image}\n" for image in {*IMAGES}))
    made = store(folder, False, folder / "sub-01_NSD.hdf5", nsd_images=folder / "info.csv")
    return made, json.loads((folder / "responses.run.json").read_text())["results"]


@pytest.mark.parametrize(("block", "kind"), [(2048, np.float64), (3, np.float32)])
def test_mosaic_names_its_trials_and_is_only_clipped(values, tmp_path, monkeypatch, block, kind):
    monkeypatch.setattr("neuropictor.data.labs.reader._TRIALS_AT_ONCE", block)
    made, record = mosaic_record(tmp_path, values, kind=kind)
    order = sorted(range(TRIALS), key=lambda row: (IMAGES[row] != 30, IMAGES[row], row))
    assert made.nsd_id.tolist() == [1000 + IMAGES[row] for row in order] and set(made.session) == {1}
    np.testing.assert_array_equal(
        made.responses(range(TRIALS)), visual(values)[order].clip(-8, 8).astype(np.float16).astype(np.float32)
    )
    facts = {"visual_angle": 16.0, "sex": "F", "age": 24, "subjectID": "sub-01", "beta_pipeline": "GLMsinglev1.2"}
    expected = facts | {"standardised_before": True, "vertices_missing": 0, "vertices_missing_in_a_trial": 0}
    assert {name: record[name] for name in expected} == expected
    with pytest.raises(
        ValueError, match=r"usual standard deviation of a vertex is 1\d\.\d, so the responses are not z-s"
    ):
        mosaic_record(tmp_path, values * np.float32(20))


def test_vertices_that_a_person_of_mosaic_lacks_are_0_and_counted(values, tmp_path):
    geometry, missing = load_geometry(), [7, *range(2000, 3000)]
    place = grayordinates()[geometry.vertex + HALF * geometry.hemisphere]
    lacking = np.isin(place, missing)
    made, record = mosaic_record(tmp_path, values, missing=missing, visual_angle="8.4")
    assert lacking.any() and (made.responses(range(TRIALS))[:, lacking] == 0).all()
    assert record["vertices_missing"] == record["vertices_missing_in_a_trial"] == lacking.sum()
    assert record["values_missing"] == TRIALS * lacking.sum() and record["visual_angle"] == 8.4
    with h5py.File(tmp_path / "sub-01_NSD.hdf5", "r+") as file:
        trial = next(name for name in file["betas"] if "phase-train" in name)
        file[f"betas/{trial}"].attrs["nan_indices"] = np.array([*missing, place[~lacking][0]])
    store(tmp_path, False, tmp_path / "sub-01_NSD.hdf5")
    record = json.loads((tmp_path / "responses.run.json").read_text())["results"]
    assert record["vertices_missing_in_a_trial"] == record["vertices_missing"] + 1 == lacking.sum() + 1


def test_of_mosaics_nsd_people_artificial_images_are_left_out(values, tmp_path, caplog):
    caplog.set_level("INFO")
    made, _ = mosaic_record(tmp_path, np.concatenate([values, values[:2]]), [*NAMES, *[("001.jpg", "test")] * 2])
    assert len(made) == TRIALS and "2 trials of NSD-synthetic are left out" in caplog.text


def test_missing_vertices_are_recorded(values, tmp_path):
    lab_files.cifti(tmp_path / "session1.dscalar.nii", values, right=cortex()[1][:100])
    made = store(tmp_path)
    record = json.loads((tmp_path / "responses.run.json").read_text())["results"]
    kept = (load_geometry().hemisphere == 1) & (load_geometry().vertex <= cortex()[1][99])
    assert record["vertices_missing"] == 4381 - kept.sum() and record["values_missing"] == TRIALS * (4381 - kept.sum())
    assert (made.responses([0])[0][(load_geometry().hemisphere == 1) & ~kept] == 0).all()


def nod(folder, values, labels=None):
    for session, part in (("imagenet01", values[:4]), ("imagenet01", values[4:6]), ("coco", values[6:])):
        run = len(list(folder.glob(f"ses-{session}*"))) + 1
        name = f"ses-{session}_task-{session[:4]}_run-{run}"
        (folder / name).mkdir()
        lab_files.cifti(folder / name / f"{name}_beta.dscalar.nii", part, *cortex())
        names = [f"{session}_{run}_{row}.JPEG" for row in range(len(part))] if labels is None else labels
        (folder / name / f"{name}_label.txt").write_text("\n".join(names) + "\n")


def test_nod_names_its_trials(values, tmp_path):
    nod(tmp_path, values)
    import_betas(None, "01", PreprocessConfig(statistics="all"), tmp_path / "responses.h5", betas=tmp_path)
    made = ResponseStore(tmp_path / "responses.h5")
    assert made.session.tolist() == [1] * 6 + [2] * 2 and made.split.tolist()[6:] == [2, 2]
    assert len(set(made.nsd_id)) == TRIALS and made.nsd_id.min() >= 1_000_000
    (tmp_path / "wrong").mkdir()
    nod(tmp_path / "wrong", values, labels=["a.JPEG"])
    with pytest.raises(ValueError, match=r"_label\.txt names 1 images, but .* has 4 trials; allowed: as many"):
        import_betas(None, "01", PreprocessConfig(), tmp_path / "r.h5", betas=tmp_path / "wrong")


def test_algonauts_fills_the_vertices_of_its_mask(tmp_path):
    full = np.random.default_rng(2).standard_normal((TRIALS, 2 * 163_842), dtype=np.float32)
    used = np.zeros(2 * 163_842, bool)
    used[load_geometry().columns("fsaverage")] = True
    lab_files.algonauts(tmp_path / "a", *np.split(full, 2, axis=1), np.split(used, 2), IMAGES)
    (tmp_path / "b").mkdir()
    halves(tmp_path / "b", *np.split(full, 2, axis=1))
    made, plain = store(tmp_path / "a", standardised=False), store(tmp_path / "b")
    np.testing.assert_array_equal(made.responses(range(TRIALS)), plain.responses(range(TRIALS)))
    with pytest.raises(ValueError, match="which images test is said by nothing"):
        store(tmp_path / "a", trials=False, betas=tmp_path / "a")
    next((tmp_path / "a").rglob("train-0001*")).unlink()
    with pytest.raises(ValueError, match=r"training_images has 7 images, but lh_training_fmri\.npy 8 trials"):
        store(tmp_path / "a", trials=False, betas=tmp_path / "a")


@pytest.mark.parametrize("matlab", [False, True])
def test_glmsingles_design_names_conditions_and_sessions(values, tmp_path, matlab):
    order = np.array(IMAGES) + matlab
    design = {"stimorder": order, "numtrialrun": np.array([4, 4]), "opt/sessionindicator": np.array([1, 2])}
    path = tmp_path / f"{TYPED}{'.mat' if matlab else '.hdf5'}"
    lab_files.glmsingle(path, values, matlab, **design)
    trials = KINDS["glmsingle"].open(tmp_path).trials()
    assert trials["image"].tolist() == [str(image) for image in IMAGES]
    assert trials["session"].tolist() == [1] * 4 + [2] * 4 and trials["trial"].tolist() == [0, 1, 2, 3] * 2
    assert [run.rows for run in KINDS["glmsingle"].open(tmp_path).runs(2)] == [(4, 8)]
    lab_files.glmsingle(path, values[1:], matlab, **design)
    with pytest.raises(ValueError, match=r"has 7 trials, but its DESIGNINFO 8; allowed: both of one fit"):
        KINDS["glmsingle"].open(tmp_path).trials()


def renamed(folder, v, ending):
    lab_files.cifti(folder / "session1.dscalar.nii", v)
    (folder / "session1.dscalar.nii").rename(folder / f"session1{ending}")


def other_axis(folder, v, parcels):
    models = nibabel.cifti2.BrainModelAxis.from_surface(np.arange(HALF), HALF, "CortexLeft")
    rows = nibabel.cifti2.ScalarAxis([str(row) for row in range(TRIALS)])
    if parcels:
        models = nibabel.cifti2.ParcelsAxis.from_brain_models([("one", models)])
    else:
        rows = nibabel.cifti2.LabelAxis([str(row) for row in range(TRIALS)], {0: ("a", (0, 0, 0, 1))})
    image = nibabel.Cifti2Image(np.ones((TRIALS, len(models)), np.float32), (rows, models))
    nibabel.save(image, folder / "session1.dscalar.nii")


def cut(folder, v):
    lab_files.cifti(folder / "session1.dscalar.nii", v)
    whole = (folder / "session1.dscalar.nii").read_bytes()
    (folder / "session1.dscalar.nii").write_bytes(whole[: len(whole) // 2])


WRONG = {
    "other mesh": (lambda folder, v: np.save(folder / "session1.npy", v[:, :999]), r"has 999 vertices; allowed: 20484"),
    "164k mesh": (
        lambda folder, v: lab_files.cifti(
            folder / "session1.dscalar.nii", np.ones((TRIALS, 2 * 163_842)), half=163_842
        ),
        r"session1\.dscalar\.nii .*CORTEX_LEFT is on the 164k mesh, of 163842 vertices; allowed: fs_LR 32k, 32492",
    ),
    "59k mesh": (
        lambda folder, v: lab_files.cifti(folder / "session1.dscalar.nii", np.ones((TRIALS, 2 * 59_292)), half=59_292),
        r"CORTEX_LEFT is on the 59k mesh, of 59292 vertices",
    ),
    "parcellated": (lambda folder, v: other_axis(folder, v, True), r"it is parcellated, one number an area"),
    "parcellated by name": (lambda folder, v: renamed(folder, v, ".pscalar.nii"), r"pscalar\.nii is parcellated"),
    "labels": (lambda folder, v: other_axis(folder, v, False), r"it holds labels \(dlabel\), not responses"),
    "labels by name": (lambda folder, v: renamed(folder, v, ".dlabel.nii"), r"dlabel\.nii is labels, not responses"),
    "packed": (lambda folder, v: renamed(folder, v, ".dscalar.nii.gz"), r"is packed, .*: gunzip it"),
    "time series": (
        lambda folder, v: lab_files.cifti(folder / "ses-01_bold.dtseries.nii", v),
        r"is a time series, by its name; allowed: a response a trial",
    ),
    "cut": (cut, r"session1\.dscalar\.nii cannot be read"),
    "short": (
        lambda folder, v: np.save(folder / "session1.npy", v[:5]),
        r"session1\.npy has 5 trials, but the table asks for trial 7 of session 1; allowed: 0 to 4",
    ),
    "swapped": (
        lambda folder, v: np.save(folder / "session1.npy", np.roll(v, HALF, axis=1)),
        r"the hemispheres look swapped",
    ),
    "swapped halves": (
        lambda folder, v: halves(folder, v[:, HALF:], v[:, :HALF]),
        r"lh\.session1\.npy and rh\.session1\.npy: the hemispheres look swapped",
    ),
    "halves of other lengths": (
        lambda folder, v: halves(folder, v[:, :HALF], v[:7, HALF:]),
        r"rh\.session1\.npy has 7 trials, but lh\.session1\.npy 8; allowed: as many",
    ),
    "ambiguous": (
        lambda folder, v: np.lib.format.open_memmap(folder / "session1.npy", "w+", np.float32, (8_921, 20_484)),
        r"session1\.npy holds \(8921, 20484\), which looks transposed or not",
    ),
    "pickle": (
        lambda folder, v: np.save(folder / "session1.npy", np.array([{}], object), allow_pickle=True),
        r"session1\.npy cannot be read \(it holds a pickle, which can run code and is never opened\)",
    ),
    "pickle of GLMsingle": (
        lambda folder, v: (folder / f"{TYPED}.npy").write_bytes(pickle.dumps({"betasmd": 1})),
        r"TYPED_FITHRF_GLMDENOISE_RR\.npy is a pickle, .*run in .*: python -c \"import h5py, numpy; h5py\.File\(",
    ),
    "old MATLAB": (
        lambda folder, v: (folder / f"{TYPED}.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(99)),
        r"is a MATLAB file below v7\.3; .* save\('TYPED_FITHRF_GLMDENOISE_RR\.mat', '-struct', 's', '-v7\.3'\)",
    ),
    "a volume": (
        lambda folder, v: hdf5(folder / f"{TYPED}.hdf5", betasmd=np.ones((4, 5, 6, 8), np.float32)),
        r"betasmd is float32 \(4, 5, 6, 8\); allowed: numbers of trials and vertices",
    ),
    "no betas": (lambda folder, v: hdf5(folder / "session1.h5", data=v), r"session1\.h5 holds data; allowed: .* betas"),
    "two kinds": (
        lambda folder, v: [halves(folder, *np.split(v, 2, axis=1)), np.save(folder / "session1.npy", v)],
        r"holds files of the kinds hemispheres, brain; allowed: one kind, or which one by --kind: hemispheres \(e\.g\.",
    ),
    "none": (
        lambda folder, v: None,
        r"holds no files of a known kind; .*--kind: hemispheres .*nod \(e\.g\. ses-imagen",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named(values, tmp_path, name):
    make, words = WRONG[name]
    make(tmp_path, values)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        store(tmp_path)
    assert not (tmp_path / "responses.h5").exists()


def test_unknown_kinds_and_missing_tables_are_named(values, tmp_path):
    np.save(tmp_path / "session1.npy", values)
    with pytest.raises(ValueError, match=r"kind 'bids' does not exist; allowed: hemispheres \(e\.g\. lh\.session1"):
        store(tmp_path, kind="bids")
    with pytest.raises(ValueError, match=r"files of the kind brain do not name their trials; allowed: a table"):
        store(tmp_path, trials=False, betas=tmp_path)
    with pytest.raises(ValueError, match="neither table nor betas are given"):
        store(tmp_path, trials=False)


def test_a_number_of_vertices_tells_the_mesh():
    assert len(sizes("")) == 7 and not set(sizes("")) & set(sizes("lh"))


def test_the_docs_list_every_kind():
    text = (Path(__file__).parents[3] / "docs" / "own_data.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| `[^|]*\|[^|]*\|$", text, re.MULTILINE) == list(KINDS)
    command = (Path(__file__).parents[3] / "neuropictor" / "cli" / "data.py").read_text()
    assert ", ".join(KINDS) in command
