"""The order of NSD-Imagery's betas: the trials' is accepted at NSD's noise, any other refused, with both figures."""

import numpy as np
import pytest
from scipy import sparse

from neuropictor.data.sessions import Resampler
from neuropictor.data.trial_order import LEAST_LEAD, check_order
from neuropictor.nsd import imagery
from neuropictor.simulation.brain.brain import SimulatedBrain
from neuropictor.simulation.brain.features import SEEN_SIZE
from neuropictor.simulation.scenes.patterns import bars, word
from neuropictor.simulation.scenes.scene import render, scene
from neuropictor.surface import load_geometry

MESH, RUNS, TRIALS = "fsaverage5", 3, 48


@pytest.fixture(scope="module")
def seen():
    """Betas of three vision runs of a person in a session, by seed and subject, and the target of each trial."""
    geometry = load_geometry()
    columns = geometry.columns(MESH)
    resample = Resampler(sparse.csr_array(geometry.resampler(MESH)[:, columns]))
    angles = [(0,), (45,), (90,), (135,), (0, 90), (45, 135)]

    def of(seed, subject, strength=1.0):
        scenes = [scene(seed, number) for number in range(6)]
        images = [bars(degrees, SEEN_SIZE) for degrees in angles] + [render(item, SEEN_SIZE) for item in scenes]
        images += [word(text, SEEN_SIZE) for text in imagery.SET_C.values()]
        # NSD's lowest ratio is subject 8's.
        brain = SimulatedBrain(geometry, MESH, subject, seed, columns=columns)
        signal = strength * brain.signal(np.stack(images), [None] * 6 + scenes + [None] * 6)
        random = np.random.default_rng([seed, subject])
        targets = np.stack([random.permutation(np.repeat(np.arange(6), 8)) + 6 * run for run in range(RUNS)])
        return resample(brain.responses(signal[targets.ravel()], 41)).reshape(RUNS, TRIALS, -1), targets

    return of


def by_target(betas, targets):
    """Put the rows of each run together by target, as one analysis found them."""
    return np.stack([run[np.argsort(order, kind="stable")] for run, order in zip(betas, targets, strict=True)])


@pytest.mark.parametrize(("seed", "subject"), [(0, 1), (1, 5), (2, 8), (3, 8), (4, 8)])
def test_the_order_of_trials_is_told_from_the_grouped_one_at_the_noise_of_nsd(seen, seed, subject):
    betas, targets = seen(seed, subject)
    figures = check_order(betas, targets, "x")
    assert figures.lead > LEAST_LEAD + 2
    assert figures.chronological > 2 / 6 > figures.grouped + 0.05
    with pytest.raises(ValueError, match=r"x: taken in the order of the trials.* \d+% .*grouped by target, in \d+% "):
        check_order(by_target(betas, targets), targets, "x")


def test_other_orders_and_silent_betas_are_refused(seen):
    betas, targets = seen(0, 1)
    other = np.stack([np.random.default_rng(run).permutation(values) for run, values in enumerate(betas)])
    with pytest.raises(ValueError, match=r"allowed: 5 or more\. These betas are in another order"):
        check_order(other, targets, "x")
    with pytest.raises(ValueError, match="or hold no responses to what was seen"):
        check_order(*seen(0, 1, strength=0.0), "x")


def test_drift_does_not_speak_for_an_order_by_groups(seen):
    betas, targets = seen(3, 1)
    random = np.random.default_rng(0)
    time = np.linspace(0, 2 * np.pi, TRIALS)
    waves = np.sin(np.outer(random.uniform(0.5, 3, 4), time) + random.uniform(0, 6, (4, 1)))
    drift = np.einsum("wt,wv->tv", waves, random.standard_normal((4, betas.shape[2])))
    drifted = betas + 0.3 * betas.std(axis=1, keepdims=True) * drift
    figures = check_order(drifted, targets, "x")
    assert figures.grouped > figures.chronological  # what a plain comparison would go by
    assert figures.lead > LEAST_LEAD


def test_missing_and_still_vertices_are_left_out(seen):
    betas, targets = seen(0, 1)
    plain = check_order(betas, targets, "x")
    betas[:, :, 5], betas[0, 3, 7], betas[:, :, 9] = np.nan, np.nan, 1.0
    assert check_order(betas, targets, "x").lead == pytest.approx(plain.lead, rel=0.05)
