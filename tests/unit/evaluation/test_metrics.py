"""Scores of images against references from their definitions (loops, float64, nothing shared), scikit-image, numpy."""

import math

import numpy as np
import pytest
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from neuropictor.evaluation import metrics as measures
from neuropictor.evaluation import similarity
from neuropictor.evaluation.similarity import correlation_matrix, identification, identify, retrieve

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


def ssim_of_columns(a, b):
    """Mean over all places where a window of 11 pixels fits, one-dimensional, in each column."""
    line = np.array([math.exp(-0.5 * (x / 1.5) ** 2) for x in range(-5, 6)])
    line /= line.sum()
    places = [(slice(y - 5, y + 6), x) for y in range(5, a.shape[0] - 5) for x in range(a.shape[1])]
    return math.fsum(ssim_value(a[place], b[place], line) for place in places) / len(places)


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
    assert np.allclose(measures.pixcorr(drawn, seen), expected, rtol=0, atol=1e-12)
    assert np.allclose(measures.pixcorr(drawn / np.float32(255), seen / np.float32(255)), expected, rtol=0, atol=EXACT)


def test_pixcorr_of_a_flat_image_is_zero(images):
    drawn, seen = images
    drawn[3] = 77
    seen[4] = 12
    scores = measures.pixcorr(drawn, seen)
    assert (scores[[3, 4]] == 0).all()
    assert (scores[5] > 0.1).all()


def test_ssim_is_scikit_image_on_gray_images(images):
    drawn, seen = images
    seen[2], drawn[2] = 9, 9
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    found, scaled = measures.ssim(drawn, seen), measures.ssim(drawn / 255, seen / 255)
    for row in range(N):
        for sample in range(K):
            expected = structural_similarity(rgb2gray(drawn[row, sample]), rgb2gray(seen[row]), **options)
            assert found[row, sample] == pytest.approx(expected, abs=1e-12)
            assert scaled[row, sample] == pytest.approx(expected, abs=SSIM)
    assert found[2] == pytest.approx(1)


def test_ssim_does_not_depend_on_blocks(images, monkeypatch):
    whole = measures.ssim(*images)
    monkeypatch.setattr(measures, "_SSIM_PIXELS", 2 * S * S)
    assert np.array_equal(measures.ssim(*images), whole)
    with pytest.raises(ValueError, match="11 pixels"):
        measures.ssim(images[0][:, :, :8, :8], images[1][:, :8, :8])


def test_ssim_of_columns(images):
    drawn, seen = images
    expected = [[ssim_of_columns(gray(drawn[i, k]), gray(seen[i])) for k in range(K)] for i in range(N)]
    assert np.allclose(measures.ssim(drawn, seen, "columns"), expected, rtol=0, atol=SSIM)
    assert np.allclose(measures.ssim(drawn / 255, seen / 255, "columns"), expected, rtol=0, atol=SSIM)


def test_the_two_readings_differ_and_others_are_refused(images):
    assert np.abs(measures.ssim(*images) - measures.ssim(*images, "columns")).min() > 1e-3
    with pytest.raises(ValueError, match='reading is "rows"; allowed are 2d and columns'):
        measures.ssim(*images, "rows")


def test_two_way_with_ties_and_undefined_correlations(features):
    drawn, seen = features
    assert (measures.two_way(seen[:, None], seen) == 1).all()
    seen[4] = seen[0]  # a distractor equal to the right image: a tie
    seen[7, 2] = np.nan
    drawn[5, 0] = 1.25  # constant: no correlation with anything
    drawn[6, 1, 3] = np.nan
    expected = np.stack([two_way(drawn[:, k], seen) for k in range(K)], axis=1)
    found = measures.two_way(drawn, seen)
    assert np.allclose(found, expected, rtol=0, atol=EXACT)
    assert found[5, 0] == found[6, 1] == found[7, 0] == 0
    assert measures.two_way(seen[:, None], seen)[0, 0] == (N - 3) / (N - 1)


def test_two_way_of_the_fields_code(features):
    """The published evaluation: rows of the correlation matrix are images, columns reconstructions."""
    drawn, seen = features
    matrix = np.corrcoef(seen, drawn[:, 0])[:N, N:]
    expected = (matrix < np.diag(matrix)).sum(0) / (N - 1)
    assert np.allclose(measures.two_way(drawn[:, :1], seen)[:, 0], expected)


def test_identification_agrees_with_two_way_on_the_diagonal(features):
    drawn, seen = features
    background = np.arange(N) % 2
    matrix = correlation_matrix(drawn[:, 1], seen)
    assert np.allclose(np.diag(identification(matrix)), measures.two_way(drawn, seen)[:, 1])
    assert np.allclose(np.diag(identification(matrix, background)), measures.two_way(drawn, seen, background)[:, 1])
    wrong = np.roll(np.arange(N), 1)
    expected = two_way(drawn[wrong, 1], seen)
    assert np.allclose(identification(matrix)[wrong, np.arange(N)], expected)


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
    drawn, seen = features
    whole = correlation_matrix(drawn[:, 0], seen)
    monkeypatch.setattr(similarity, "_BLOCK", 4)
    assert np.allclose(correlation_matrix(drawn[:, 0], seen), whole, rtol=0, atol=1e-12)


def test_correlation_matrix_is_numpys(features):
    drawn, seen = features
    expected = np.corrcoef(drawn[:, 0], seen)[:N, N:]
    assert np.allclose(correlation_matrix(drawn[:, 0], seen), expected, atol=1e-12)


def test_two_way_within_category_leaves_lonely_and_unknown_images_out(features):
    drawn, seen = features
    main = np.array([0, 0, 1, 0, 1, -1, -1, 2])
    found = measures.two_way(drawn, seen, measures.groups_of(main))
    expected = np.stack([two_way(drawn[:, k], seen, [*main[:5], "a", "b", 2]) for k in range(K)], axis=1)
    assert np.allclose(found, expected, rtol=0, atol=EXACT, equal_nan=True)
    assert np.isnan(found[5:]).all()
    assert np.isfinite(found[:5]).all()
    background = np.array(["sea", "sea", "city", "sea", "city", "hills", "city", "sea"])
    found = measures.two_way(drawn, seen, background)
    expected = np.stack([two_way(drawn[:, k], seen, background) for k in range(K)], axis=1)
    assert np.allclose(found, expected, rtol=0, atol=EXACT, equal_nan=True)
    assert np.isnan(found[5]).all() and np.isnan(found).sum() == K


def test_correlation_distance(features):
    drawn, seen = features
    expected = np.array([[1 - pearson(drawn[i, k], seen[i]) for k in range(K)] for i in range(N)])
    drawn[2, 0], expected[2, 0] = 3.0, 1  # without a correlation
    assert np.allclose(measures.distance(drawn, seen), expected, rtol=0, atol=EXACT)


def test_category():
    prompts = np.eye(3)
    features = np.array(
        [[[0.9, 0.1, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]], [[1, 0, 0], [np.nan, 0, 0]], [[1, 0, 0]] * 2]
    )
    scores = measures.category(features, prompts, np.array([0, 2, 0, -1]))
    assert np.array_equal(scores[:3], [[1, 0], [1, 0], [1, 0]])
    assert np.isnan(scores[3]).all()


def test_shapes_that_do_not_fit_are_refused(images):
    with pytest.raises(ValueError, match=r"\(8, 2, 20, 20, 3\) do not fit .*\(7, 20"):
        measures.pixcorr(images[0], images[1][:7])


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
