"""Pages of scores; ours beside published numbers only where both mean the same."""

import itertools

import pandas as pd
import pytest
from PIL import Image
from small_stores import TEST, write_stimuli

from neuropictor.evaluation.metrics import shown_in
from neuropictor.evaluation.tables import METRIC_COLUMNS, SCORE_COLUMNS, TEST_COLUMNS, write_table
from neuropictor.nsd.constants import describe_release
from neuropictor.report.scores import read_published, reasons_against, report_scores

PAGES = ("metric_page", "test_page", "published_page")
PUBLISHED = [name for name in shown_in("published") if name != "ssim_columns"]


def score_rows(data="simulated", networks="miniature", protocols=("ours 1",), subjects="12", count=150):
    return [
        {"subject": subject, "model": model, "metric": metric, "value": 0.777 if model == "refined" else 0.6}
        | {"ci_low": 0.7, "ci_high": 0.8, "n_images": count - 2 * (metric == "two_way_hard"), "data": data}
        | {"protocol": protocol, "networks": networks}
        for subject, protocol in itertools.product([*(f"0{subject}" for subject in subjects), "mean"], protocols)
        for model in (["refined", "ridge", "null", "vae"] if protocol == "ours 1" else ["refined", "null"])
        for metric in (PUBLISHED if protocol != "ours 1" else shown_in("main"))
    ]


def written_tests():
    row = {"protocol": "ours 1", "model": "refined", "metric": "two_way", "n_images": 150, "data": "simulated"}
    above = row | {"test": "above chance", "other": "", "value": 0.9, "low": 0.45, "high": 0.55, "p": 0.0001}
    different = row | {"test": "difference", "other": "ridge", "value": -0.02, "low": -0.05, "high": 0.01, "p": 0.2}
    tests = [above | {"p_corrected": 0.0002}, different | {"p_corrected": 0.4}]
    return [test | {"subject": name} for test in tests for name in ("01", "02", "mean")]


@pytest.fixture
def report(tmp_path):
    """Write the report of some rows; the texts of its pages."""
    stimuli = write_stimuli(tmp_path / "stimuli.h5")
    scores = pd.DataFrame({"protocol": "ours 1", "subject": "01", "model": "refined", "nsd_id": TEST})
    write_table(scores.assign(two_way=0.9, category=1.0), [*SCORE_COLUMNS, "two_way", "category"], tmp_path / "s.csv")
    write_table(written_tests(), TEST_COLUMNS, tmp_path / "t.csv")

    def write(rows=None, release="", **given):
        write_table(score_rows(**given) if rows is None else rows, METRIC_COLUMNS, tmp_path / "m.csv")
        out = {name: tmp_path / f"{name}.html" for name in PAGES}
        out |= {name: tmp_path / f"{name}.png" for name in ("score_figure", "category_figure")}
        report_scores(tmp_path / "m.csv", tmp_path / "s.csv", tmp_path / "t.csv", [stimuli], release, **out)
        for name in ("score_figure", "category_figure"):
            assert Image.open(out[name]).size[0] > 400
        return {name: out[name].read_text() for name in PAGES}

    return write


def test_pages_say_simulated_only_when_so(report):
    for data, said in (("simulated", True), ("nsd", False)):
        text = report(data=data, release=describe_release(37, 1))["metric_page"]
        assert ("SIMULATED" in text[text.index("<h1>") : text.index("</h1>")]) is said
        assert "2 images have no such score" in text
        assert "Release 37: without each subject&#39;s last three sessions; only the first 1 count." in text
    assert text.index("refined") < text.index("ridge") < text.index("null (wrong pairs)")
    assert "<b>0.777</b><small>0.700 to 0.800</small>" in text


def test_ceilings_stand_apart(report):
    text = report()["metric_page"]
    models, ceilings = text.split("<h2>Ceilings and trivial solutions</h2>")
    assert "VAE" not in models
    assert "<td>true images through the VAE</td><td>0.600<small>" in ceilings.split("<h2>")[0]
    assert "Ceilings" not in report([row for row in score_rows() if row["model"] != "vae"])["metric_page"]


def test_different_numbers_of_test_images_are_told(report):
    counts = {"01": 1000, "02": 907, "mean": 907}
    text = report([row | {"n_images": counts[row["subject"]]} for row in score_rows("nsd")])["metric_page"]
    for part in ("Subject 01, 1000 test images", "Subject 02, 907 test images", "<p>907 to 1000 test images"):
        assert part in text


def test_page_of_tests_shows_values_intervals_and_corrected_p(report):
    text = report()["test_page"]
    assert "Tests of the scores (SIMULATED data)" in text
    assert "<b>0.900</b><small>chance 0.450 to 0.550</small><small>p &lt; 0.001" in text
    assert "refined - ridge</td><td>-0.020<small>-0.050 to +0.010</small><small>p = 0.400</small>" in text
    assert text.index("Mean over subjects 01, 02, 150 images") < text.index("Subject 01, 150 images")


COMPARABLE = {"data": "nsd", "networks": "published", "protocols": ("ours 1", "neuropictor 1"), "subjects": "1257"}
COMPARABLE |= {"count": 982}


def test_published_results_are_those_of_the_sources():
    frame = read_published()
    assert len(frame) == 13
    assert set(frame["test_images"]) == {0, 982, 1000}
    assert frame["source"].str.len().min() > 5
    own = frame.set_index("method").loc["NeuroPictor, refined"]
    assert list(own[PUBLISHED]) == [0.229, 0.375, 96.5, 98.4, 94.5, 93.3, 0.639, 0.350]
    assert (own["test_images"], own["protocol"]) == (982, "neuropictor")


def test_a_run_that_means_the_same_stands_in_the_table_of_its_test_set(report):
    for count, name in ((982, "982 images"), (1000, "1,000 images")):
        text = report(**COMPARABLE | {"count": count})["published_page"]
        sections = {part.split("<")[0]: part for part in text.split("<h2>")[1:]}
        assert "not comparable with published results" not in text
        holding = [title for title, part in sections.items() if "this run: refined" in part]
        assert len(holding) == 1
        assert name in holding[0]
        assert "<b>77.7</b>" in sections[holding[0]]
        assert "<b>0.777</b>" in sections[holding[0]]
        assert "null" not in text


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"data": "simulated"}, "The data are simulated"),
        ({"data": "own"}, "not those of NSD"),
        ({"networks": "miniature"}, "judged by the miniature"),
        ({"protocols": ("ours 1",)}, "follow the protocol ours 1 only"),
        ({"subjects": "12"}, "Subjects are 01, 02; published results are the mean of 01, 02, 05, 07"),
        ({"count": 150}, "There are 150 test images; published test sets have 982 or 1,000"),
    ],
)
def test_a_run_that_differs_stands_apart_and_says_why(report, given, reason):
    given = COMPARABLE | given
    text = report(**given)["published_page"]
    assert reason in text
    apart, *tables = text.split("<h2>Published on NSD")
    assert "0.777" in apart
    assert not any("0.777" in part or "77.7" in part or "this run" in part for part in tables)
    assert len(reasons_against(pd.DataFrame(score_rows(**given)))) == 1
    assert ("SIMULATED" in text) is (given["data"] == "simulated")
