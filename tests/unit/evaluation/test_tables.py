import numpy as np
import pytest

from neuropictor.evaluation.metrics import shown_in
from neuropictor.evaluation.tables import METRIC_COLUMNS, fill_readme, order_models, read_metrics, write_table


def score_rows(data="simulated"):
    generator = np.random.default_rng(0)
    found = []
    for subject in ("1", "2", "mean"):
        for model in ("refined", "ridge", "null", "vae"):
            for metric in shown_in("main"):
                value = generator.random() * 0.8
                count = 148 if metric == "two_way_hard" else 150
                found.append(
                    dict(zip(("subject", "model", "metric", "value"), (subject, model, metric, value), strict=True))
                    | {"ci_low": value - 0.1, "ci_high": value + 0.1, "n_images": count, "data": data}
                    | {"protocol": "ours 1", "networks": "miniature"}
                )
    return found


def test_table_is_tidy_and_the_null_keeps_its_name(tmp_path):
    write_table(score_rows(), METRIC_COLUMNS, tmp_path / "metrics.csv")
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "subject,model,metric,value,ci_low,ci_high,n_images,data,protocol,networks"
    assert lines[1].startswith("1,refined,pixcorr,0.")
    assert len(lines[1].split(",")[3]) == 8
    frame = read_metrics(tmp_path / "metrics.csv")
    assert set(frame["model"]) == {"refined", "ridge", "null", "vae"}
    assert set(frame["subject"]) == {"01", "02", "mean"}
    write_table(score_rows(), METRIC_COLUMNS, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "metrics.csv").read_bytes()


def test_missing_columns_are_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("subject,model\n1,refined\n")
    with pytest.raises(ValueError, match="columns metric, value"):
        read_metrics(tmp_path / "metrics.csv")


def test_models_have_one_order():
    assert order_models(["null", "other", "ridge", "refined"]) == ["refined", "ridge", "null", "other"]


def test_readme_gets_its_numbers_from_the_run(tmp_path):
    write_table(score_rows(), METRIC_COLUMNS, tmp_path / "metrics.csv")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- metrics:begin -->\nold\n<!-- metrics:end -->\nafter\n")
    fill_readme(tmp_path / "metrics.csv", readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    frame = read_metrics(tmp_path / "metrics.csv").set_index(["subject", "model", "metric"])
    assert f"{frame.loc[('mean', 'ridge', 'ssim'), 'value']:.3f}" in text
    assert "SIMULATED" in text
    assert "VAE" not in text
    readme.write_text("nothing here")
    with pytest.raises(ValueError, match="metrics:begin"):
        fill_readme(tmp_path / "metrics.csv", readme)
