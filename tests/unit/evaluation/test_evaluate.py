"""The stage: tables of scores and tests, complete and consistent with each other."""

import json

import numpy as np
import pytest
from small_stores import CATEGORIES, TEST, PretendBackbone, smooth_images, write_samples, write_stimuli

from neuropictor import sampling
from neuropictor.config import EvaluateConfig, RuntimeConfig
from neuropictor.evaluation import evaluate as stage
from neuropictor.evaluation import judges
from neuropictor.evaluation.metrics import shown_in
from neuropictor.evaluation.tables import METRIC_COLUMNS, of_kind, order_models, read_metrics, read_scores, read_tests

MAIN = shown_in("main")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two subjects; subject 2 saw only 18 of the 20 test images."""
    generator = np.random.default_rng(5)
    folder, found = tmp_path_factory.mktemp("samples"), {}
    for subject, ids in (("01", list(TEST)), ("02", list(TEST)[2:])):
        seen = smooth_images(ids).astype(float)
        found[subject] = {}
        for model, noise in (("refined", 40), ("pretrained", 90), ("ridge", 200), ("true_features", 60)):
            drawn = np.clip(seen[:, None] + noise * generator.standard_normal((len(ids), 1, *seen.shape[1:])), 0, 255)
            path = folder / f"sub-{subject}" / f"{model}.h5"
            found[subject][model] = write_samples(path, model, subject, drawn.astype(np.uint8), ids)
    return found


def run(samples, folder, precision="fp32"):
    out = folder / "metrics.csv"
    config = EvaluateConfig(bootstrap=50, permutations=99, seed=3)
    runtime = RuntimeConfig(device="cpu", threads=1, precision=precision)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage.Backbone, "load", PretendBackbone.load)
        stage.evaluate(samples, [write_stimuli(folder / "stimuli.h5")], "miniature", config, runtime, out)
    return out


@pytest.fixture(scope="module")
def out(samples, tmp_path_factory):
    return run(samples, tmp_path_factory.mktemp("out"))


def test_evaluate_writes_the_tidy_table(out):
    frame = read_metrics(out)
    assert list(frame) == list(METRIC_COLUMNS)
    assert set(frame["subject"]) == {"01", "02", "mean"}
    models = ["refined", "pretrained", "ridge", "null", *of_kind("ceiling")]
    assert order_models(frame["model"]) == models
    assert set(frame["data"]) == {"simulated"}
    assert len(frame) == 3 * len(models) * 10
    assert (frame["ci_low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["ci_high"]).all()
    value = frame.set_index(["subject", "model", "metric"])["value"]
    count = frame.set_index(["subject", "model", "metric"])["n_images"]
    for metric in MAIN:
        assert value["mean", "refined", metric] == pytest.approx(
            (value["01", "refined", metric] + value["02", "refined", metric]) / 2, abs=2e-6
        )
    assert [count[subject, "refined", "ssim"] for subject in ("01", "02", "mean")] == [20, 18, 20]
    assert value["mean", "refined", "two_way"] > value["mean", "ridge", "two_way"] > 0.5
    assert 0.35 < value["mean", "null", "two_way"] < 0.65
    for subject in ("01", "02", "mean"):
        assert value[subject, "vae", "pixcorr"] > 0.99
        assert value[subject, "seen", "two_way"] == 1
    assert json.loads(out.with_name("metrics.run.json").read_text())["results"]["categories"] == list(CATEGORIES)


def test_scores_of_single_images_make_up_the_means(out):
    scores = read_scores(out.with_name("scores.csv"))
    assert len(scores) == 9 * (20 + 18)
    means = scores[scores["subject"] == "02"].groupby("model")[list(MAIN)].mean()
    frame = read_metrics(out).query("subject == '2'").set_index(["model", "metric"])["value"]
    for model, metric in frame.index:
        if metric in means:
            assert means.loc[model, metric] == pytest.approx(frame[model, metric], abs=2e-6)
    assert set(scores["nsd_id"]) == {str(number) for number in TEST}


def test_tests_say_what_is_above_chance_and_what_differs(out):
    tests = read_tests(out.with_name("statistics.csv"))
    assert set(tests["test"]) == {"above chance", "difference"}
    above = tests[tests["test"] == "above chance"].set_index(["subject", "model", "metric"])
    assert set(above.index.get_level_values("subject")) == {"01", "02", "mean"}
    assert above.loc[("mean", "refined", "two_way"), "p"] == 1 / 100
    assert (above["low"] < 0.5).all()
    assert (above["high"] > 0.5).all()
    different = tests[tests["test"] == "difference"].set_index(["subject", "other", "metric"])
    row = different.loc[("mean", "ridge", "pixcorr")]
    assert (row["low"], row["p"], row["n_images"]) == (pytest.approx(row["value"], abs=0.2), 1 / 100, 20)
    assert (tests["p_corrected"] >= tests["p"]).all()
    assert not {"null", *of_kind("ceiling")} & (set(tests["model"]) | set(tests["other"]))


def test_equal_runs_give_equal_bytes(samples, out, tmp_path):
    again = run(samples, tmp_path)
    for name in ("metrics.csv", "scores.csv", "statistics.csv"):
        assert again.with_name(name).read_bytes() == out.with_name(name).read_bytes()


def test_ceilings_are_made_in_blocks_within_the_memory(samples, tmp_path, monkeypatch):
    """128 images of 512 pixels, encoded and decoded at once, took 128 GiB."""
    monkeypatch.setattr(judges, "IMAGES_AT_ONCE", 6)
    asked, drawn, draw = [], [], stage.Sampler.draw

    def noted(name):
        method = getattr(PretendBackbone, name)

        def asking(self, given, memory=None):
            asked.append((name, len(given), memory))
            return method(self, given, memory)

        monkeypatch.setattr(PretendBackbone, name, asking)

    def drawing(self, jobs, inputs, **options):
        drawn.append(len(jobs))
        return draw(self, jobs, inputs, **options)

    for name in ("encode_images", "decode"):
        noted(name)
    monkeypatch.setattr(stage.Sampler, "draw", drawing)
    monkeypatch.setattr(sampling, "prepare_sampling", lambda pipeline, runtime: drawn.append(runtime.precision))
    run(samples, tmp_path, "bf16")
    memory = RuntimeConfig().decode_memory
    assert asked == [(name, count, memory) for count in (6, 6, 6, 2) for name in ("encode_images", "decode")]
    assert drawn == ["bf16", 8, 8, 4]


def test_wrong_files_are_refused(samples, tmp_path):
    swapped = {"01": samples["02"], "02": samples["01"]}
    with pytest.raises(ValueError, match="is of subject 02, but was given as subject 01"):
        run(swapped, tmp_path)
    path = tmp_path / "other.h5"
    write_samples(path, "ridge", "01", np.zeros((2, 1, 16, 16, 3), np.uint8), (100, 101))
    with pytest.raises(ValueError, match=r"other\.h5: 2 images that differ from the 20"):
        run({"01": {**samples["01"], "ridge": path}}, tmp_path)
    assert not (tmp_path / "metrics.csv").exists()
