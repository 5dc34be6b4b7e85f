"""The bottleneck: K numbers pass, the most telling ones, and nothing beside them."""

import numpy as np
import pytest

from neuropictor.controls.bottleneck import Bottleneck

RANDOM = np.random.default_rng(0)
SPREAD = RANDOM.standard_normal((20, 20)) * np.geomspace(9, 0.1, 20)  # vertices go together, as in brains
WEIGHTS, OFFSETS = RANDOM.standard_normal((20, 6)), RANDOM.standard_normal(6)


def responses(count, seed):
    return (np.random.default_rng(seed).standard_normal((count, 20)) @ SPREAD + 3).astype(np.float32)


def read(given):
    return given @ WEIGHTS + OFFSETS


TRAIN, TEST = responses(300, 1), responses(40, 2)
READ = read(TRAIN.astype(float))


@pytest.fixture(scope="module")
def bottleneck():
    return Bottleneck(TRAIN, read, 6)


@pytest.mark.parametrize("count", range(7))
def test_what_is_read_is_cut_to_its_first_principal_components(bottleneck, count):
    axes = np.linalg.svd(READ - READ.mean(0), full_matrices=False)[2][:count]
    expected = READ.mean(0) + (read(TEST) - READ.mean(0)) @ axes.T @ axes
    np.testing.assert_allclose(read(bottleneck.cut(TEST, count).astype(float)), expected, atol=1e-3)


def test_all_numbers_keep_all_that_is_read(bottleneck):
    np.testing.assert_allclose(read(bottleneck.cut(TEST, 6).astype(float)), read(TEST), atol=1e-3)


@pytest.mark.parametrize("count", range(7))
def test_no_more_than_so_many_numbers_pass(bottleneck, count):
    cut = bottleneck.cut(TEST, count).astype(float)
    assert np.linalg.matrix_rank(cut - TRAIN.mean(0), tol=1e-3) == count
    np.testing.assert_allclose(bottleneck.cut(cut, count), cut, atol=1e-3)


def test_no_number_leaves_the_mean_training_response(bottleneck):
    np.testing.assert_allclose(bottleneck.cut(TEST, 0), np.broadcast_to(TRAIN.mean(0), TEST.shape), atol=1e-5)


def test_the_rest_of_a_response_is_what_its_numbers_predict(bottleneck):
    """Of training responses, what is lost has nothing to do with the numbers."""
    axes = np.linalg.svd(READ - READ.mean(0), full_matrices=False)[2][:2]
    lost = TRAIN - bottleneck.cut(TRAIN, 2)
    assert np.abs(((READ - READ.mean(0)) @ axes.T).T @ lost).max() < 1e-4 * np.linalg.norm(READ) * np.linalg.norm(TRAIN)


def test_the_numbers_keep_more_than_directions_of_the_weights_do(bottleneck):
    """The projection on the first left singular vectors of the weights, which ignores how responses vary."""
    vectors = np.linalg.svd(WEIGHTS, full_matrices=False)[0]
    varied = np.square(READ - READ.mean(0)).sum()
    for count in (1, 2, 3, 4):
        along = vectors[:, :count] @ vectors[:, :count].T
        projected = TRAIN.mean(0) + (TRAIN - TRAIN.mean(0)) @ along
        lost = [np.square(read(cut) - READ).sum() / varied for cut in (bottleneck.cut(TRAIN, count), projected)]
        assert lost[0] < lost[1], count


@pytest.mark.parametrize("images", [300, 12])
def test_without_a_decoder_they_are_principal_components_of_the_responses(images):
    train = TRAIN[:images].astype(float)
    axes = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:5]
    expected = train.mean(0) + (TEST - train.mean(0)) @ axes.T @ axes
    found = Bottleneck(TRAIN[:images], lambda given: given, 5).cut(TEST, 5)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_more_numbers_than_there_are_directions_are_refused():
    with pytest.raises(ValueError, match=r"bottleneck_components: 7, but .* varies in 6 directions; allowed: 1 to 6"):
        Bottleneck(TRAIN, read, 7)
    with pytest.raises(ValueError, match=r"bottleneck_components: 4, .* 4 training responses varies in 3 directions"):
        Bottleneck(TRAIN[:4], read, 4)
