"""Ours beside published numbers only where both mean the same."""

import itertools

import pandas as pd
import pytest

from neuropictor.evaluation.tables import write_metrics
from neuropictor.report.published import METRICS, published_table, read_published, reasons_against


def rows(data="nsd", networks="published", protocols=("ours 1", "neuropictor 1"), subjects="1257", count=982):
    return [
        {
            "subject": subject,
            "model": model,
            "metric": metric,
            "value": 0.777,
            "ci_low": 0.7,
            "ci_high": 0.8,
            "n_images": count,
            "data": data,
            "protocol": protocol,
            "networks": networks,
        }
        for subject, model, protocol in itertools.product([*subjects, "mean"], ["refined", "null"], protocols)
        for metric in (METRICS if protocol != "ours 1" else ("pixcorr", "two_way"))
    ]


def page(folder, **given):
    write_metrics(rows(**given), folder / "metrics.csv")
    published_table(folder / "metrics.csv", folder / "published.html")
    return (folder / "published.html").read_text()


def test_published_results_are_those_of_the_sources():
    frame = read_published()
    assert len(frame) == 13
    assert set(frame["test_images"]) == {0, 982, 1000}
    assert frame["source"].str.len().min() > 5
    own = frame.set_index("method").loc["NeuroPictor, refined"]
    assert list(own[list(METRICS)]) == [0.229, 0.375, 96.5, 98.4, 94.5, 93.3, 0.639, 0.350]
    assert (own["test_images"], own["protocol"]) == (982, "neuropictor")


def test_a_run_that_means_the_same_stands_in_the_table_of_its_test_set(tmp_path):
    for count, name in ((982, "982 pictures"), (1000, "1,000 pictures")):
        text = page(tmp_path, count=count)
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
        ({"subjects": "12"}, "Subjects are 1, 2; published results are the mean of 1, 2, 5, 7"),
        ({"count": 150}, "There are 150 test pictures; published test sets have 982 or 1,000"),
    ],
)
def test_a_run_that_differs_stands_apart_and_says_why(tmp_path, given, reason):
    text = page(tmp_path, **given)
    assert reason in text
    apart, *tables = text.split("<h2>Published on NSD")
    assert "0.777" in apart
    assert not any("0.777" in part or "77.7" in part or "this run" in part for part in tables)
    assert len(reasons_against(pd.DataFrame(rows(**given)))) == 1
    assert ("SIMULATED" in text) is (given.get("data") == "simulated")
