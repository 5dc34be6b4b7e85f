import numpy as np
import pytest

from neuropictor.evaluation.metrics import correlations, two_way
from neuropictor.evaluation.similarity import identification
from neuropictor.evaluation.statistics import (
    Pairings,
    bootstrap_mean,
    chance_interval,
    derangements,
    holm,
    p_above,
    p_difference,
)


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


def test_bootstrap_counts_images_with_a_score():
    scores = np.array([[np.nan, 1.0, 2.0], [np.nan, 3.0, np.nan]])
    found = bootstrap_mean(scores, 100, 0)
    assert (found.value, found.n_images) == (2.25, 2)
    nothing = bootstrap_mean(np.full(3, np.nan), 10, 0)
    assert np.isnan(nothing.value)
    assert nothing.n_images == 0


def test_bootstrap_resamples_images_jointly():
    """Subjects that agree about images leave as much uncertainty as one subject; independent ones leave less."""
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


def test_random_pairings_equal_rescoring_them():
    generator = np.random.default_rng(4)
    seen = generator.standard_normal((15, 8))
    drawn = seen[:, None] + generator.standard_normal((15, 2, 8))
    groups = np.array([*map(ord, "aaaabbbbccccdde")])
    pairings = Pairings(20, 99, 9)
    rows = np.array([*range(3, 18)])
    for chosen in (None, groups):
        tables = np.stack([identification(table, chosen) for table in correlations(drawn, seen)])
        found = pairings.null(tables, rows)
        expected = [np.nanmean(two_way(drawn[order], seen, chosen)) for order in pairings.orders(rows)]
        assert np.allclose(found, expected)
        assert abs(found.mean() - 0.5) < 0.02
        low, high = chance_interval(found)
        assert low < 0.5 < high < np.nanmean(two_way(drawn, seen, chosen))
    assert (np.sort(pairings.orders(rows), 1) == np.arange(15)).all()
    assert np.isnan(pairings.null(np.full((1, 15, 15), np.nan), rows)).all()


def test_p_of_chance_is_uniform_and_never_zero():
    null = np.random.default_rng(5).random(999)
    assert p_above(2.0, null) == 1 / 1000
    assert p_above(null.max(), null) == 2 / 1000
    assert p_above(-1.0, null) == 1
    found = [p_above(value, null) for value in np.random.default_rng(6).random(2000)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_p_of_differences():
    generator = np.random.default_rng(7)
    nothing = [p_difference(generator.standard_normal((2, 40)), 199, seed) for seed in range(300)]
    assert np.mean(np.array(nothing) <= 0.05) == pytest.approx(0.05, abs=0.03)
    table = generator.standard_normal((2, 40)) + 1
    table[1, :4] = np.nan
    assert p_difference(table, 999, 0) == 1 / 1000
    assert p_difference(-table, 999, 0) == 1 / 1000
    assert p_difference(np.zeros(30), 199, 0) == 1
    # All sign changes of three images, with loops: two of eight are as extreme.
    many = p_difference(np.array([1.0, 2.0, 4.0]), 20_000, 1)
    assert many == pytest.approx(2 / 8, abs=0.01)


def test_subjects_that_agree_about_images_are_no_further_evidence():
    values = np.random.default_rng(8).standard_normal(25) + 0.3
    assert p_difference(values, 999, 3) == p_difference(np.stack([values] * 4), 999, 3)


def test_holm_equals_the_published_example():
    """Four tests at 0.05: 0.01 x 4, 0.005 x ... (Holm 1979, step down)."""
    assert np.allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert np.allclose(holm(np.array([0.6, 0.9])), [1, 1])
    assert len(holm(np.array([]))) == 0
