import pickle

import h5py
import numpy as np
import pytest
from small_stores import TEST, TRAIN, VALIDATION, write_responses

from neuropictor.data.responses import ResponseStore, ResponseWriter


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_responses(tmp_path_factory.mktemp("responses") / "responses.h5", subject="02")


@pytest.fixture
def store(path):
    return ResponseStore(path)


def test_reads_trials_in_any_order_with_repeats(store, path):
    with h5py.File(path) as file:
        whole = file["responses"][:]
    wanted = [5, 3, 4, 200, 3, 0, len(store) - 1]
    values = store.responses(wanted)
    assert values.dtype == np.float32
    assert np.array_equal(values, whole[wanted].astype(np.float32))
    assert store.responses([]).shape == (0, store.n_vertices)


def test_attributes_and_splits(store):
    assert (store.subject, store.data, store.mesh, store.beta_version) == ("02", "simulated", "fsaverage5", "b3")
    for split, numbers in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        assert store.images(split).tolist() == list(numbers)
    with pytest.raises(ValueError, match=r"'tset'.*allowed are train, validation, test"):
        store.images("tset")


def test_mean_response_averages_the_repeats_of_each_image(store):
    ids = [107, 3, 119, 3]
    expected = [store.responses(np.flatnonzero(store.nsd_id == number)).mean(0) for number in ids]
    assert np.allclose(store.mean_response(ids), expected, atol=1e-6)
    firsts = [np.flatnonzero(store.nsd_id == number)[0] for number in ids]
    assert np.array_equal(store.mean_response(ids, 1), store.responses(firsts))
    assert store.trials(107).tolist() == np.flatnonzero(store.nsd_id == 107).tolist()
    assert store.repeat[store.trials(107)].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="never saw image 99"):
        store.mean_response([3, 99])


def test_wrong_trials_are_refused(store):
    with pytest.raises(IndexError, match="trial -1 does not exist"):
        store.responses([-1])
    with pytest.raises(IndexError, match=f"trial {len(store)} does not exist"):
        store.responses([0, len(store)])


def test_survives_pickling_to_a_worker(store):
    before = store.responses([1, 2])
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy.responses([1, 2]), before)


def test_missing_file_and_missing_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        ResponseStore(tmp_path / "none.h5")
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["responses"] = np.zeros((2, 3), np.float16)
    with pytest.raises(ValueError, match=r"nsd_id.*mesh missing"):
        ResponseStore(tmp_path / "part.h5")


def test_a_group_in_the_place_of_a_data_set_is_refused(path, tmp_path):
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        del file["responses"]
        file.create_group("responses")
    with pytest.raises(ValueError, match=r"copy\.h5: responses is a group; allowed: data sets"):
        ResponseStore(copy)


def test_missing_vertices_are_kept_and_none_in_older_stores(path, tmp_path):
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    assert ResponseStore(copy).missing.sum() == 0
    with h5py.File(copy, "r+") as file:
        file["missing"][3] = True
    assert np.flatnonzero(ResponseStore(copy).missing).tolist() == [3]
    with h5py.File(copy, "r+") as file:
        del file["missing"]
    assert ResponseStore(copy).missing.tolist() == [False] * 40
    with h5py.File(copy, "r+") as file:
        file["missing"] = np.zeros(39, bool)
    with pytest.raises(ValueError, match=r"copy\.h5: missing is bool \(39,\); allowed: boolean .*\(40\)"):
        ResponseStore(copy)


def test_writer_refuses_an_incomplete_store(tmp_path):
    with h5py.File(tmp_path / "r.h5", "w") as file:
        writer = ResponseWriter(file, 4, 3, subject="01", data="nsd", beta_version="b3", mesh="fsaverage")
        writer.append(np.zeros((3, 3)))
        fields = {name: np.zeros(4) for name in ("nsd_id", "session", "repeat", "split")}
        with pytest.raises(ValueError, match=r"3 trials written of 4"):
            writer.finish(ncsnr=np.zeros(3), **fields)
        writer.append(np.zeros((1, 3)))
        with pytest.raises(ValueError, match="session: shape"):
            writer.finish(ncsnr=np.zeros(3), **{**fields, "session": np.zeros(2)})
    assert h5py.File(tmp_path / "r.h5")["responses"].chunks is None  # in one piece, to be mapped into memory


def test_without_validation_images_some_training_images_choose_penalties(store, tmp_path):
    assert [ids.tolist() for ids in store.fitting_images()] == [list(TRAIN), list(VALIDATION)]
    path = write_responses(tmp_path / "responses.h5")
    with h5py.File(path, "r+") as file:
        file["split"][file["split"][:] == 1] = 0
    train, validation = ResponseStore(path).fitting_images()
    assert len(validation) == 10 and len(train) == 65  # of fewer than 200, ten
    assert sorted([*train, *validation]) == [*TRAIN, *VALIDATION]
