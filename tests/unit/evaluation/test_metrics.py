"""Scores against independent references, written from the definitions with plain loops in float64."""

import json

import numpy as np
import pytest
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from small_stores import CATEGORIES, TEST, PretendBackbone, smooth_pictures, write_samples, write_stimuli

from neuropictor.config import EvaluateConfig, RuntimeConfig
from neuropictor.evaluation import measures
from neuropictor.evaluation.significance import read_tests
from neuropictor.evaluation.similarity import correlation_matrix, identification
from neuropictor.evaluation.tables import COLUMNS, read_metrics, read_scores

N, K, S, E = 9, 2, 24, 12


@pytest.fixture
def pictures():
    generator = np.random.default_rng(1)
    seen = generator.integers(0, 256, (N, S, S, 3), dtype=np.uint8)
    noise = generator.integers(0, 256, (N, K, S, S, 3), dtype=np.uint8)
    return (0.6 * seen[:, None] + 0.4 * noise).astype(np.uint8), seen


@pytest.fixture
def features():
    generator = np.random.default_rng(2)
    seen = generator.standard_normal((N, E))
    return seen[:, None] * 0.4 + generator.standard_normal((N, K, E)), seen


def correlation(a, b):
    a, b = [float(x) for x in np.ravel(a)], [float(x) for x in np.ravel(b)]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    bottom = sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)
    return top / bottom**0.5 if bottom > 0 else float("nan")


def two_way_reference(reconstructed, seen, background=None):
    scores = np.full(reconstructed.shape[:2], np.nan)
    for i in range(len(seen)):
        for k in range(reconstructed.shape[1]):
            own = correlation(reconstructed[i, k], seen[i])
            others = [j for j in range(len(seen)) if j != i and (background is None or background[j] == background[i])]
            wins = [correlation(reconstructed[i, k], seen[j]) < own for j in others]
            if wins:
                scores[i, k] = sum(wins) / len(wins)
    return scores


def test_pixcorr(pictures):
    drawn, seen = pictures
    expected = [[correlation(drawn[i, k], seen[i]) for k in range(K)] for i in range(N)]
    assert np.allclose(measures.pixcorr(drawn, seen), expected, atol=1e-12)


def test_pixcorr_of_a_flat_picture_is_zero(pictures):
    drawn, seen = pictures
    drawn[3] = 77
    seen[4] = 12
    scores = measures.pixcorr(drawn, seen)
    assert (scores[[3, 4]] == 0).all()
    assert (scores[5] > 0.1).all()


def test_ssim_is_scikit_image_on_gray_pictures(pictures):
    drawn, seen = pictures
    seen[2], drawn[2] = 9, 9
    for row in range(N):
        for sample in range(K):
            expected = structural_similarity(
                rgb2gray(drawn[row, sample]),
                rgb2gray(seen[row]),
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1.0,
            )
            assert measures.ssim(drawn, seen)[row, sample] == pytest.approx(expected, abs=1e-12)
    assert measures.ssim(drawn, seen)[2] == pytest.approx(1)


def test_ssim_does_not_depend_on_blocks(pictures, monkeypatch):
    whole = measures.ssim(*pictures)
    monkeypatch.setattr(measures, "_SSIM_PIXELS", 2 * S * S)
    assert np.array_equal(measures.ssim(*pictures), whole)
    with pytest.raises(ValueError, match="11 pixels"):
        measures.ssim(pictures[0][:, :, :8, :8], pictures[1][:, :8, :8])


def test_correlation_matrix_is_numpys(features):
    drawn, seen = features
    expected = np.corrcoef(drawn[:, 0], seen)[:N, N:]
    assert np.allclose(correlation_matrix(drawn[:, 0], seen), expected, atol=1e-12)


def test_two_way(features):
    drawn, seen = features
    assert np.allclose(measures.two_way(drawn, seen), two_way_reference(drawn, seen), atol=1e-12)
    assert (measures.two_way(seen[:, None], seen) == 1).all()


def test_two_way_counts_ties_and_undefined_as_failures(features):
    drawn, seen = features
    seen[4] = seen[0]  # a distractor equal to the right picture
    drawn[5, 0] = 1.25  # no correlation with anything
    drawn[6, 1, 3] = np.nan
    seen[7, 2] = np.nan
    expected = two_way_reference(drawn, np.where(np.isnan(seen), np.nan, seen))
    scores = measures.two_way(drawn, seen)
    assert np.allclose(scores, expected, atol=1e-12)
    assert scores[5, 0] == scores[6, 1] == 0
    assert (scores[7] == 0).all()
    assert (measures.two_way(seen[:, None], seen)[[0, 4], 0] == 6 / 8).all()  # one tie and one undefined distractor


def test_two_way_of_the_fields_code(features):
    """The published evaluation: rows of the correlation matrix are pictures, columns reconstructions."""
    drawn, seen = features
    matrix = np.corrcoef(seen, drawn[:, 0])[:N, N:]
    expected = (matrix < np.diag(matrix)).sum(0) / (N - 1)
    assert np.allclose(measures.two_way(drawn[:, :1], seen)[:, 0], expected)


def test_two_way_hard_leaves_lonely_pictures_out(features):
    drawn, seen = features
    background = np.array(["sea", "sea", "city", "sea", "city", "hills", "city", "city", "sea"])
    scores = measures.two_way(drawn, seen, background)
    expected = two_way_reference(drawn, seen, background)
    assert np.allclose(scores, expected, atol=1e-12, equal_nan=True)
    assert np.isnan(scores[5]).all()
    assert np.isnan(scores).sum() == K


def test_identification_agrees_with_two_way_on_the_diagonal(features):
    drawn, seen = features
    background = np.arange(N) % 2
    matrix = correlation_matrix(drawn[:, 1], seen)
    assert np.allclose(np.diag(identification(matrix)), measures.two_way(drawn, seen)[:, 1])
    assert np.allclose(np.diag(identification(matrix, background)), measures.two_way(drawn, seen, background)[:, 1])
    wrong = np.roll(np.arange(N), 1)
    expected = two_way_reference(drawn[wrong, 1:], seen)[:, 0]
    assert np.allclose(identification(matrix)[wrong, np.arange(N)], expected)


def test_distance(features):
    drawn, seen = features
    drawn[2, 0] = 3.0
    scores = measures.distance(drawn, seen)
    expected = 1 - np.array([[correlation(drawn[i, k], seen[i]) for k in range(K)] for i in range(N)])
    expected[2, 0] = 1
    assert np.allclose(scores, expected, atol=1e-12)


def test_category():
    prompts = np.eye(3)
    features = np.array(
        [[[0.9, 0.1, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]], [[1, 0, 0], [np.nan, 0, 0]], [[1, 0, 0]] * 2]
    )
    scores = measures.category(features, prompts, np.array([0, 2, 0, -1]))
    assert np.array_equal(scores[:3], [[1, 0], [1, 0], [1, 0]])
    assert np.isnan(scores[3]).all()


def test_shapes_that_do_not_fit_are_refused(pictures):
    with pytest.raises(ValueError, match=r"\(9, 2, 24, 24, 3\) do not fit .*\(8, 24"):
        measures.pixcorr(pictures[0], pictures[1][:8])


@pytest.fixture
def samples(tmp_path):
    """Two subjects; subject 2 saw only 18 of the 20 test pictures."""
    generator = np.random.default_rng(5)
    found = {}
    for subject, ids in ((1, list(TEST)), (2, list(TEST)[2:])):
        seen = smooth_pictures(ids).astype(float)
        found[subject] = {}
        for model, noise in (("refined", 40), ("pretrained", 90), ("ridge", 200)):
            drawn = np.clip(seen[:, None] + noise * generator.standard_normal((len(ids), 1, *seen.shape[1:])), 0, 255)
            path = tmp_path / f"sub-{subject:02d}" / f"{model}.h5"
            found[subject][model] = write_samples(path, model, subject, drawn.astype(np.uint8), ids)
    return found


def run(samples, folder, monkeypatch):
    from neuropictor.evaluation import metrics

    monkeypatch.setattr(metrics.Backbone, "load", PretendBackbone.load)
    out = folder / "metrics.csv"
    metrics.evaluate(
        samples=samples,
        stimuli=[write_stimuli(folder / "stimuli.h5")],
        backbone="miniature",
        config=EvaluateConfig(bootstrap=50, permutations=99, seed=3),
        runtime=RuntimeConfig(device="cpu", threads=1),
        out=out,
    )
    return out


def test_evaluate_writes_the_tidy_table(samples, tmp_path, monkeypatch):
    out = run(samples, tmp_path, monkeypatch)
    frame = read_metrics(out)
    assert list(frame) == list(COLUMNS)
    assert set(frame["subject"]) == {"1", "2", "mean"}
    assert list(dict.fromkeys(frame["model"])) == ["refined", "pretrained", "ridge", "null"]
    assert set(frame["data"]) == {"simulated"}
    assert len(frame) == 3 * 4 * 10
    assert (frame["ci_low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["ci_high"]).all()
    value = frame.set_index(["subject", "model", "metric"])["value"]
    count = frame.set_index(["subject", "model", "metric"])["n_images"]
    for metric in measures.METRICS:
        assert value["mean", "refined", metric] == pytest.approx(
            (value["1", "refined", metric] + value["2", "refined", metric]) / 2, abs=2e-6
        )
    assert (count["1", "refined", "ssim"], count["2", "refined", "ssim"], count["mean", "refined", "ssim"]) == (
        20,
        18,
        20,
    )
    assert value["mean", "refined", "two_way"] > value["mean", "ridge", "two_way"] > 0.5
    assert 0.35 < value["mean", "null", "two_way"] < 0.65
    results = json.loads((tmp_path / "metrics.run.json").read_text())["results"]
    assert results["controls"]["vae"]["pixcorr"] > 0.99
    assert results["controls"]["seen"]["two_way"] == 1
    assert results["categories"] == list(CATEGORIES)
    assert set(results["chance"]) == {"1", "2"}


def test_scores_of_single_pictures_make_up_the_means(samples, tmp_path, monkeypatch):
    out = run(samples, tmp_path, monkeypatch)
    scores = read_scores(out.with_name("scores.csv"))
    assert len(scores) == 4 * (20 + 18)
    means = scores[scores["subject"] == "2"].groupby("model")[list(measures.METRICS)].mean()
    frame = read_metrics(out).query("subject == '2'").set_index(["model", "metric"])["value"]
    for model, metric in frame.index:
        if metric in means:
            assert means.loc[model, metric] == pytest.approx(frame[model, metric], abs=2e-6)
    assert set(scores["nsd_id"]) == {str(number) for number in TEST}


def test_tests_say_what_is_above_chance_and_what_differs(samples, tmp_path, monkeypatch):
    tests = read_tests(run(samples, tmp_path, monkeypatch).with_name("statistics.csv"))
    assert set(tests["test"]) == {"above chance", "difference"}
    above = tests[tests["test"] == "above chance"].set_index(["subject", "model", "metric"])
    assert set(above.index.get_level_values("subject")) == {"1", "2", "mean"}
    assert above.loc[("mean", "refined", "two_way"), "p"] == 1 / 100
    assert (above["low"] < 0.5).all()
    assert (above["high"] > 0.5).all()
    different = tests[tests["test"] == "difference"].set_index(["subject", "other", "metric"])
    row = different.loc[("mean", "ridge", "pixcorr")]
    assert (row["low"], row["p"], row["n_images"]) == (pytest.approx(row["value"], abs=0.2), 1 / 100, 20)
    assert (tests["p_corrected"] >= tests["p"]).all()
    assert "null" not in set(tests["model"]) | set(tests["other"])


def test_equal_runs_give_equal_bytes(samples, tmp_path, monkeypatch):
    (tmp_path / "again").mkdir()
    first = run(samples, tmp_path, monkeypatch)
    again = run(samples, tmp_path / "again", monkeypatch)
    for name in ("metrics.csv", "scores.csv", "statistics.csv"):
        assert again.with_name(name).read_bytes() == first.with_name(name).read_bytes()


def test_wrong_files_are_refused(samples, tmp_path, monkeypatch):
    swapped = {1: samples[2], 2: samples[1]}
    with pytest.raises(ValueError, match="is of subject 2, but was given as subject 1"):
        run(swapped, tmp_path, monkeypatch)
    path = tmp_path / "other.h5"
    write_samples(path, "ridge", 1, np.zeros((2, 1, 16, 16, 3), np.uint8), (100, 101))
    with pytest.raises(ValueError, match=r"other\.h5: 2 pictures that differ from the 20"):
        run({1: {**samples[1], "ridge": path}}, tmp_path, monkeypatch)
    assert not (tmp_path / "metrics.csv").exists()
