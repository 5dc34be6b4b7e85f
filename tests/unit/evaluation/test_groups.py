"""Scores by kinds of images and by numbers of pairs: each group is scored as if there were no other."""

import h5py
import numpy as np
import pandas as pd
import pytest
from small_stores import SIZE, PretendBackbone, smooth_images, write_samples, write_stimuli

from neuropictor.config import EvaluateConfig, RuntimeConfig
from neuropictor.data.stimuli import StimulusWriter
from neuropictor.evaluation import groups
from neuropictor.evaluation.metrics import pixcorr, two_way
from neuropictor.evaluation.tables import read_metrics, read_scores, read_tests

KINDS = {"A": np.arange(200, 206), "B": np.arange(206, 212), "C": np.arange(212, 218)}
IDS = np.concatenate(list(KINDS.values()))
CONFIG, RUNTIME = EvaluateConfig(bootstrap=50, permutations=99, seed=3), RuntimeConfig(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    monkeypatch.setattr(groups.Backbone, "load", PretendBackbone.load)


def drawn(ids, noise, seed):
    random = np.random.default_rng(seed)
    seen = smooth_images(ids).astype(float)
    return np.clip(seen[:, None] + noise * random.standard_normal((len(ids), 2, *seen.shape[1:])), 0, 255).astype(
        np.uint8
    )


@pytest.fixture
def scored(tmp_path):
    """Kinds A and B, and C without true images; two samples an image."""
    with h5py.File(tmp_path / "stimuli.h5", "w") as file:
        writer = StimulusWriter(file, IDS, SIZE, "simulated")
        writer.append(smooth_images(IDS))
        kinds = [kind for kind, ids in KINDS.items() for _ in ids]
        writer.finish([[] for _ in IDS], kinds, [""] * len(IDS))
    samples = {}
    for subject in ("01", "02"):
        for place, (model, noise) in enumerate((("refined", 120), ("ridge_diffusion", 200))):
            path = tmp_path / f"sub-{subject}" / f"{model}.h5"
            images = drawn(IDS, noise, [place, int(subject)])
            samples.setdefault(subject, {})[model] = write_samples(path, model, subject, images, IDS)
    out = tmp_path / "vision" / "metrics.csv"
    out.parent.mkdir()
    groups.evaluate_test_set(samples, [tmp_path / "stimuli.h5"], "miniature", CONFIG, RUNTIME, out)
    return out


def features(images):
    return PretendBackbone().image_features(images.reshape(-1, SIZE, SIZE, 3)).numpy().reshape(*images.shape[:2], -1)


def test_a_group_is_scored_as_if_there_were_no_other(scored):
    scores = read_scores(scored.with_name("scores.csv"))
    assert list(dict.fromkeys(scores["group"])) == ["all", "A", "B"]
    images = drawn(IDS, 120, [0, 1])
    for group, ids in (("all", IDS[:12]), ("A", KINDS["A"]), ("B", KINDS["B"])):
        part = scores[(scores["group"] == group) & (scores["subject"] == "01") & (scores["model"] == "refined")]
        rows = np.isin(IDS, ids)
        seen = smooth_images(ids)
        assert part["nsd_id"].tolist() == [str(number) for number in ids]
        np.testing.assert_allclose(part["pixcorr"], pixcorr(images[rows], seen).mean(1), atol=1e-6)
        expected = two_way(features(images[rows]), features(seen[:, None])[:, 0]).mean(1)
        np.testing.assert_allclose(part["two_way"], expected, atol=1e-6)


def test_identification_among_other_kinds_is_that_of_images_of_other_kinds_alone(scored):
    scores = read_scores(scored.with_name("scores.csv"))
    part = scores[(scores["group"] == "B") & (scores["subject"] == "02") & (scores["model"] == "ridge_diffusion")]
    made, seen = features(drawn(IDS, 200, [1, 2]))[6:12], features(smooth_images(IDS[:12])[:, None])[:, 0]
    for place, value in enumerate(part["two_way_between"]):
        correlations = np.array([[np.corrcoef(one, other)[0, 1] for other in seen] for one in made[place]])
        expected = (correlations[:, :6] < correlations[:, [6 + place]]).mean()
        assert value == pytest.approx(expected, abs=1e-6)
    assert scores.loc[scores["group"] == "all", "two_way_between"].isna().all()


def test_nothing_is_read_off_images_by_the_names_of_kinds(scored):
    assert not {"category", "two_way_hard", "two_way_category"} & set(read_metrics(scored)["metric"])


def test_tests_are_of_each_group(scored):
    tests = read_tests(scored.with_name("statistics.csv"))
    for group, count in (("all", 12), ("A", 6), ("B", 6)):
        part = tests[(tests["group"] == group) & (tests["metric"] == "two_way") & (tests["subject"] == "mean")]
        assert set(part["n_images"]) == {count}
        above = part[(part["test"] == "above chance") & (part["model"] == "refined")].iloc[0]
        assert above["value"] > above["high"] and above["p"] == 0.01
        assert part.loc[part["test"] == "difference", "other"].tolist() == ["ridge_diffusion"]


def test_numbers_of_pairs_are_groups(tmp_path):
    stimuli = write_stimuli(tmp_path / "stimuli.h5")
    files = []
    for pairs, noise in (("0", 3000), ("50", 600), ("all", 20)):
        for model in ("adapted", "ridge_diffusion")[: 1 if pairs == "0" else 2]:
            path = tmp_path / f"pairs-{pairs}" / "sub-07" / f"{model}.h5"
            files.append(write_samples(path, model, "07", drawn(range(100, 120), noise, 1)))
    out = tmp_path / "metrics.csv"
    groups.evaluate_pairs(files, [stimuli], "miniature", CONFIG, RUNTIME, out)
    frame = read_metrics(out)
    value = frame[(frame["subject"] == "mean") & (frame["metric"] == "two_way")].set_index(["group", "model"])["value"]
    assert value["0", "adapted"] < value["50", "adapted"] < value["all", "adapted"]
    assert ("0", "ridge_diffusion") not in value and value["50", "ridge_diffusion"] == value["50", "adapted"]
    assert {"category", "two_way_hard"} <= set(frame["metric"])
    assert set(pd.read_csv(tmp_path / "statistics.csv")["model"]) == {"adapted", "ridge_diffusion"}
