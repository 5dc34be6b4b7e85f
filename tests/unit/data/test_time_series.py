"""CIFTI time series to frames: the same of every layout, wrong files by name, and nothing read twice."""

import json

import h5py
import lab_files
import numpy as np
import pytest

from neuropictor.config import PreprocessConfig
from neuropictor.config.extra import frames_name, response_stores, series_files, series_state
from neuropictor.data import time_series
from neuropictor.data.frames import FrameStore, is_frames
from neuropictor.data.time_series import import_frames
from neuropictor.surface import load_geometry

FRAMES, HALF = 24, lab_files.HALF
WALL = ~load_geometry().cortex
COLUMNS = load_geometry().vertex + HALF * load_geometry().hemisphere


@pytest.fixture(scope="module")
def values():
    """A run [24, 64984], in scanner units."""
    noise = np.random.default_rng(5).standard_normal((FRAMES, 2 * HALF // 16 + 1), dtype=np.float32)
    return 1e4 + 50 * np.repeat(noise, 16, axis=1)[:, : 2 * HALF] * np.linspace(1, 2, 2 * HALF, dtype=np.float32)


def cortex():
    return dict(zip(("left", "right"), map(np.flatnonzero, ~WALL), strict=True))


def save(path, values, **options):
    lab_files.cifti(path, values, series=True, **options)
    return path


def run(files, out, frames=8, **changes):
    import_frames(files, frames, PreprocessConfig(**changes), out)
    return FrameStore(out)


@pytest.fixture
def series(values, tmp_path):
    """Two runs of the cortex."""
    return [save(tmp_path / f"{name}.dtseries.nii", values + add, **cortex()) for name, add in (("a", 0), ("b", 9))]


@pytest.mark.parametrize("layout", ["64984", "59412", "91282", "right first"])
def test_every_layout_gives_the_z_scored_frames(values, tmp_path, layout):
    path = tmp_path / "run.dtseries.nii"
    if layout == "91282":
        lab_files.grayordinates(path, values)
    else:
        save(path, values, turned=layout == "right first", **({} if layout == "64984" else cortex()))
    store = run([path], tmp_path / "frames.h5", clip=1.5)
    of_cortex = values[:, COLUMNS].astype(float)
    z = (of_cortex - of_cortex.mean(0)) / of_cortex.std(0, ddof=1)
    expected = np.clip(z[np.linspace(0, FRAMES - 1, 8).astype(int)], -1.5, 1.5)
    np.testing.assert_allclose(store.rows[np.arange(8)], expected, atol=2e-3)
    assert store.run.tolist() == [0] * 8 and store.runs == 1 and not store.lacking
    assert not store.missing[np.array([0])].any()


def test_runs_follow_each_other_and_short_ones_give_all_frames(values, series, tmp_path):
    short = save(tmp_path / "c.dtseries.nii", values[:12], **cortex())
    store = run([*series, short], tmp_path / "frames.h5", frames=20)
    assert np.bincount(store.run).tolist() == [20, 20, 12]
    np.testing.assert_allclose(
        store.rows[np.arange(20)], store.rows[np.arange(20, 40)], atol=4e-3
    )  # units do not matter
    assert is_frames(store.path)
    results = json.loads((tmp_path / "frames.run.json").read_text())["results"]
    assert (results["runs"], results["frames"], results["values_missing"]) == (3, 52, 0)
    assert results["series_bytes"] == sum(path.stat().st_size for path in (*series, short))
    with h5py.File(store.path) as file:
        assert file["responses"].chunks is None  # in one piece, to be mapped into memory
        assert file["series"].asstr()[:].tolist() == [str(path) for path in (*series, short)]


def test_what_a_run_lacks_is_marked_and_counted(values, series, tmp_path):
    region = load_geometry().region("V1")
    gaps = values.copy()
    gaps[:, COLUMNS[region]] = 7.0  # does not vary
    gaps[0, COLUMNS[~region][0]] = np.nan
    gaps[5] = 0.0  # censored
    gaps[6] = np.nan
    lacking = save(tmp_path / "c.dtseries.nii", gaps, **cortex())
    store = run([series[0], lacking], tmp_path / "frames.h5", frames=FRAMES)
    assert np.bincount(store.run).tolist() == [FRAMES, FRAMES - 2]
    missing = store.missing[np.array([0, 1])]
    assert store.lacking and not missing[0].any()
    np.testing.assert_array_equal(missing[1], region)
    rows = store.rows[np.arange(len(store))]
    assert np.isfinite(rows).all() and not rows[FRAMES:][:, region].any()
    results = json.loads((tmp_path / "frames.run.json").read_text())["results"]
    assert results["values_missing"] == region.sum() * (FRAMES - 2) + 1
    assert (results["runs_lacking_vertices"], results["vertices_missing"]) == (1, 0)


def test_wrong_files_are_all_named_and_the_others_stay_read(values, series, tmp_path, monkeypatch):
    bad = {
        "mesh": r"CORTEX_LEFT is on the 59k mesh, of 59292 vertices; allowed: fs_LR 32k",
        "constant": "does not vary over time at any vertex of visual cortex",
        "short": "has 9 frames with numbers in visual cortex, of 9; allowed: at least 10",
        "cut": "cannot be read",
    }
    paths = {name: tmp_path / f"{name}.dtseries.nii" for name in bad}
    save(paths["mesh"], np.zeros((FRAMES, 2 * 59_292)), half=59_292)
    save(paths["constant"], np.full_like(values, 3.0), **cortex())
    save(paths["short"], values[:9], **cortex())
    paths["cut"].write_bytes(series[0].read_bytes()[:-5000])
    out = tmp_path / "frames.h5"
    with pytest.raises(ValueError, match="4 of 6 time series cannot be used") as error:
        run([series[0], *paths.values(), series[1]], out)
    for name, words in bad.items():
        line = next(line for line in str(error.value).splitlines() if str(paths[name]) in line)
        assert words in line
    assert "2 that can be used are kept in" in str(error.value) and not out.exists()
    read = []
    monkeypatch.setattr(time_series, "_read_run", lambda path, *options: read.append(path) or np.zeros((8, 8921), "f2"))
    new = save(tmp_path / "new.dtseries.nii", values, **cortex())
    run([new, *series], out)
    assert read == [new]
    assert not (tmp_path / "frames.work").exists()


def test_another_number_of_frames_and_changed_files_are_read_again(values, series, tmp_path):
    import_frames(series, 8, PreprocessConfig(), tmp_path / "frames.h5")
    kept = tmp_path / "frames.work"
    first = time_series._read_all(series, 8, 8.0, kept)
    assert time_series._read_all(series, 8, 8.0, kept) == first
    assert not set(time_series._read_all(series, 9, 8.0, kept)) & set(first)
    save(series[1], values[:20], **cortex())
    assert time_series._read_all(series, 8, 8.0, kept)[1] != first[1]


def test_where_everything_is_wrong_it_stops_early(tmp_path):
    files = [tmp_path / f"{number}.dtseries.nii" for number in range(30)]
    for path in files:
        path.write_text("nothing")
    files[0].unlink()
    files[0].symlink_to("gone.nii")
    with pytest.raises(ValueError, match="20 or more of 30 time series cannot be used") as error:
        run(files, tmp_path / "frames.h5")
    assert str(error.value).count("cannot be read") == 19
    assert "0.dtseries.nii is a link to gone.nii, which is missing" in str(error.value)
    state = series_state(str(tmp_path))
    assert state.startswith("30 time series ")
    files[3].write_text("something")
    assert series_state(str(tmp_path)) != state


def test_entries_are_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "1/a.dtseries.nii",
        "1/deep/b.dtseries.nii",
        "2/a.dtseries.nii",
        "2/a.dscalar.nii",
        "2/r.h5",
        "3/r.h5",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("1/._a.dtseries.nii", "1/.git/b.dtseries.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = {
        "1/a.dtseries.nii": ["1/a.dtseries.nii"],
        "1": ["1/a.dtseries.nii", "1/deep/b.dtseries.nii"],
        "*/a.dtseries.nii": ["1/a.dtseries.nii", "2/a.dtseries.nii"],
        "[12]": ["1/a.dtseries.nii", "1/deep/b.dtseries.nii", "2/a.dtseries.nii"],
    }
    for entry, files in expected.items():
        assert [path.as_posix() for path in series_files(entry)] == files
        assert response_stores(entry) == []
    assert response_stores("*/r.h5") == ["2/r.h5", "3/r.h5"]
    assert response_stores("later/r.h5") == ["later/r.h5"]  # which another rule may make
    for entry in ("3", "none*", "gone.dtseries.nii"):
        with pytest.raises(ValueError, match=r"calibrate\.extra: .* names no file; allowed: CIFTI time series"):
            series_files(entry)
    with pytest.raises(ValueError, match=r"none\*\.h5 names no file"):
        response_stores("none*.h5")
    with pytest.raises(ValueError, match=r"2/a\.dscalar\.nii is no CIFTI time series, \*\.dtseries\.nii, as 2/\* asks"):
        series_files("2/*")
    names = [frames_name(entry) for entry in ("/ukb/20227/*.dtseries.nii", "/ukb/20228/*.dtseries.nii", "../x", "..")]
    assert len(set(names)) == 4 and names[0].startswith("ukb-20227-")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "responses",
            lambda values: values[:, :-1],
            r"responses is float16 \(16, 8920\); allowed: floating .*\(16, 8921\)",
        ),
        ("responses", lambda values: values.astype(np.int16), r"responses is int16 .*; allowed: floating numbers"),
        ("responses", lambda values: np.full_like(values, np.nan), r"values read of responses are not finite"),
        ("missing", lambda values: values[:, :-1], r"missing is bool \(2, 8920\); allowed: boolean .*8921\)"),
        ("run", lambda values: values.astype(float), r"run is float64 \(16,\); allowed: integer"),
        ("run", lambda values: values + 1, r"run names runs 1 to 2; allowed: 0 to 1"),
    ],
)
def test_damaged_stores_are_told(series, tmp_path, name, change, words):
    run(series, tmp_path / "frames.h5")
    with h5py.File(tmp_path / "frames.h5", "r+") as file:
        values = change(file[name][:])
        del file[name]
        file[name] = values
    with pytest.raises(ValueError, match=rf"frames\.h5: .*{words}"):
        FrameStore(tmp_path / "frames.h5").rows[np.arange(3)]


def test_other_files_are_no_frames(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["run"] = np.zeros(3, int)
    with pytest.raises(ValueError, match=r"x\.h5: responses, missing missing, found .*neuropictor import-frames"):
        FrameStore(tmp_path / "x.h5")
