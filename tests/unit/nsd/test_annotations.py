import io
import json
import tracemalloc

import pandas as pd
import pytest

from neuropictor.nsd import annotations, keys
from neuropictor.nsd.annotations import load_annotations, parse_crop_box, stream_members


@pytest.fixture
def info():
    return pd.DataFrame(
        {
            "cocoId": [900, 7, 7],
            "cocoSplit": ["train2017", "val2017", "train2017"],
            "cropBox": ["(0, 0, 0.25, 0.0)", "(0, 0, 0, 0)", "(0, 0, 0, 0)"],
        }
    )


@pytest.fixture
def root(tmp_path):
    things = [{"id": 1, "name": "cat"}, {"id": 2, "name": "boat"}]
    images = [{"id": 900, "width": 400, "height": 300}, {"id": 7, "width": 300, "height": 300}]
    content = {
        ("captions", "train2017"): [(900, "one "), (900, "two"), (7, "mine")],
        ("captions", "val2017"): [(7, text) for text in "abcdef"],
        # The cat is larger but lies wholly in the quarter that NSD cuts away.
        ("instances", "train2017"): [(900, 1, [0, 0, 100, 300], 20_000), (900, 2, [150, 0, 100, 100], 8_000)],
        ("instances", "val2017"): [(7, 2, [0, 0, 10, 10], 50), (7, 1, [0, 0, 20, 20], 300)],
        ("stuff", "train2017"): [(900, 2, [0, 0, 400, 300], 1.0)],
        ("stuff", "val2017"): [],
    }
    for (kind, split), rows in content.items():
        if kind == "captions":
            annotations = [{"image_id": image, "caption": text} for image, text in rows]
        else:
            annotations = [{"image_id": i, "category_id": c, "bbox": box, "area": area} for i, c, box, area in rows]
        path = tmp_path / keys.annotations(kind, split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "categories": things, "annotations": annotations}))
    return tmp_path


def test_joins_on_split_and_id(root, info):
    table = load_annotations(root, info)
    assert table.index.tolist() == [0, 1, 2]
    assert table["captions"].tolist() == [["one", "two", "one", "two", "one"], list("abcde"), ["mine"] * 5]
    assert table["category"].tolist() == ["boat", "cat", ""]
    assert table["background"].tolist() == ["boat", "", ""]


def test_keeps_the_order_asked_for(root, info):
    table = load_annotations(root, info, [2, 0])
    assert table.index.tolist() == [2, 0] and table.loc[2, "captions"][0] == "mine"


def test_errors(root, info):
    with pytest.raises(ValueError, match="nsd_id 73000 is not in the stimulus table; allowed: 0 to 2"):
        load_annotations(root, info, [0, 73_000])
    info.loc[1, "cocoId"] = 5
    with pytest.raises(ValueError, match=r"captions_val2017\.json has no caption of COCO image 5"):
        load_annotations(root, info)
    with pytest.raises(ValueError, match=r"cropBox 'wide' is not four fractions .* e\.g\. \(0, 0"):
        parse_crop_box("wide")
    (root / keys.annotations("stuff", "train2017")).unlink()
    with pytest.raises(FileNotFoundError, match=r"stuff_train2017\.json is missing; unpack COCO's annotations"):
        load_annotations(root, info, [0])


CONTENT = {
    "info": {"year": 2017, "words": ["a", "]", "}"]},
    "images": [{"id": number, "name": f'\u00e9 {number} " [{{'} for number in range(40)],
    "licenses": [],
    "version": 12,
    "annotations": [{"area": 0.5 * number, "segmentation": [[1.25] * number]} for number in range(30)],
    "none": None,
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("at_once", [1, 7, 100, 2**20])
def test_streamed_text_is_what_json_reads(monkeypatch, at_once, indent):
    monkeypatch.setattr(annotations, "_AT_ONCE", at_once)
    text = json.dumps(CONTENT, indent=indent, ensure_ascii=bool(indent))
    streamed = {name: [] for name in ("images", "licenses", "annotations")}
    for name, value in stream_members(io.StringIO(text)):
        if name in streamed:
            streamed[name].append(value)
        else:
            streamed[name] = value
    assert streamed == json.loads(text)
    assert not list(stream_members(io.StringIO(" { } ")))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "it ends too early"),
        (lambda text: text[:-1], "it ends too early"),
        (lambda text: "", "it ends too early"),
        (lambda text: f"[{text}]", r"'\[' where one of '\{' is expected"),
        (lambda text: text.replace(', "categories"', ' "categories"'), "where one of ',}' is expected"),
        (lambda text: text.replace('"width": 400', '"width": NaN'), "NaN is no number of JSON's"),
        (lambda text: text.replace('"width": 400', '"wide": 400'), "KeyError.*width"),
        (lambda text: text.replace('"bbox": [0, 0, 100, 300]', '"bbox": null'), "TypeError"),
        (lambda text: text.replace('"image_id": 900', '"image_id": [900]'), "unhashable"),
        (lambda text: text.replace('"image_id": 900, ', "", 1), "KeyError.*image_id"),
        (lambda text: text.replace('"width": 400', '"width": ' + "[" * 10**5), "RecursionError"),
    ],
)
def test_damaged_files_are_named(root, info, damage, words):
    path = root / keys.annotations("instances", "train2017")
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=rf"instances_train2017\.json is cut off or damaged \(.*{words}.* again"):
        load_annotations(root, info)


def test_captions_that_are_no_texts_are_named(root, info):
    path = root / keys.annotations("captions", "val2017")
    path.write_text(path.read_text().replace('"caption": "a"', '"caption": null'))
    with pytest.raises(ValueError, match=r"captions_val2017\.json is cut off or damaged \(AttributeError"):
        load_annotations(root, info)


def test_text_that_is_no_json_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(annotations, "_AT_ONCE", 10)
    monkeypatch.setattr(annotations, "_LONGEST", 100)
    file = io.StringIO('{"images": [{"id": oops}, ' + "1, " * 1000 + "]}")
    with pytest.raises(ValueError, match="Expecting value"):
        list(stream_members(file))
    assert file.tell() < 200


def test_annotation_files_are_never_held_whole(root, info, monkeypatch):
    """COCO's instances take gigabytes as Python's objects."""
    monkeypatch.setattr(annotations, "_AT_ONCE", 2**14)
    path = root / keys.annotations("instances", "train2017")
    content = json.loads(path.read_text())
    other = {"image_id": -1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "segmentation": [list(range(500))]}
    content["annotations"] += [other] * 1000
    path.write_text(json.dumps(content))
    tracemalloc.start()
    try:
        load_annotations(root, info)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()
