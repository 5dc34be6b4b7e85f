"""Parts of responses: clusters of images that train nobody, and few image-response pairs."""

import h5py
import numpy as np
import pandas as pd
import pytest
from small_stores import TEST, TRAIN, VALIDATION, write_responses

from neuropictor.config import PreprocessConfig
from neuropictor.data.responses import ResponseStore
from neuropictor.data.subsets import choose_pairs, cluster_images, leave_out_clusters

KNOWN = [*TRAIN, *VALIDATION]
IDS = np.array([*KNOWN, *TEST])
KINDS = IDS % 3
CONFIG = PreprocessConfig(clusters=3, clusters_held_out=1)


def write_latents(path, described=None):
    """Text features of three kinds; those of test images are far from the centre of their kind."""
    random = np.random.default_rng(0)
    text = np.eye(3)[KINDS][:, None].repeat(2, 1) * 10 + 0.1 * random.standard_normal((len(IDS), 2, 3))
    text[np.isin(IDS, TEST)] *= 3
    with h5py.File(path, "w") as file:
        file["nsd_id"], file["text"] = IDS, text.astype(np.float16)
        file["mean"] = file["logvar"] = np.zeros((len(IDS), 1, 2, 2), np.float16)
        file["caption_tokens"] = np.zeros((len(IDS), 5, 2), np.int32)
        if described is not None:
            file["described"] = described
    return path


@pytest.fixture
def files(tmp_path):
    return write_responses(tmp_path / "responses.h5"), write_latents(tmp_path / "latents.h5")


def test_clusters_are_those_of_what_captions_say(files, tmp_path):
    responses, latents = files
    cluster_images([responses], [latents], CONFIG, tmp_path / "clusters.csv")
    table = pd.read_csv(tmp_path / "clusters.csv")
    assert table["nsd_id"].tolist() == IDS.tolist()
    for kind in range(3):
        assert table.loc[kind == KINDS, "cluster"].nunique() == 1
    assert table.loc[table["held_out"] == 1, "cluster"].nunique() == 1


def test_test_images_choose_no_cluster(files, tmp_path):
    responses, latents = files
    cluster_images([responses], [latents], CONFIG, tmp_path / "one.csv")
    with h5py.File(latents, "r+") as file:
        file["text"][np.isin(IDS, TEST)] = np.random.default_rng(1).standard_normal((len(TEST), 2, 3))
    cluster_images([responses], [latents], CONFIG, tmp_path / "two.csv")
    one, two = (pd.read_csv(tmp_path / name)[: len(KNOWN)] for name in ("one.csv", "two.csv"))
    pd.testing.assert_frame_equal(one, two)


def test_images_without_captions_are_of_no_cluster(tmp_path, files):
    described = np.arange(len(IDS)) % 10 != 0
    latents = write_latents(tmp_path / "some.h5", described)
    cluster_images([files[0]], [latents], CONFIG, tmp_path / "clusters.csv")
    table = pd.read_csv(tmp_path / "clusters.csv")
    assert ((table["cluster"] == -1) == ~described).all()
    assert not table.loc[~described, "held_out"].any()


def test_held_out_clusters_train_and_validate_nobody_and_all_test(files, tmp_path):
    responses, latents = files
    cluster_images([responses], [latents], CONFIG, tmp_path / "clusters.csv")
    leave_out_clusters(responses, tmp_path / "clusters.csv", tmp_path / "part.h5")
    table = pd.read_csv(tmp_path / "clusters.csv")
    held_out = set(table.loc[table["held_out"] == 1, "nsd_id"])
    whole, part = ResponseStore(responses), ResponseStore(tmp_path / "part.h5")
    for split in ("train", "validation"):
        assert set(part.images(split)) == set(whole.images(split)) - held_out < set(whole.images(split))
    assert part.images("test").tolist() == list(TEST)
    assert held_out & set(TEST)
    for nsd_id in (part.images("train")[0], TEST[0]):
        np.testing.assert_array_equal(part.mean_response([nsd_id]), whole.mean_response([nsd_id]))
    assert part.subject == whole.subject and part.data == whole.data


def test_too_many_clusters_are_refused(files, tmp_path):
    config = PreprocessConfig(clusters=70)
    with pytest.raises(ValueError, match=r"preprocess\.clusters: 70 clusters of 60 training .*; allowed: at most"):
        cluster_images([files[0]], [files[1]], config, tmp_path / "clusters.csv")
    assert not (tmp_path / "clusters.csv").exists()


def test_more_pairs_have_the_fewer_ones_among_them_and_all_of_them_train(files, tmp_path):
    chosen = {}
    for pairs in (10, 40, None):
        choose_pairs(files[0], pairs, 3, tmp_path / "pairs.h5")
        store = ResponseStore(tmp_path / "pairs.h5")
        chosen[pairs] = set(store.images("train"))
        assert len(store.images("validation")) == 0
        assert store.images("test").tolist() == list(TEST)
        assert (store.split == 0).sum() == 3 * len(chosen[pairs])  # with all repeats
    assert chosen[10] < chosen[40] < chosen[None] == set(KNOWN)
    assert [len(ids) for ids in chosen.values()] == [10, 40, 75]
    choose_pairs(files[0], 10, 4, tmp_path / "pairs.h5")
    assert set(ResponseStore(tmp_path / "pairs.h5").images("train")) != chosen[10]


def test_more_pairs_than_images_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"pairs: 76 of 75 images that are no test .*; allowed: 1 to 75, or all"):
        choose_pairs(files[0], 76, 3, tmp_path / "pairs.h5")
