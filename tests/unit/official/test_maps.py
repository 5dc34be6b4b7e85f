"""The authors' preprocessed maps, as small made files of their format."""

import json

import h5py
import numpy as np
import pytest

from neuropictor.config import PreprocessConfig
from neuropictor.data.responses import ResponseStore
from neuropictor.official.maps import MAP_SHAPE, import_maps, read_mask
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import CROP_COLUMNS, CROP_ROWS

LABELS = np.array([7, 3, 2950, 12, 60_000, 2990])


@pytest.fixture(scope="module")
def values():
    return (3 * np.random.default_rng(0).standard_normal((len(LABELS), load_geometry().n_vertices))).astype(np.float32)


@pytest.fixture(scope="module")
def files(values, tmp_path_factory):
    """Maps of six images, drawn by the raster, with foreign values in other cortex; mask; two test images."""
    folder = tmp_path_factory.mktemp("official")
    raster = load_geometry().raster
    with h5py.File(folder / "01_norm.h5", "w") as file:
        images = file.create_dataset("images", (len(LABELS), *MAP_SHAPE), np.float32, chunks=(1, 128, 256))
        for row, value in enumerate(values):
            images[row, CROP_ROWS, CROP_COLUMNS] = np.where(raster >= 0, value[raster], 99)
        file["labels"] = LABELS
    mask = np.zeros((1, *MAP_SHAPE), np.float32)
    mask[0, CROP_ROWS, CROP_COLUMNS] = np.select([raster >= 0, raster == -1], [1, -1], 0)
    # The authors' raster differs in 0.16 % of the pixels, on borders.
    edge = np.argwhere(mask[0] == 1)[::400]
    mask[0, edge[:, 0], edge[:, 1]] = -1
    np.savez_compressed(folder / "vc_roi.npz", images=mask)
    np.save(folder / "test.npy", np.array([2990, 2950, 72_000]))
    return {"maps": folder / "01_norm.h5", "mask": folder / "vc_roi.npz", "test_images": folder / "test.npy"}


def config(**changes):
    return PreprocessConfig(**{"validation_images": 1, "clip": 6.0, **changes})


def test_maps_become_the_responses_they_were_drawn_from(files, values, tmp_path):
    import_maps(**files, subject=1, config=config(), out=tmp_path / "responses.h5")
    store = ResponseStore(tmp_path / "responses.h5")
    np.testing.assert_allclose(store.responses(np.arange(6)), np.clip(values, -6, 6), atol=4e-3)
    assert store.nsd_id.tolist() == LABELS.tolist() and set(store.repeat) == {0}
    assert store.images("test").tolist() == [2950, 2990]
    assert len(store.images("validation")) == 1 and len(store.images("train")) == 3
    assert (store.data, store.beta_version, store.mesh) == ("nsd", "neuropictor_maps", "fs_LR_32k")
    assert np.isnan(store.ncsnr).all()
    record = json.loads((tmp_path / "responses.run.json").read_text())
    assert record["results"]["splits"]["test"] == {"trials": 2, "images": 2}


def test_all_own_images_may_train(files, tmp_path):
    import_maps(**files, subject=1, config=config(validation_images=0), out=tmp_path / "r.h5")
    assert len(ResponseStore(tmp_path / "r.h5").images("train")) == 4


def refused(files, tmp_path, error=ValueError, **changes):
    with pytest.raises(error) as found:
        import_maps(**{**files, **changes}, subject=1, config=config(), out=tmp_path / "r.h5")
    assert not (tmp_path / "r.h5").exists()
    return str(found.value)


def test_pickles_are_not_opened(files, tmp_path):
    np.save(tmp_path / "test.npy", np.array({0: [1, 2]}, dtype=object), allow_pickle=True)
    assert "test.npy cannot be used without unpickling" in refused(files, tmp_path, test_images=tmp_path / "test.npy")
    np.savez(tmp_path / "mask.npz", images=np.array([{}], dtype=object))
    assert "expected vc_roi.npz with images (1, 1023, 2514)" in refused(files, tmp_path, mask=tmp_path / "mask.npz")


def test_other_files_are_named(files, tmp_path):
    for name, words in (("maps", "0_norm"), ("mask", "expected vc_roi.npz"), ("test_images", "or nsd_expdesign.mat")):
        message = refused(files, tmp_path, FileNotFoundError, **{name: tmp_path / "absent"})
        assert "absent is missing" in message and words.replace("0_norm", "01_norm.h5") in message
    with h5py.File(tmp_path / "small.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((2, 8, 9)), np.zeros(2)
    message = refused(files, tmp_path, maps=tmp_path / "small.h5")
    assert "'images': (2, 8, 9)" in message and "allowed: images [N, 1023, 2514] and labels [N]" in message
    np.save(tmp_path / "test.npy", np.array([1, 73_000]))
    message = refused(files, tmp_path, test_images=tmp_path / "test.npy")
    assert "image numbers 1 to 73000; allowed: NSD's, counted from 0, 0 to 72999" in message


def test_a_shifted_mask_is_refused(files, tmp_path):
    with np.load(files["mask"]) as file:
        np.savez_compressed(tmp_path / "mask.npz", images=np.roll(file["images"], 9, axis=2))
    with pytest.raises(ValueError, match=r"its visual cortex and the shipped one overlap by 0\.9.*at least 0\.99"):
        read_mask(tmp_path / "mask.npz")
