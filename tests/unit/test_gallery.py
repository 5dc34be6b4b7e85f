"""The gallery in a real browser: loads from a file without errors, sorts, filters, shows what belongs together."""

import html
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from small_stores import write_samples

from neuropictor.data.stimuli import StimulusWriter
from neuropictor.evaluation.gallery import LARGEST, SMALLEST, gallery, thumbnail_side

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
IDS = {1: list(range(200, 260)), 2: list(range(210, 260))}
MODELS = ("refined", "leave_out_v1")
SIDE = 32


def shade(nsd_id, subject=0, model="seen"):
    """One flat colour for each picture, subject and model."""
    place = ["seen", *MODELS].index(model)
    return [(nsd_id - 200) * 4 + 8, 40 + 80 * place, 30 + 60 * subject]


def flat(nsd_id, *whose, samples=()):
    return np.tile(np.array(shade(nsd_id, *whose), np.uint8), (*samples, SIDE, SIDE, 1))


def score(nsd_id, subject, model):
    """A score whose order is not that of the pictures."""
    return ((nsd_id * 37 + subject * 11) % 101) / 101 if model == "refined" else (nsd_id % 7) / 10


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    with h5py.File(folder / "stimuli.h5", "w") as file:
        writer = StimulusWriter(file, np.array(IDS[1]), SIDE, "simulated")
        writer.append(np.stack([flat(number) for number in IDS[1]]))
        names = ["cat" if number % 2 else "boat" for number in IDS[1]]
        texts = [[f"</script> a {name} & more"] for name in names]
        writer.finish(texts, names, ["sea"] * len(names))
    samples, rows = {}, []
    for subject, ids in IDS.items():
        for model in MODELS:
            count = 1 if model == "refined" else 2
            pictures = np.stack([flat(number, subject, model, samples=(count,)) for number in ids])
            path = write_samples(folder / f"sub-{subject:02d}" / f"{model}.h5", model, subject, pictures, ids)
            samples.setdefault(subject, {})[model] = path
            keys = {"protocol": "ours 1", "subject": subject, "model": model}
            rows += [keys | {"nsd_id": n, "two_way": score(n, subject, model), "distance": n / 1000} for n in ids]
    # A picture without a score, and a control whose scores come from a table of its own.
    rows[3]["two_way"] = np.nan
    frame = pd.DataFrame(rows)
    frame[frame["model"] == "refined"].to_csv(folder / "scores.csv", index=False)
    frame[frame["model"] != "refined"].to_csv(folder / "controls.csv", index=False)
    gallery(samples, [folder / "stimuli.h5"], [folder / "scores.csv", folder / "controls.csv"], folder / "gallery.html")
    return folder / "gallery.html"


def visit(gallery_page, width=1280, **state):
    """What the page shows, as it says itself; console messages too."""
    asked = "&".join(f"{key}={value}" for key, value in {"selftest": 1, **state}.items())
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    options += [f"--user-data-dir={gallery_page.parent}/profile", f"--window-size={width},1200"]
    command = [CHROMIUM, *options, "--virtual-time-budget=20000", "--dump-dom", f"{gallery_page.as_uri()}#{asked}"]
    # Virtual time does not wait for pictures that are being decoded: on a busy machine it may run out before them.
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


def check_pictures(shown):
    """Every tile has the colour of its own picture, subject and model, and the score that belongs to it."""
    assert shown["cards"]
    for card in shown["cards"]:
        number, subject = int(card["picture"]), int(card["subject"])
        for tile in card["tiles"]:
            whose = () if tile["model"] == "seen" else (subject, tile["model"])
            assert np.abs(np.subtract(tile["colour"], shade(number, *whose))).max() <= 6, (card, tile)
            if tile["model"] != "seen" and (number, subject, tile["model"]) != (203, 1, "refined"):
                assert float(tile["score"]) == pytest.approx(score(number, subject, tile["model"]), abs=6e-4)


@needs_browser
def test_loads_and_shows_what_belongs_together(page):
    shown = visit(page)
    check_pictures(shown)
    assert [card["picture"] for card in shown["cards"]] == [str(number) for number in IDS[1][:48]]
    assert {tile["model"] for tile in shown["cards"][0]["tiles"]} == {"seen", *MODELS}
    assert shown["page"] == "Page 1 of 2"
    assert shown["summary"].startswith("60 pictures, mean two-way of refined: 0.")
    assert shown["cards"][3]["tiles"][1]["score"] == "\N{EN DASH}"


@needs_browser
def test_sorts_by_any_score_of_any_model(page):
    for order, sign in (("best", -1), ("worst", 1)):
        shown = visit(page, subject=2, order=order)
        check_pictures(shown)
        expected = sorted(IDS[2], key=lambda number: sign * score(number, 2, "refined"))
        assert [int(card["picture"]) for card in shown["cards"]] == expected[:48]
    lowest = visit(page, metric="distance", model="leave_out_v1", order="best", page=1)
    assert [int(card["picture"]) for card in lowest["cards"]] == IDS[1][48:]


@needs_browser
def test_filters_by_category_subject_and_model(page):
    shown = visit(page, category="cat", subject="all", hidden="refined", page=1)
    check_pictures(shown)
    assert len(shown["cards"]) == 30 + 25 - 48
    assert all(int(card["picture"]) % 2 for card in shown["cards"])
    assert {tile["model"] for card in shown["cards"] for tile in card["tiles"]} == {"seen", "leave_out_v1"}
    assert {card["subject"] for card in shown["cards"]} == {"2"}


@needs_browser
def test_best_median_and_worst_views(page):
    ranked = sorted((n for n in IDS[1] if n != 203), key=lambda number: -score(number, 1, "refined"))
    for show, expected in (("best", ranked[:12]), ("median", ranked[23:35]), ("worst", ranked[-12:][::-1])):
        shown = visit(page, show=show)
        check_pictures(shown)
        assert [int(card["picture"]) for card in shown["cards"]] == expected


@needs_browser
def test_keyboard_opens_pictures_with_all_scores_and_samples(page):
    shown = visit(page, keys="ArrowRight,ArrowRight,Enter,ArrowRight")
    assert shown["detail"]["title"] == "Picture 202, subject 1"
    assert [tile["model"] for tile in shown["detail"]["tiles"]] == ["seen", "refined", "leave_out_v1", "leave_out_v1"]
    for tile in shown["detail"]["tiles"]:
        whose = () if tile["model"] == "seen" else (1, tile["model"])
        assert np.abs(np.subtract(tile["colour"], shade(202, *whose))).max() <= 6
    table = shown["detail"]["scores"]
    assert [row[0] for row in table] == ["score", "two-way ↑", "distance ↓"]
    assert table[0][1:] == ["refined", "leave out v1"]
    assert table[1][1:] == [f"{score(202, 1, model):.3f}" for model in MODELS]
    assert visit(page, keys="w")["cards"][0]["picture"] == visit(page, show="worst")["cards"][0]["picture"]
    assert visit(page, keys="n")["page"] == "Page 2 of 2"
    assert {visit(page, keys="t")["theme"], visit(page, keys="t,t")["theme"]} == {"light", "dark"}


@needs_browser
@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_sticks_out(page, width):
    assert visit(page, width=width)["overflow"] <= 0


def test_page_is_whole_and_asks_nobody(page):
    text = page.read_text()
    assert "SIMULATED" in text[text.index("<h1>") : text.index("</h1>")]
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
    assert text.count("</script>") == text.count("<script")
    assert not list(page.parent.glob("gallery*.partial*"))


def test_real_sizes_still_fit():
    def stored(pictures, samples):
        return SimpleNamespace(shape=(pictures, samples, 512, 512, 3))

    four = {subject: dict.fromkeys("abcde", stored(982, 1)) for subject in (1, 2, 5, 7)}
    assert thumbnail_side(512, 982, four) == 88
    assert thumbnail_side(64, 150, {1: {"a": stored(982, 1)}}) == 64
    assert thumbnail_side(512, 150, {}) == LARGEST
    assert thumbnail_side(512, 982, {1: {"a": stored(982, 99)}}) == SMALLEST
