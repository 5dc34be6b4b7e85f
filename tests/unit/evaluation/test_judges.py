"""Who judges, and that images are judged in blocks, whatever their number."""

import numpy as np
import pytest
import torch
from small_stores import CATEGORIES, SIZE, TEST, PretendBackbone, smooth_images, write_stimuli

from neuropictor.data.reconstructions import Reconstructions, StoredReconstructions, write_reconstructions
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation import judges, judging
from neuropictor.evaluation import metrics as measures
from neuropictor.evaluation.evaluate import Scorer
from neuropictor.evaluation.judges import Held, Judge, Seen, load_describer, reduced
from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.statistics import derangements

CPU = torch.device("cpu")


class Blocks(Held):
    """Images that note how many are read at once."""

    def __init__(self, images):
        super().__init__(images)
        self.sizes = []

    def read(self, rows, sample=0):
        self.sizes.append(len(rows))
        return super().read(rows, sample)


@pytest.fixture
def judge(tmp_path):
    store, ids = StimulusStore(write_stimuli(tmp_path / "stimuli.h5")), np.array(TEST)
    return Judge(PretendBackbone(), Seen(store, ids), store.category(ids), store.background(ids), list(CATEGORIES))


def test_clip_judges_wherever_networks_are_published(tmp_path, monkeypatch):
    backbone = PretendBackbone()
    backbone.image_encoder = None  # as Stable Diffusion
    with pytest.raises(
        ValueError, match=r"pretended has no image_encoder.* allowed: evaluate: \{networks: published\}"
    ):
        load_describer("miniature", backbone, None, CPU)
    with pytest.raises(ValueError, match="no folder of weights was given"):
        load_describer("published", backbone, None, CPU)
    monkeypatch.setattr(judging, "ClipDescriber", lambda folder, device: (folder, device))
    assert load_describer("published", backbone, tmp_path, CPU) == (tmp_path, CPU)


def test_scores_are_those_of_all_images_at_once_and_images_come_in_blocks(judge, monkeypatch):
    monkeypatch.setattr(judges, "IMAGES_AT_ONCE", 6)
    random, seen = np.random.default_rng(0), smooth_images(TEST)
    drawn = np.clip(seen[:, None] + 60 * random.standard_normal((len(seen), 2, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    images, rows = Blocks(drawn), np.arange(len(seen))
    scorer = Scorer(judge, [], None, CPU)
    scores, _, features = scorer.score(images, rows)
    assert images.sizes == [6, 6, 6, 2] * 2
    described = np.stack([judge.describer.image_features(drawn[:, k]).numpy() for k in range(2)], axis=1)
    np.testing.assert_allclose(features, described, atol=1e-6)
    expected = {"pixcorr": measures.pixcorr(drawn, seen), "ssim": measures.ssim(drawn, seen)}
    expected["two_way"] = measures.two_way(described, judge.features)
    for metric, values in expected.items():
        np.testing.assert_allclose(scores[OURS, metric], values.mean(1), rtol=0, atol=1e-9, err_msg=metric)
    wrong = derangements(len(seen), 4, 3)
    paired = drawn[:, 0][wrong].swapaxes(0, 1)
    found = scorer.wrong_pairs(images, rows, features, 3)
    np.testing.assert_allclose(found["pixcorr"], measures.pixcorr(paired, seen).mean(1), rtol=0, atol=1e-9)
    of_pairs = measures.two_way(described[:, 0][wrong].swapaxes(0, 1), judge.features)
    np.testing.assert_allclose(found["two_way"], of_pairs.mean(1), rtol=0, atol=1e-9)
    assert max(images.sizes) == 6


def test_stored_images_are_read_by_row_and_sample(tmp_path):
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (5, 3, 8, 8, 3), dtype=np.uint8)
    write_reconstructions(tmp_path / "a.h5", Reconstructions(images, np.arange(5), "refined", "01", "simulated"))
    stored = StoredReconstructions(tmp_path / "a.h5")
    assert (len(stored), stored.samples) == (5, 3)
    np.testing.assert_array_equal(stored.read(np.array([4, 0, 2]), 1), images[[4, 0, 2], 1])
    np.testing.assert_array_equal(reduced(stored, np.arange(5), 8, 2), images[:, 2])
