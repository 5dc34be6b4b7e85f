import json

import numpy as np
import pytest

from neuropictor.evaluation.measures import METRICS
from neuropictor.evaluation.significance import write_tests
from neuropictor.evaluation.tables import fill_readme, order_models, read_metrics, write_metrics
from neuropictor.nsd.constants import describe_release
from neuropictor.report.scores import metric_table, statistics_table


def rows(data="simulated"):
    generator = np.random.default_rng(0)
    found = []
    for subject in ("1", "2", "mean"):
        for model in ("refined", "ridge", "null"):
            for metric in METRICS:
                value = generator.random() * 0.8
                count = 148 if metric == "two_way_hard" else 150
                found.append(
                    dict(zip(("subject", "model", "metric", "value"), (subject, model, metric, value), strict=True))
                    | {"ci_low": value - 0.1, "ci_high": value + 0.1, "n_images": count, "data": data}
                    | {"protocol": "ours 1", "networks": "miniature"}
                )
    return found


def test_table_is_tidy_and_the_null_keeps_its_name(tmp_path):
    write_metrics(rows(), tmp_path / "metrics.csv")
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "subject,model,metric,value,ci_low,ci_high,n_images,data,protocol,networks"
    assert lines[1].startswith("1,refined,pixcorr,0.")
    assert len(lines[1].split(",")[3]) == 8
    frame = read_metrics(tmp_path / "metrics.csv")
    assert set(frame["model"]) == {"refined", "ridge", "null"}
    assert set(frame["subject"]) == {"1", "2", "mean"}
    write_metrics(rows(), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "metrics.csv").read_bytes()


def test_missing_columns_are_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("subject,model\n1,refined\n")
    with pytest.raises(ValueError, match="columns metric, value"):
        read_metrics(tmp_path / "metrics.csv")


def test_page_says_simulated_only_when_so(tmp_path):
    for data, said in (("simulated", True), ("nsd", False)):
        write_metrics(rows(data), tmp_path / "metrics.csv")
        metric_table(metrics=tmp_path / "metrics.csv", out=tmp_path / "metrics.html")
        text = (tmp_path / "metrics.html").read_text()
        title = text[text.index("<h1>") : text.index("</h1>")]
        assert ("SIMULATED" in title) is said
        assert "2 pictures have no such distractor" in text
        assert "Ceilings" not in text
    assert text.index("refined") < text.index("ridge") < text.index("null (wrong pairs)")


def test_page_shows_controls_of_the_record(tmp_path):
    write_metrics(rows(), tmp_path / "metrics.csv")
    scores = dict.fromkeys(METRICS, 0.987) | {"n_images": 150, "two_way_hard": None}
    results = {
        "controls": {"vae": scores},
        "chance": {"1": {"two_way": [0.451, 0.552]}},
    }
    (tmp_path / "metrics.run.json").write_text(json.dumps({"results": results}))
    metric_table(tmp_path / "metrics.csv", tmp_path / "out" / "metrics.html", describe_release(37, 1))
    text = (tmp_path / "out" / "metrics.html").read_text()
    release = "Release 37: without each subject&#x27;s last three sessions; only the first 1 count."
    for part in ("true pictures through the VAE", "0.987", release):
        assert part in text


def test_models_have_one_order():
    assert order_models(["null", "other", "ridge", "refined"]) == ["refined", "ridge", "null", "other"]


def test_readme_gets_its_numbers_from_the_run(tmp_path):
    write_metrics(rows(), tmp_path / "metrics.csv")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- metrics:begin -->\nold\n<!-- metrics:end -->\nafter\n")
    fill_readme(tmp_path / "metrics.csv", readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    frame = read_metrics(tmp_path / "metrics.csv").set_index(["subject", "model", "metric"])
    assert f"{frame.loc[('mean', 'ridge', 'ssim'), 'value']:.3f}" in text
    assert "SIMULATED" in text
    readme.write_text("nothing here")
    with pytest.raises(ValueError, match="metrics:begin"):
        fill_readme(tmp_path / "metrics.csv", readme)


def test_different_numbers_of_test_pictures_are_told(tmp_path):
    found = rows("nsd")
    for row in found:
        row["n_images"] = {"1": 1000, "2": 907, "mean": 907}[row["subject"]]
    write_metrics(found, tmp_path / "metrics.csv")
    metric_table(metrics=tmp_path / "metrics.csv", out=tmp_path / "metrics.html")
    text = (tmp_path / "metrics.html").read_text()
    for part in ("Subject 1, 1000 test pictures", "Subject 2, 907 test pictures", "<p>907 to 1000 test pictures"):
        assert part in text


def test_page_of_tests_shows_values_intervals_and_corrected_p(tmp_path):
    row = {"protocol": "ours 1", "model": "refined", "metric": "two_way", "n_images": 150, "data": "simulated"}
    above = row | {"test": "above chance", "other": "", "value": 0.9, "low": 0.45, "high": 0.55, "p": 0.0001}
    different = row | {"test": "difference", "other": "ridge", "value": -0.02, "low": -0.05, "high": 0.01, "p": 0.2}
    found = [above | {"p_corrected": 0.0002}, different | {"p_corrected": 0.4}]
    write_tests([item | {"subject": name} for item in found for name in ("1", "2", "mean")], tmp_path / "tests.csv")
    statistics_table(tmp_path / "tests.csv", tmp_path / "tests.html")
    text = (tmp_path / "tests.html").read_text()
    for part in (
        "Tests of the scores (SIMULATED data)",
        "<b>0.900</b><small>0.450 to 0.550</small><small>p &lt; 0.001",
    ):
        assert part in text
    assert "refined - ridge</td><td>-0.020<small>-0.050 to +0.010</small><small>p = 0.400</small>" in text
    assert text.index("Mean over subjects 1, 2, 150 pictures") < text.index("Subject 1, 150 pictures")
