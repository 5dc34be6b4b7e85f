"""The authors' preprocessed maps, as small made files of their format."""

import json
import re

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
    import_maps(**files, subject="01", config=config(), out=tmp_path / "responses.h5")
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
    import_maps(**files, subject="01", config=config(validation_images=0), out=tmp_path / "r.h5")
    assert len(ResponseStore(tmp_path / "r.h5").images("train")) == 4


def refused(files, tmp_path, error=ValueError, **changes):
    with pytest.raises(error) as found:
        import_maps(**{**files, **changes}, subject="01", config=config(), out=tmp_path / "r.h5")
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


def relabelled(files, tmp_path, labels=LABELS, images=None):
    """The same maps under other labels, or other maps."""
    path = tmp_path / "other.h5"
    with h5py.File(files["maps"]) as source, h5py.File(path, "w") as file:
        file["labels"] = labels
        if images is None:
            source.copy("images", file)
        else:
            shape = (len(labels), *MAP_SHAPE)
            file.create_dataset("images", shape, np.float32, chunks=(1, 128, 256), fillvalue=images)[0] = images
    return path


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS + 1, "of the 3 test images in .*test.npy, 0 are among the 6 labels, and 2 if the labels are counted"),
        (np.array([1, 2, 3, 4, 5, 2951]), "0 are among the 6 labels, and 1 if the labels are counted from 1"),
        (
            np.array([7, 2990, 2951, 2991, 72_001, 9]),
            "1 are among the 6 labels, and 3 if the labels are counted from 1",
        ),
        (np.array([1, 2, 3, 4, 5, 6]), "0 are among the 6 labels, and 0 if"),
        (np.array([2950, 2990, 2950, 2990, 2950, 2990]), "allowed: labels .* of test images and of others"),
        (LABELS + 0.5, "image numbers 3.5 to 60000.5; allowed: NSD's, counted from 0"),
        (np.where(LABELS == 3, np.nan, LABELS), "image numbers nan to nan"),
    ],
)
def test_labels_of_other_images_or_counted_from_1_are_refused(files, tmp_path, labels, words):
    assert re.search("other.h5.*" + words, refused(files, tmp_path, maps=relabelled(files, tmp_path, labels)))


def test_maps_without_numbers_or_without_variation_are_refused_and_gaps_counted(files, values, tmp_path):
    for value, words in ((np.nan, "map 0 has no finite number"), (1, "all maps are the same in visual cortex")):
        assert words in refused(files, tmp_path, maps=relabelled(files, tmp_path, images=value))
    path = relabelled(files, tmp_path)
    with h5py.File(path, "r+") as file:
        row = np.argwhere(load_geometry().raster == 0)[0, 0]
        file["images"][2, CROP_ROWS.start + row, :] = np.nan
    import_maps(**{**files, "maps": path}, subject="01", config=config(), out=tmp_path / "r.h5")
    found = json.loads((tmp_path / "r.run.json").read_text())["results"]["values_missing"]
    assert found == (ResponseStore(tmp_path / "r.h5").responses([2]) == 0).sum() > 0


def test_damaged_files_are_named(files, tmp_path):
    for name, damage in (("maps", lambda whole: b""), ("maps", lambda whole: whole[: len(whole) // 2])):
        path = tmp_path / "damaged"
        path.write_bytes(damage(files[name].read_bytes()))
        assert str(path) in refused(files, tmp_path, **{name: path})
    for name in ("mask", "test_images"):
        whole = files[name].read_bytes()
        for content in (b"", whole[:99], whole[:60] + b"\xff" * 60 + whole[120:]):
            path = tmp_path / f"damaged{files[name].suffix}"
            path.write_bytes(content)
            assert str(path) in refused(files, tmp_path, **{name: path})


def test_a_shifted_mask_is_refused(files, tmp_path):
    with np.load(files["mask"]) as file:
        np.savez_compressed(tmp_path / "mask.npz", images=np.roll(file["images"], 9, axis=2))
    with pytest.raises(ValueError, match=r"its visual cortex and the shipped one overlap by 0\.9.*at least 0\.99"):
        read_mask(tmp_path / "mask.npz")
