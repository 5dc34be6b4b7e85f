"""The page on generalisation: says what was asked, of whom, with pictures; its numbers are those of the tables."""

import numpy as np
import pandas as pd
import pytest
from small_stores import TEST, smooth_images, write_samples, write_stimuli

from neuropictor.evaluation.tables import GROUP, METRIC_COLUMNS, SCORE_COLUMNS, TEST_COLUMNS, write_table
from neuropictor.report.generalisation import report_generalisation

MAIN = ("pixcorr", "two_way", "two_way_hard", "category", "distance")


def metric_rows(groups, models):
    keys = {"ci_low": 0.1, "ci_high": 0.9, "n_images": 20, "data": "simulated+miniature", "protocol": "ours 1"}
    return [
        {GROUP: group, "subject": subject, "model": model, "metric": metric, "value": 0.25 + 0.125 * place}
        | keys
        | {"networks": "miniature"}
        for place, group in enumerate(groups)
        for subject in ("01", "mean")
        for model in models
        for metric in MAIN
    ]


def comparisons(groups, other, compared):
    about = {"protocol": "ours 1", "subject": "mean", "metric": "two_way", "n_images": 20, "data": "simulated"}
    numbers = {"low": 0.4, "high": 0.6, "p": 0.012, "p_corrected": 0.024}
    return [
        {GROUP: group, "test": test, "model": compared, "other": name, "value": value} | about | numbers
        for group in groups
        for test, name, value in (("above chance", "", 0.75), ("difference", other, 0.125))
    ]


@pytest.fixture
def written(tmp_path):
    """A test set, new people, clusters and a bottleneck."""
    (tmp_path / "vision").mkdir()
    stimuli = write_stimuli(tmp_path / "vision" / "stimuli.h5")
    images = smooth_images(TEST)[:, None]
    for model in ("refined", "ridge_diffusion", "nearest"):
        write_samples(tmp_path / "test_sets/vision/sub-01" / f"{model}.h5", model, "01", images)
    folder = tmp_path / "test_sets/vision"
    write_table(
        metric_rows(("all", "A"), ("refined", "ridge_diffusion")), [GROUP, *METRIC_COLUMNS], folder / "metrics.csv"
    )
    write_table(
        comparisons(("all", "A"), "ridge_diffusion", "refined"), [GROUP, *TEST_COLUMNS], folder / "statistics.csv"
    )
    people = tmp_path / "new_people"
    for pairs in ("0", "50"):
        write_samples(people / f"pairs-{pairs}" / "sub-01" / "adapted.h5", "adapted", "01", images)
        (people / f"pairs-{pairs}" / "sub-01" / "components.run.json").write_text('{"wall_seconds": 4.25}')
    write_table(metric_rows(("0", "50"), ("adapted",)), [GROUP, *METRIC_COLUMNS], people / "metrics.csv")
    write_table(comparisons(("50",), "ridge_diffusion", "adapted"), [GROUP, *TEST_COLUMNS], people / "statistics.csv")
    scores = pd.DataFrame({"protocol": "ours 1", "subject": "01", "model": "refined", "nsd_id": TEST})
    scores["two_way"] = np.where(np.arange(len(TEST)) < 5, 0.25, 0.75)
    write_table(scores, [*SCORE_COLUMNS, "two_way"], tmp_path / "scores.csv")
    main = [{name: row[name] for name in METRIC_COLUMNS} for row in metric_rows(("all",), ("refined", "vae"))]
    write_table(main, METRIC_COLUMNS, tmp_path / "metrics.csv")
    held_out = (np.arange(len(TEST)) < 5).astype(int)
    clusters = pd.DataFrame({"nsd_id": TEST, "cluster": 1 - held_out, "held_out": held_out})
    clusters.to_csv(tmp_path / "clusters.csv", index=False)
    return tmp_path, stimuli


def page(written, **given):
    folder, stimuli = written
    report_generalisation(
        folder / "scores.csv",
        folder / "page.html",
        test_sets=[folder / "test_sets/vision/metrics.csv"],
        test_images=[stimuli],
        new_people=folder / "new_people/metrics.csv",
        stimuli=[stimuli],
        clusters=folder / "clusters.csv",
        **given,
    )
    return (folder / "page.html").read_text()


def test_the_page_says_what_came_out(written):
    text = page(written)
    assert "SIMULATED data, drawn by a miniature" in text
    assert "two-way identification by the refined networks 0.750 (chance 0.400 to 0.600, p = 0.0120)" in text
    assert "ridge + diffusion 0.625 (difference +0.125, p = 0.0120)" in text
    assert "50 pairs, two-way identification: adapted - ridge + diffusion +0.125 (+0.400 to +0.600, p = 0.0120)" in text
    assert "1 of 2 clusters" in text and "5 of 20 images" in text
    assert "<td>inside</td><td>0.250<small>" in text and "<td>outside</td><td>0.750<small>" in text
    assert "4.2" in text  # seconds
    assert text.count("data:image/png") == 3


@pytest.mark.parametrize(
    ("trained_on", "said"),
    [("start", "none of these people trained any network"), ("themselves", "these people trained too")],
)
def test_the_page_says_whom_the_networks_knew(written, trained_on, said):
    assert said in page(written, trained_on=trained_on)
