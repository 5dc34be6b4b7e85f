import numpy as np
import pytest

from neuropictor.config import SimulateConfig
from neuropictor.nsd.constants import SESSIONS
from neuropictor.simulation.writer.trial_order import make_order, sessions_of, trials_per_run


def config(**changes):
    return SimulateConfig(**({"seed": 3, "sessions": 40, "trials_per_session": 750, "shared_images": 1000} | changes))


def test_the_full_size_resembles_nsd():
    order = make_order(config())
    assert order.master_order.shape == (30_000,) and (np.bincount(order.master_order) == 3).all()
    assert order.n_images == 73_000
    for sessions, distinct in ((27, 8779), (30, 9209), (32, 9411), (37, 9841)):
        assert len(np.unique(order.master_order[: sessions * 750])) == pytest.approx(distinct, abs=100)
    assert not (np.diff(order.master_order) == 0).any()
    assert (order.pattern.sum(axis=(1, 2)) == 750).all() and (order.pattern[0].sum(axis=1) == [63, 62] * 6).all()
    assert not order.pattern[..., :3].any() and not order.pattern[..., -4:].any()


def test_images_are_shared_or_private():
    order = make_order(config(sessions=2, shared_images=50))
    shown = order.images_of_subject
    assert (shown[:, :50] == order.shared).all() and (np.diff(order.shared) > 0).all()
    first = shown[[0, 1, 4]]
    assert order.shared[0] < 100 and first.max() - 100 < order.shared[-1] <= first.max()
    np.testing.assert_array_equal(np.unique(first), np.arange(order.n_first))
    for row, subject in ((2, 3), (3, 4), (5, 6), (6, 7), (7, 8)):
        own = np.arange(order.block(subject).start, order.block(subject).stop)
        np.testing.assert_array_equal(np.unique(shown[row, 50:]), own)
    private = shown[:, 50:].ravel()
    assert len(np.unique(private)) == private.size and not np.isin(private, order.shared).any()
    np.testing.assert_array_equal(np.sort(np.append(private, order.shared)), np.arange(order.n_images))


def test_sessions_scale_with_nsd():
    assert {subject: sessions_of(subject, 40) for subject in SESSIONS} == SESSIONS
    assert [sessions_of(subject, 6) for subject in SESSIONS] == [6, 6, 5, 5, 6, 5, 6, 5]
    assert sessions_of(4, 1) == 1


def test_runs_share_the_trials():
    assert trials_per_run(30).tolist() == [3, 2] * 6 and trials_per_run(1).sum() == 1
