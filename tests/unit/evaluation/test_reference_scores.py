"""The field's scores against references written here from their definitions: loops, float64, nothing shared."""

import math

import numpy as np
import pytest

from neuropictor.evaluation import metrics as measures
from neuropictor.evaluation.similarity import correlation_matrix, identify, retrieve

N, K, S, E = 8, 2, 20, 15
EXACT, SSIM = 1e-6, 1e-4


def pearson(a, b):
    a, b = [float(x) for x in np.ravel(a)], [float(x) for x in np.ravel(b)]
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    top = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    square = math.fsum((x - mean_a) ** 2 for x in a) * math.fsum((y - mean_b) ** 2 for y in b)
    return top / math.sqrt(square) if square > 0 else math.nan


def two_way(drawn, seen, groups=None):
    """Column-wise, strictly less, divided by N - 1 (or by the distractors of the group)."""
    scores = []
    for i, row in enumerate(drawn):
        own = pearson(row, seen[i])
        others = [j for j in range(len(seen)) if j != i and (groups is None or groups[j] == groups[i])]
        lower = sum(1 for j in others if pearson(row, seen[j]) < own)
        scores.append(lower / len(others) if others else math.nan)
    return np.array(scores)


def gray(image):
    r, g, b = (image[..., c].astype(float) / 255 for c in range(3))
    return 0.2125 * r + 0.7154 * g + 0.0721 * b


def ssim_value(a, b, weights):
    """Of one window with its weights."""
    mean_a, mean_b = np.sum(weights * a), np.sum(weights * b)
    var_a, var_b = np.sum(weights * (a - mean_a) ** 2), np.sum(weights * (b - mean_b) ** 2)
    covariance = np.sum(weights * (a - mean_a) * (b - mean_b))
    c1, c2 = (0.01 * 1.0) ** 2, (0.03 * 1.0) ** 2
    return (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def ssim(a, b, columns):
    """Mean over all places where the window of 11 pixels fits; one-dimensional for each column, or square."""
    line = np.array([math.exp(-0.5 * (x / 1.5) ** 2) for x in range(-5, 6)])
    line /= line.sum()
    square = np.outer(line, line)
    found = []
    for y in range(5, a.shape[0] - 5):
        for x in range(a.shape[1]) if columns else range(5, a.shape[1] - 5):
            if columns:
                found.append(ssim_value(a[y - 5 : y + 6, x], b[y - 5 : y + 6, x], line))
            else:
                window = np.s_[y - 5 : y + 6, x - 5 : x + 6]
                found.append(ssim_value(a[window], b[window], square))
    return math.fsum(found) / len(found)


@pytest.fixture
def images():
    generator = np.random.default_rng(11)
    seen = generator.integers(0, 256, (N, S, S, 3), dtype=np.uint8)
    noise = generator.integers(0, 256, (N, K, S, S, 3), dtype=np.uint8)
    return (0.5 * seen[:, None] + 0.5 * noise).astype(np.uint8), seen


@pytest.fixture(params=[np.float32, np.float64])
def features(request):
    generator = np.random.default_rng(12)
    seen = generator.standard_normal((N, E)).astype(request.param)
    return (0.4 * seen[:, None] + generator.standard_normal((N, K, E))).astype(request.param), seen


def test_pixcorr(images):
    drawn, seen = images
    expected = [[pearson(drawn[i, k], seen[i]) for k in range(K)] for i in range(N)]
    assert np.allclose(measures.pixcorr(drawn, seen), expected, rtol=0, atol=EXACT)
    assert np.allclose(measures.pixcorr(drawn / np.float32(255), seen / np.float32(255)), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("reading", ["2d", "columns"])
def test_both_readings_of_ssim(images, reading):
    drawn, seen = images
    expected = [[ssim(gray(drawn[i, k]), gray(seen[i]), reading == "columns") for k in range(K)] for i in range(N)]
    assert np.allclose(measures.ssim(drawn, seen, reading), expected, rtol=0, atol=SSIM)
    assert np.allclose(measures.ssim(drawn / 255, seen / 255, reading), expected, rtol=0, atol=SSIM)


def test_the_two_readings_differ_and_others_are_refused(images):
    assert np.abs(measures.ssim(*images) - measures.ssim(*images, "columns")).min() > 1e-3
    with pytest.raises(ValueError, match='reading is "rows"; allowed are 2d and columns'):
        measures.ssim(*images, "rows")


def test_two_way_with_ties_and_undefined_correlations(features):
    drawn, seen = features
    seen[4] = seen[0]  # a distractor equal to the right image: a tie
    seen[7, 2] = np.nan
    drawn[5, 0] = 1.25  # constant: no correlation with anything
    drawn[6, 1, 3] = np.nan
    expected = np.stack([two_way(drawn[:, k], seen) for k in range(K)], axis=1)
    found = measures.two_way(drawn, seen)
    assert np.allclose(found, expected, rtol=0, atol=EXACT)
    assert found[5, 0] == found[6, 1] == found[7, 0] == 0
    assert measures.two_way(seen[:, None], seen)[0, 0] == (N - 3) / (N - 1)


def test_ties_are_exact_in_long_features_of_low_precision():
    """A matrix product rounds equal columns differently; a tie must stay one."""
    generator = np.random.default_rng(13)
    seen = generator.standard_normal((40, 5000)).astype(np.float32)
    seen[20:] = seen[:20]
    drawn = (seen + generator.standard_normal(seen.shape)).astype(np.float32)
    assert np.array_equal(identify(drawn, seen), np.full(40, 38 / 39))


def test_low_precision_decides_as_high_precision_does():
    generator = np.random.default_rng(14)
    seen = generator.standard_normal((60, 3000)).astype(np.float32)
    drawn = (0.02 * seen + generator.standard_normal(seen.shape)).astype(np.float32)
    twins = (drawn[:, None] * np.float32(1e-3) + seen[:1]).astype(np.float32)[:, 0]  # correlations 1e-6 apart
    for rows in (drawn, twins):
        found = identify(rows, seen)
        assert np.array_equal(found, identify(rows.astype(np.float64), seen.astype(np.float64)))
    assert 0.5 < identify(drawn, seen).mean() < 1


def test_blocks_do_not_matter(features, monkeypatch):
    from neuropictor.evaluation import similarity

    drawn, seen = features
    whole = correlation_matrix(drawn[:, 0], seen)
    monkeypatch.setattr(similarity, "_BLOCK", 4)
    assert np.allclose(correlation_matrix(drawn[:, 0], seen), whole, rtol=0, atol=1e-12)


def test_two_way_within_category_leaves_lonely_and_unknown_images_out(features):
    drawn, seen = features
    main = np.array([0, 0, 1, 0, 1, -1, -1, 2])
    found = measures.two_way(drawn, seen, measures.groups_of(main))
    expected = np.stack([two_way(drawn[:, k], seen, [*main[:5], "a", "b", 2]) for k in range(K)], axis=1)
    assert np.allclose(found, expected, rtol=0, atol=EXACT, equal_nan=True)
    assert np.isnan(found[5:]).all()
    assert np.isfinite(found[:5]).all()


def test_correlation_distance(features):
    drawn, seen = features
    expected = [[1 - pearson(drawn[i, k], seen[i]) for k in range(K)] for i in range(N)]
    assert np.allclose(measures.distance(drawn, seen), expected, rtol=0, atol=EXACT)


def cosine(a, b):
    return float(np.dot(a, b)) / math.sqrt(float(np.dot(a, a)) * float(np.dot(b, b)))


def test_retrieval_of_the_whole_pool(features):
    drawn, seen = (side.astype(float) for side in features)
    seen[3] = seen[2]  # never the single nearest
    table = [[cosine(drawn[i, 0], seen[j]) for j in range(N)] for i in range(N)]
    image = [all(table[i][i] > table[i][j] for j in range(N) if j != i) for i in range(N)]
    brain = [all(table[i][i] > table[j][i] for j in range(N) if j != i) for i in range(N)]
    found = measures.retrieval(drawn, seen, seed=0)
    assert np.array_equal(found[0][:, 0], image)
    assert np.array_equal(found[1][:, 0], brain)
    assert not found[0][[2, 3], 0].any()


def test_retrieval_by_chance_is_one_in_the_pool():
    generator = np.random.default_rng(15)
    image, brain = retrieve(*generator.standard_normal((2, 400, 30)), pool=50, repeats=60, seed=1)
    assert np.nanmean(image) == pytest.approx(1 / 50, abs=0.008)
    assert np.nanmean(brain) == pytest.approx(1 / 50, abs=0.008)
    again = retrieve(*np.random.default_rng(15).standard_normal((2, 400, 30)), pool=50, repeats=60, seed=1)
    assert np.array_equal(image, again[0], equal_nan=True)
