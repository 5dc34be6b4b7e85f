"""The gallery in a real browser: loads from a file without errors, sorts, filters, shows what belongs together."""

import html
import io
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_stores import write_samples

from neuropictor.controls.conditions import CONTROLS
from neuropictor.data.reconstructions import Reconstructions, write_reconstructions
from neuropictor.data.stimuli import StimulusWriter
from neuropictor.report import gallery as module
from neuropictor.report.gallery import LARGEST, SMALLEST, _add_sheet, gallery, thumbnail_side

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
IDS = {"01": list(range(200, 260)), "02": list(range(210, 260))}
MODELS = ("refined", "leave_out_v1")
SIDE = 32
CONTROLLED = [201, 230, 259]
CONDITIONS = {"responses": ["1 repeat", "another <b>image's</b> response"]}
CONDITIONS["semantic_swap"] = [f"guidance 2, structure {place}" for place in range(30)]
NARROW = """<body style="margin: 0"><iframe style="border: 0; width: 400px; height: 1200px"></iframe><script>
const frame = document.querySelector("iframe");
frame.src = "gallery.html" + location.hash;
const waiting = setInterval(() => {
  const told = frame.contentDocument.querySelector("#selftest");
  if (told) { clearInterval(waiting); document.body.append(told.cloneNode(true)); }
}, 50);
</script>"""
"""Windows of Chromium have at least 500 pixels; frames in them may be narrower."""


def shade(nsd_id, subject="00", model="seen"):
    """One flat colour for each image, subject and model."""
    place = ["seen", *MODELS].index(model)
    return [(nsd_id - 200) * 4 + 8, 40 + 80 * place, 30 + 60 * int(subject)]


def flat(nsd_id, *whose, samples=()):
    return np.tile(np.array(shade(nsd_id, *whose), np.uint8), (*samples, SIDE, SIDE, 1))


def score(nsd_id, subject, model):
    """A score whose order is not that of the images."""
    return ((nsd_id * 37 + int(subject) * 11) % 101) / 101 if model == "refined" else (nsd_id % 7) / 10


def control_shade(nsd_id, kind, place):
    return [(nsd_id - 200) * 4 + 8, 8 * place + 4, {"responses": 140, "semantic_swap": 230}[kind]]


def other_of(nsd_id, kind, place):
    """The image that took part in a control; one is none of the gallery's."""
    if (kind, place) == ("responses", 0):
        return -1
    return 999 if (nsd_id, kind) == (259, "responses") else 200 + (7 * nsd_id + place) % 60


def write_control(path, kind, subject="01", labels=True):
    names = CONDITIONS[kind]
    shades = [[control_shade(number, kind, place) for place in range(len(names))] for number in CONTROLLED]
    images = np.tile(np.array(shades, np.uint8)[:, :, None, None], (1, 1, SIDE, SIDE, 1))
    others = np.array([[other_of(number, kind, place) for place in range(len(names))] for number in CONTROLLED])
    told = tuple(json.dumps({"name": name, "title": CONTROLS[kind].title}) for name in names) if labels else ()
    write_reconstructions(path, Reconstructions(images, np.array(CONTROLLED), kind, subject, "simulated", told, others))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    with h5py.File(folder / "stimuli.h5", "w") as file:
        writer = StimulusWriter(file, np.array(IDS["01"]), SIDE, "simulated")
        writer.append(np.stack([flat(number) for number in IDS["01"]]))
        names = ["cat" if number % 2 else "boat" for number in IDS["01"]]
        texts = [[f"</script> a {name} & more"] for name in names]
        writer.finish(texts, names, ["sea"] * len(names))
    samples, rows = {}, []
    for subject, ids in IDS.items():
        for model in MODELS:
            count = 1 if model == "refined" else 2
            images = np.stack([flat(number, subject, model, samples=(count,)) for number in ids])
            path = write_samples(folder / f"sub-{subject}" / f"{model}.h5", model, subject, images, ids)
            samples.setdefault(subject, {})[model] = path
            keys = {"protocol": "ours 1", "subject": subject, "model": model}
            rows += [keys | {"nsd_id": n, "two_way": score(n, subject, model), "distance": n / 1000} for n in ids]
    # An image without a score, and a control whose scores come from a table of its own.
    rows[3]["two_way"] = np.nan
    frame = pd.DataFrame(rows)
    frame[frame["model"] == "refined"].to_csv(folder / "scores.csv", index=False)
    frame[frame["model"] != "refined"].to_csv(folder / "controls.csv", index=False)
    scores = [folder / "scores.csv", folder / "controls.csv"]
    controls = {"01": {kind: write_control(folder / "controls" / f"{kind}.h5", kind) for kind in CONDITIONS}}
    gallery(samples, [folder / "stimuli.h5"], scores, folder / "gallery.html", controls)
    (folder / "narrow.html").write_text(NARROW)
    return folder / "gallery.html"


def visit(gallery_page, width=1280, **state):
    """What the page shows, as it says itself; console messages too."""
    asked = "&".join(f"{key}={value}" for key, value in {"selftest": 1, **state}.items())
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    options += ["--allow-file-access-from-files"]
    options += [f"--user-data-dir={gallery_page.parent}/profile", f"--window-size={width},1200"]
    command = [CHROMIUM, *options, "--virtual-time-budget=20000", "--dump-dom", f"{gallery_page.as_uri()}#{asked}"]
    # Virtual time does not wait for images that are being decoded: on a busy machine it may run out before them.
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        found = re.search(r'<pre id="selftest">(.*?)</pre>', done.stdout, re.DOTALL)
        if found:
            break
    assert found, done.stderr[-2000:]
    shown = json.loads(html.unescape(found[1]))
    assert shown["errors"] == []
    assert "CONSOLE" not in done.stderr
    return shown


def check_images(shown):
    """Every tile has the colour of its own image, subject and model, and the score that belongs to it."""
    assert shown["cards"]
    for card in shown["cards"]:
        number, subject = int(card["image"]), card["subject"]
        for tile in card["tiles"]:
            whose = () if tile["model"] == "seen" else (subject, tile["model"])
            assert np.abs(np.subtract(tile["colour"], shade(number, *whose))).max() <= 6, (card, tile)
            if tile["model"] != "seen" and (number, subject, tile["model"]) != (203, "01", "refined"):
                assert float(tile["score"]) == pytest.approx(score(number, subject, tile["model"]), abs=6e-4)


@needs_browser
def test_loads_and_shows_what_belongs_together(page):
    shown = visit(page)
    check_images(shown)
    assert [card["image"] for card in shown["cards"]] == [str(number) for number in IDS["01"][:48]]
    assert {tile["model"] for tile in shown["cards"][0]["tiles"]} == {"seen", *MODELS}
    assert shown["page"] == "Page 1 of 2"
    assert shown["summary"].startswith("60 images, mean two-way of refined: 0.")
    assert shown["cards"][3]["tiles"][1]["score"] == "\N{EN DASH}"


@needs_browser
def test_sorts_by_any_score_of_any_model(page):
    for order, sign in (("best", -1), ("worst", 1)):
        shown = visit(page, subject="02", order=order)
        check_images(shown)
        expected = sorted(IDS["02"], key=lambda number: sign * score(number, 2, "refined"))
        assert [int(card["image"]) for card in shown["cards"]] == expected[:48]
    lowest = visit(page, metric="distance", model="leave_out_v1", order="best", page=1)
    assert [int(card["image"]) for card in lowest["cards"]] == IDS["01"][48:]


@needs_browser
def test_filters_by_category_subject_and_model(page):
    shown = visit(page, category="cat", subject="all", hidden="refined", page=1)
    check_images(shown)
    assert len(shown["cards"]) == 30 + 25 - 48
    assert all(int(card["image"]) % 2 for card in shown["cards"])
    assert {tile["model"] for card in shown["cards"] for tile in card["tiles"]} == {"seen", "leave_out_v1"}
    assert {card["subject"] for card in shown["cards"]} == {"02"}


@needs_browser
def test_best_median_and_worst_views(page):
    ranked = sorted((n for n in IDS["01"] if n != 203), key=lambda number: -score(number, 1, "refined"))
    for show, expected in (("best", ranked[:12]), ("median", ranked[23:35]), ("worst", ranked[-12:][::-1])):
        shown = visit(page, show=show)
        check_images(shown)
        assert [int(card["image"]) for card in shown["cards"]] == expected


@needs_browser
def test_keyboard_opens_images_with_all_scores_and_samples(page):
    shown = visit(page, keys="ArrowRight,ArrowRight,Enter,ArrowRight")
    assert shown["detail"]["title"] == "Image 202, subject 01"
    assert [tile["model"] for tile in shown["detail"]["tiles"]] == ["seen", "refined", "leave_out_v1", "leave_out_v1"]
    for tile in shown["detail"]["tiles"]:
        whose = () if tile["model"] == "seen" else (1, tile["model"])
        assert np.abs(np.subtract(tile["colour"], shade(202, *whose))).max() <= 6
    table = shown["detail"]["scores"]
    assert [row[0] for row in table] == ["score", "two-way ↑", "distance ↓"]
    assert table[0][1:] == ["refined", "leave out v1"]
    assert table[1][1:] == [f"{score(202, 1, model):.3f}" for model in MODELS]
    assert visit(page, keys="w")["cards"][0]["image"] == visit(page, show="worst")["cards"][0]["image"]
    assert visit(page, keys="n")["page"] == "Page 2 of 2"
    assert {visit(page, keys="t")["theme"], visit(page, keys="t,t")["theme"]} == {"light", "dark"}


@needs_browser
@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_sticks_out(page, width):
    assert visit(page, width=width)["overflow"] <= 0


def check_controls(shown, nsd_id):
    """All conditions of an image, or as many as are shown, with their own colours, captions and other images."""
    titles = {"responses": "repeats", "semantic_swap": "semantics"}
    assert len(shown) == len(titles)
    for (kind, word), part in zip(titles.items(), shown, strict=True):
        assert word in part["heading"]
        made = range(len(CONDITIONS[kind]))
        places = made if len(made) <= 24 else np.linspace(0, 29, 24).astype(int).tolist()
        assert [tile["label"] for tile in part["tiles"]] == [CONDITIONS[kind][place] for place in places]
        for place, tile in zip(places, part["tiles"], strict=True):
            other, expected = other_of(nsd_id, kind, place), [control_shade(nsd_id, kind, place)]
            assert tile["other"] == (None if other < 0 else f"with image {other}")
            expected += [shade(other)] if other in IDS["01"] else []
            assert np.abs(np.subtract(tile["colours"], expected)).max() <= 6, (nsd_id, kind, tile)


@needs_browser
def test_controls_are_found_and_shown_with_their_images(page):
    shown = visit(page, keys="ArrowRight,ArrowRight,Enter", images="controls", subject="all")
    check_images(shown)
    assert [int(card["image"]) for card in shown["cards"]] == CONTROLLED
    assert shown["detail"]["title"] == "Image 230, subject 01"
    check_controls(shown["detail"]["controls"], 230)
    headings = [part["heading"] for part in shown["detail"]["controls"]]
    assert headings[0].endswith("control responses, 2 conditions")
    assert headings[1].endswith("control semantic_swap, 24 of 30 conditions")
    without = visit(page, subject="02", open=1)
    assert (without["detail"]["title"], without["detail"]["controls"]) == ("Image 210, subject 02", [])


@needs_browser
def test_nothing_sticks_out_on_a_telephone(page):
    shown = visit(page.with_name("narrow.html"), images="controls", open=3, theme="dark")
    assert shown["width"] == 400
    check_controls(shown["detail"]["controls"], 259)
    assert max(shown["overflow"], shown["detail"]["overflow"]) <= 0


def test_files_that_are_no_control_of_the_subject_are_named(tmp_path):
    ids = {"01": np.array(IDS["01"])}
    wrong = write_control(tmp_path / "of_two.h5", "responses", subject="02")
    with pytest.raises(ValueError, match=r"of_two\.h5: is of subject 02, but was given as subject 01's"):
        module.read_controls({"01": {"responses": wrong}}, ids)
    with pytest.raises(ValueError, match=r"of_two\.h5: .* no reconstructions were given; .* subjects 01"):
        module.read_controls({"02": {"responses": wrong}}, ids)
    bare = write_control(tmp_path / "bare.h5", "responses", labels=False)
    with pytest.raises(ValueError, match=r"bare\.h5: has no labels"):
        module.read_controls({"01": {"responses": bare}}, ids)


def test_many_images_of_controls_are_thinned_out(tmp_path, monkeypatch):
    path = write_control(tmp_path / "semantic_swap.h5", "semantic_swap")
    monkeypatch.setattr(module, "MOST_TILES", 2 * 24)
    (control,) = module.read_controls({"01": {"semantic_swap": path}}, {"01": np.array(IDS["01"])})["01"]
    assert control.nsd_id.tolist() == [201, 259]
    assert control.others[1, 23] == other_of(259, "semantic_swap", 29)
    assert control.reduced(8).shape == (2, 24, 8, 8, 3)


def test_page_is_whole_and_asks_nobody(page):
    text = page.read_text()
    assert "SIMULATED" in text[text.index("<h1>") : text.index("</h1>")]
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
    assert text.count("</script>") == text.count("<script")
    assert not list(page.parent.glob("gallery*.partial*"))


def test_real_sizes_still_fit():
    def stored(images, samples):
        return SimpleNamespace(shape=(images, samples, 512, 512, 3))

    four = {subject: dict.fromkeys("abcde", stored(982, 1)) for subject in (1, 2, 5, 7)}
    assert thumbnail_side(512, 982, four) == 88
    assert thumbnail_side(64, 150, {"01": {"a": stored(982, 1)}}) == 64
    assert thumbnail_side(512, 150, {}) == LARGEST
    assert thumbnail_side(512, 982, four, module.MOST_TILES) == 64
    assert thumbnail_side(512, 982, {"01": {"a": stored(982, 99)}}) == SMALLEST


def test_sheets_of_many_images_are_not_larger_than_webp_allows():
    data, sheets = {"sprites": {}}, {}
    _add_sheet(data, sheets, "many", np.zeros((2048 * 40 + 1, 1, 8, 8, 3), np.uint8), 8)
    with Image.open(io.BytesIO(sheets["many"])) as sheet:
        assert max(sheet.size) <= 16_383
        assert sheet.width == data["sprites"]["many"]["columns"] * 8
