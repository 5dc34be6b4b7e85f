"""Scores against independent references, written from the definitions with plain loops in float64."""

import numpy as np
import pytest
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from neuropictor.evaluation import metrics as measures
from neuropictor.evaluation.similarity import correlation_matrix, identification

N, K, S, E = 9, 2, 24, 12


@pytest.fixture
def images():
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


def test_pixcorr(images):
    drawn, seen = images
    expected = [[correlation(drawn[i, k], seen[i]) for k in range(K)] for i in range(N)]
    assert np.allclose(measures.pixcorr(drawn, seen), expected, atol=1e-12)


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


def test_ssim_does_not_depend_on_blocks(images, monkeypatch):
    whole = measures.ssim(*images)
    monkeypatch.setattr(measures, "_SSIM_PIXELS", 2 * S * S)
    assert np.array_equal(measures.ssim(*images), whole)
    with pytest.raises(ValueError, match="11 pixels"):
        measures.ssim(images[0][:, :, :8, :8], images[1][:, :8, :8])


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
    seen[4] = seen[0]  # a distractor equal to the right image
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
    """The published evaluation: rows of the correlation matrix are images, columns reconstructions."""
    drawn, seen = features
    matrix = np.corrcoef(seen, drawn[:, 0])[:N, N:]
    expected = (matrix < np.diag(matrix)).sum(0) / (N - 1)
    assert np.allclose(measures.two_way(drawn[:, :1], seen)[:, 0], expected)


def test_two_way_hard_leaves_lonely_images_out(features):
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


def test_shapes_that_do_not_fit_are_refused(images):
    with pytest.raises(ValueError, match=r"\(9, 2, 24, 24, 3\) do not fit .*\(8, 24"):
        measures.pixcorr(images[0], images[1][:8])
