import subprocess
import sys

import h5py
import numpy as np
import pytest
from small_stores import SIZE, smooth_images, write_samples, write_stimuli

from neuropictor.data.reconstructions import Reconstructions, read_reconstructions, write_reconstructions
from neuropictor.data.stimuli import StimulusStore, StimulusWriter, frame_images, resize_images


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return StimulusStore(write_stimuli(tmp_path_factory.mktemp("stimuli") / "stimuli.h5"))


def test_images_come_in_the_order_asked_for(store):
    ids = [119, 0, 7, 8, 0]
    assert np.array_equal(store.images(ids), smooth_images(ids))
    assert store.images([]).shape == (0, SIZE, SIZE, 3)
    assert (store.size, store.data, len(store)) == (SIZE, "simulated", 95)


def test_texts(store):
    assert store.captions([4, 3]) == [["a cat", "number 4"], ["a boat", "number 3"]]
    assert store.category([3, 4, 5]).tolist() == ["boat", "cat", "dog"]
    assert store.background([3, 4]).tolist() == ["city", "sea"]
    assert store.categories == ["boat", "cat", "dog"]


def test_several_stores_are_read_as_one(store, tmp_path):
    both = StimulusStore(*(write_stimuli(tmp_path / f"{i}.h5", ids) for i, ids in enumerate([(0, 7, 9), (5, 7, 119)])))
    assert both.nsd_id.tolist() == [0, 5, 7, 9, 119]
    ids = [119, 0, 7, 5, 9, 7]
    assert np.array_equal(both.images(ids), store.images(ids))
    assert both.captions(ids) == store.captions(ids)
    assert both.category(ids).tolist() == store.category(ids).tolist()
    with pytest.raises(ValueError, match=r"0\.h5, .*1\.h5: no image 8 among 5"):
        both.images([8])
    with h5py.File(tmp_path / "1.h5", "r+") as file:
        file.attrs["data"] = "nsd"
    with pytest.raises(ValueError, match=r"1\.h5 holds nsd images .*0\.h5 simulated images .*prepare both alike"):
        StimulusStore(tmp_path / "0.h5", tmp_path / "1.h5")
    with h5py.File(tmp_path / "small.h5", "w") as file:
        writer = StimulusWriter(file, np.array([8]), 4, "simulated")
        writer.append(np.zeros((1, 4, 4, 3), np.uint8))
        writer.finish([["a"]], [""], [""])
    with pytest.raises(
        ValueError, match=r"small\.h5 holds simulated images of 4 pixels, .* of 16; .*prepare both alike"
    ):
        StimulusStore(tmp_path / "0.h5", tmp_path / "small.h5")


def test_images_are_framed_to_a_share_of_their_side():
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 10:30] = 200  # the middle half
    assert np.array_equal(frame_images(image, 20, 1.0), resize_images(image, 20))
    assert (frame_images(image, 20, 0.5) == 200).all()
    framed = frame_images(np.stack([image, image]), 40, 2.0)
    assert framed.shape == (2, 40, 40, 3)
    assert (framed[:, :10] == 127).all() and (framed[:, :, 30:] == 127).all()
    assert np.array_equal(framed[:, 10:30, 10:30], resize_images(np.stack([image, image]), 20))
    assert frame_images(image, 40, 180.0).shape == (40, 40, 3)


def test_own_images_stand_beside_those_of_nsd_under_other_numbers(tmp_path):
    paths = [write_stimuli(tmp_path / "nsd.h5", (0, 7)), write_stimuli(tmp_path / "own.h5", (8, 119))]
    for path in paths:
        with h5py.File(path, "r+") as file:
            file.attrs["data"] = path.stem
    for order in (paths, paths[::-1]):
        both = StimulusStore(*order)
        assert both.data == "own" and np.array_equal(both.images([119, 0]), smooth_images([119, 0]))


@pytest.mark.parametrize("data", ["simulated", "nsd"])
def test_an_image_of_coco_is_nsd_s_even_if_others_crop_and_describe_it(tmp_path, data):
    paths = [write_stimuli(tmp_path / f"{name}.h5", ids) for name, ids in (("lab", (5, 7, 9)), ("nsd", (7, 9, 119)))]
    with h5py.File(paths[1], "r+") as file:
        file.attrs["data"] = data
    with h5py.File(paths[0], "r+") as file:
        file.attrs["data"] = "own"
        file["name"] = [f"COCO_train2014_{number:012}.jpg" for number in (5, 7, 9)]
        file["images"][1] = 0
        del file["checksum"]
        file["captions"][2] = "another"
    for order in (paths, paths[::-1]):
        both = StimulusStore(*order)
        assert both.nsd_id.tolist() == [5, 7, 9, 119] and both.of_coco.all()
        assert both.data == {"nsd": "own"}.get(data, data)
        assert np.array_equal(both.images([7, 9]), StimulusStore(paths[1]).images([7, 9]))
        assert both.captions([9]) == StimulusStore(paths[1]).captions([9])
    assert not StimulusStore(paths[0]).images([7]).any()  # its own picture, where it stands alone
    with h5py.File(paths[0], "r+") as file:
        file["name"][1] = "7"
    with pytest.raises(ValueError, match=r"image 7 of .*lab\.h5 is another, .* than image 7 of .*nsd\.h5"):
        StimulusStore(*paths)


@pytest.mark.parametrize(
    ("data", "changed"), [("own", "captions"), ("own", "images"), ("own", "checksum"), ("simulated", "category")]
)
def test_one_number_for_different_images_is_refused(tmp_path, monkeypatch, data, changed):
    monkeypatch.setattr("neuropictor.data.stimuli._COMPARED_AT_ONCE", 1)
    paths = [write_stimuli(tmp_path / f"{name}.h5", ids) for name, ids in (("a", (0, 7, 9)), ("b", (5, 7, 9, 119)))]
    for path in paths:
        with h5py.File(path, "r+") as file:
            file.attrs["data"] = data
    with monkeypatch.context() as patch:
        patch.setattr(StimulusStore, "_read", None)  # checksums suffice
        assert StimulusStore(*paths).nsd_id.tolist() == [0, 5, 7, 9, 119]
    with h5py.File(paths[1], "r+") as file:
        file[changed][2] = np.zeros_like(file[changed][2]) if changed in ("images", "checksum") else "another"
        if changed == "images":
            del file["checksum"]  # as in older files
    with pytest.raises(
        ValueError, match=r"image 9 of .*b\.h5 is another, .* than image 9 of .*a\.h5; allowed: one image"
    ):
        StimulusStore(*paths)
    assert StimulusStore(paths[1]).nsd_id.tolist() == [5, 7, 9, 119]


def test_unknown_image_is_named(store):
    for wrong in (80, 500, -1):
        with pytest.raises(ValueError, match=f"no image {wrong} "):
            store.rows([3, wrong])


def test_missing_file_and_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        StimulusStore(tmp_path / "none.h5")
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["images"] = np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match=r"nsd_id, captions, category, background, data, size missing"):
        StimulusStore(tmp_path / "part.h5")


@pytest.mark.parametrize(
    ("name", "values", "allowed"),
    [
        ("images", np.zeros((2, SIZE, SIZE, 3), np.uint16), rf"uint8 numbers of shape \(2, {SIZE}, {SIZE}, 3\)"),
        ("images", np.zeros((2, SIZE, 8, 3), np.uint8), rf"uint8 numbers of shape \(2, {SIZE}, {SIZE}, 3\)"),
        ("images", np.uint8(3), "uint8 numbers"),
        ("nsd_id", np.zeros(2), r"integer or unsigned integer numbers of shape \(2\)"),
        ("nsd_id", np.zeros(3, int), r"integer or unsigned integer numbers of shape \(2\)"),
        ("captions", np.array(["a", "b"], object), r"text numbers of shape \(2, any\)"),
        ("category", np.zeros(2), r"text numbers of shape \(2\)"),
        ("background", np.array(["a"], object), r"text numbers of shape \(2\)"),
    ],
)
def test_parts_of_other_types_and_lengths_are_refused(tmp_path, name, values, allowed):
    with h5py.File(write_stimuli(tmp_path / "stimuli.h5", (0, 7)), "r+") as file:
        del file[name]
        file[name] = values
    with pytest.raises(ValueError, match=rf"stimuli\.h5: {name} is .*; allowed: {allowed}"):
        StimulusStore(tmp_path / "stimuli.h5")


def test_writer_checks_order_and_counts_and_keeps_five_clean_captions(tmp_path):
    for wrong in ([3, 2], [3, 3]):
        with h5py.File(tmp_path / "a.h5", "w") as file, pytest.raises(ValueError, match="strictly ascending"):
            StimulusWriter(file, np.array(wrong), 8, "nsd")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        writer = StimulusWriter(file, np.array([2, 3]), 8, "nsd")
        complete = ([["a"], ["b"]], ["cat", ""], ["", ""])
        with pytest.raises(ValueError, match=r"stimuli: 0 images, .* found; 2 of each are needed"):
            writer.finish(*complete)
        writer.append(np.zeros((2, 8, 8, 3), np.uint8))
        for place, words in enumerate(("1 caption lists", "1 categories", "1 backgrounds")):
            with pytest.raises(ValueError, match=rf"{words}.* found; 2 of each are needed"):
                writer.finish(*(values[: 1 + (place != other)] for other, values in enumerate(complete)))
        writer.finish([[f" line\n {i} " for i in range(7)], ["müde Katze"]], ["cat", ""], ["", ""])
    store = StimulusStore(tmp_path / "b.h5")
    assert store.captions([2]) == [[f"line {i}" for i in range(5)]]
    assert store.captions([3]) == [["müde Katze"]]
    assert store.categories == ["cat"]


def test_resize_averages_areas():
    image = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    small = resize_images(image[None, None], 3)
    expected = image.reshape(3, 2, 3, 2, 3).mean((1, 3))
    assert small.shape == (1, 1, 3, 3, 3)
    assert np.abs(small[0, 0] - expected).max() <= 0.5
    assert resize_images(image, 6) is image
    assert resize_images(image[None], 12).shape == (1, 12, 12, 3)


def test_reconstructions_round_trip(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 2, 8, 8, 3), dtype=np.uint8)
    found = read_reconstructions(write_samples(tmp_path / "sub" / "ridge.h5", "ridge", "05", images))
    assert np.array_equal(found.images, images)
    assert (found.model, found.subject, found.data, found.nsd_id[0]) == ("ridge", "05", "simulated", 100)
    with pytest.raises(ValueError, match="allowed is uint8"):
        write_reconstructions(tmp_path / "x.h5", Reconstructions(images[:, 0], np.arange(20), "ridge", "01", "nsd"))
    assert not (tmp_path / "x.h5").exists()
    with pytest.raises(FileNotFoundError, match="sample"):
        read_reconstructions(tmp_path / "x.h5")


def test_stores_do_not_load_torch():
    modules = "data.responses, neuropictor.data.stimuli, neuropictor.data.preprocess, neuropictor.evaluation.tables"
    code = f"import neuropictor.{modules}, neuropictor.report.figures, neuropictor.report.data_card, sys"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)
