import numpy as np
import pytest

from neuropictor.evaluation.measures import two_way, two_way_hard
from neuropictor.evaluation.statistics import bootstrap_mean, derangements, permutation_null


def bootstrap_reference(table, repetitions, seed):
    """The same resampling, with loops."""
    table = np.atleast_2d(table)
    draws = np.random.default_rng(seed).integers(0, table.shape[1], (repetitions, table.shape[1]))
    means = [np.mean([np.nanmean(row[chosen]) for row in table]) for chosen in draws]
    return np.mean([np.nanmean(row) for row in table]), *np.percentile(means, [2.5, 97.5])


def test_bootstrap_equals_the_definition():
    generator = np.random.default_rng(0)
    one, three = generator.random(40), generator.random((3, 40))
    three[0, 5] = three[1, 6] = np.nan
    for table in (one, three):
        found = bootstrap_mean(table, 200, 4)
        assert np.allclose((found.value, found.low, found.high), bootstrap_reference(table, 200, 4))
        assert found.n_images == 40


def test_bootstrap_counts_pictures_with_a_score():
    scores = np.array([[np.nan, 1.0, 2.0], [np.nan, 3.0, np.nan]])
    found = bootstrap_mean(scores, 100, 0)
    assert (found.value, found.n_images) == (2.25, 2)
    nothing = bootstrap_mean(np.full(3, np.nan), 10, 0)
    assert np.isnan(nothing.value)
    assert nothing.n_images == 0


def test_bootstrap_resamples_pictures_jointly():
    """Subjects that agree about pictures leave as much uncertainty as one subject; independent ones leave less."""
    scores = np.random.default_rng(1).random(60)
    one, same = bootstrap_mean(scores, 500, 2), bootstrap_mean(np.stack([scores] * 3), 500, 2)
    assert (one.low, one.high) == pytest.approx((same.low, same.high))


def test_bootstrap_covers_the_true_mean():
    generator = np.random.default_rng(2)
    inside = 0
    for seed in range(200):
        found = bootstrap_mean(generator.normal(1, 1, 50), 200, seed)
        inside += found.low <= 1 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_bootstrap_is_seeded():
    scores = np.random.default_rng(3).random(30)
    assert bootstrap_mean(scores, 100, 5) == bootstrap_mean(scores, 100, 5)
    assert bootstrap_mean(scores, 100, 5).low != bootstrap_mean(scores, 100, 6).low


def test_derangements():
    orders = derangements(7, 300, 1)
    assert orders.shape == (300, 7)
    assert (orders != np.arange(7)).all()
    assert (np.sort(orders, 1) == np.arange(7)).all()
    assert np.array_equal(orders, derangements(7, 300, 1))
    counts = np.array([[(orders[:, place] == value).sum() for value in range(7)] for place in range(7)])
    assert counts[~np.eye(7, dtype=bool)].min() > 25  # 50 expected everywhere off the diagonal
    with pytest.raises(ValueError, match="at least 2"):
        derangements(1, 1, 0)


def test_permutation_null_equals_rescoring_permuted_pairs():
    generator = np.random.default_rng(4)
    seen = generator.standard_normal((15, 8))
    drawn = seen + generator.standard_normal((15, 8))
    background = np.array([*"aaaabbbbccccdde"])
    found = permutation_null(drawn, seen, 50, 9)
    hard = permutation_null(drawn, seen, 50, 9, background)
    shuffles = np.random.default_rng(9)
    means, hard_means = [], []
    for _ in range(50):
        order = shuffles.permutation(15)
        means.append(two_way(drawn[order][:, None], seen).mean())
        hard_means.append(np.nanmean(two_way_hard(drawn[order][:, None], seen, background)))
    for estimate, values in ((found, means), (hard, hard_means)):
        assert estimate.value == pytest.approx(np.mean(values))
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert (found.n_images, hard.n_images) == (15, 14)
    assert found.high < two_way(drawn[:, None], seen).mean()
    assert abs(found.value - 0.5) < 0.05
