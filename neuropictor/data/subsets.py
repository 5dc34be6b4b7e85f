"""Parts of a subject's responses, as stores of their own: without whole clusters of images, or of few pairs.

Clusters answer whether networks draw kinds of images that they never learned: NSD's training and test images are of the
same kinds, and scores among them may come from telling kinds apart (Shirakawa et al., Neural Networks 2025). Few
image-response pairs are what a new person has.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2

from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import SPLITS, ResponseStore, ResponseWriter, subject_number
from neuropictor.records.checksums import verify
from neuropictor.records.files import atomic_path
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import PreprocessConfig

log = logging.getLogger(__name__)

_TRAIN, _VALIDATION, _TEST = range(len(SPLITS))
_TRIALS_AT_ONCE = 1024  # 18 MB of 8,921 vertices
_IMAGES_AT_ONCE = 256  # 40 MB of text features of 77 x 1024
_ROUNDS = 50  # of k-means, which converges before


def cluster_images(
    responses: Sequence[str | Path], latents: Sequence[str | Path], config: "PreprocessConfig", out: str | Path
) -> None:
    """Find clusters of images by what their captions say, and choose those that are held out of training.

    K-means on the captions' text features, averaged over tokens, with centres from the training images of all
    subjects; every other image is of the cluster whose centre is nearest. Clusters are chosen at random until their
    number is `config.clusters_held_out`.

    Parameters
    ----------
    responses, latents
        Response files and latents of all subjects.
    config
        `clusters`, `clusters_held_out` and `hold_out_seed` are used.
    out
        CSV to write: nsd_id, cluster (from 0; -1 for images without captions, which are never held out), held_out (0 or
        1); ascending by nsd_id.

    Raises
    ------
    ValueError
        If fewer training images have captions than there are clusters.
    """
    stores, images = [ResponseStore(path) for path in responses], LatentStore(*latents)
    seed, inputs = config.hold_out_seed, [*responses, *latents]
    with RunRecord(record_path(out), "clusters", config=config, seed=seed, inputs=inputs, outputs=[out]) as record:
        tested, trained = (
            np.unique(np.concatenate([store.images(split) for store in stores])) for split in ("test", "train")
        )
        every = np.unique(np.concatenate([store.nsd_id for store in stores]))
        described = every[images.described[images.rows(every)]]
        blocks = np.array_split(described, -(-len(described) // _IMAGES_AT_ONCE) or 1)
        features = np.concatenate([images.text[images.rows(block)].mean(1, dtype=np.float32) for block in blocks])
        fitted = np.isin(described, np.setdiff1d(trained, tested))
        if fitted.sum() < config.clusters:
            raise ValueError(
                f"preprocess.clusters: {config.clusters} clusters of {fitted.sum()} training images with captions; "
                f"allowed: at most as many, for example clusters: {max(2, fitted.sum() // 20)}"
            )
        random = np.random.default_rng(seed)
        centres, _ = kmeans2(features[fitted], config.clusters, _ROUNDS, minit="++", missing="raise", rng=random)
        nearest = np.full(len(every), -1)
        # Nearest by |x - c|^2, without |x|^2, which all centres share.
        nearest[np.searchsorted(every, described)] = (np.square(centres).sum(1) - 2 * features @ centres.T).argmin(1)
        held_out = np.sort(random.permutation(config.clusters)[: config.clusters_held_out])
        table = pd.DataFrame({"nsd_id": every, "cluster": nearest, "held_out": np.isin(nearest, held_out).astype(int)})
        with atomic_path(out) as temporary:
            table.to_csv(temporary, index=False)
        sizes = np.bincount(nearest[nearest >= 0], minlength=config.clusters)
        record.add(images=sizes.tolist(), held_out=held_out.tolist(), without_captions=int((nearest < 0).sum()))
        log.info("Held out: clusters %s of %s images", held_out.tolist(), sizes[held_out].tolist())


def leave_out_clusters(responses: str | Path, clusters: str | Path, out: str | Path) -> None:
    """Write a subject's responses without training and validation images of the clusters that are held out.

    Parameters
    ----------
    responses
        The subject's response file.
    clusters
        File of `cluster_images`.
    out
        Response file to write: all test images, and training and validation images of the other clusters.
    """
    verify(responses, clusters)
    store, table = ResponseStore(responses), pd.read_csv(clusters)
    held_out = np.isin(store.nsd_id, table.loc[table["held_out"] == 1, "nsd_id"])
    _write_part(store, (store.split == _TEST) | ~held_out, store.split, [responses, clusters], out)


def choose_pairs(responses: str | Path, pairs: int | None, seed: int, out: str | Path) -> None:
    """Write a subject's responses to the test images and to few others, all of which train.

    More pairs of the same seed have the fewer ones among them.

    Parameters
    ----------
    responses
        The subject's response file.
    pairs
        Number of images, with all their repeats; None: all training and validation images.
    seed
        Of the choice.
    out
        Response file to write.

    Raises
    ------
    ValueError
        If there are fewer images.
    """
    verify(responses)
    store = ResponseStore(responses)
    known = np.concatenate([store.images("train"), store.images("validation")])
    if pairs is not None and not 0 < pairs <= len(known):
        raise ValueError(
            f"pairs: {pairs} of {len(known)} images that are no test images in {responses}; allowed: 1 to "
            f"{len(known)}, or all"
        )
    random = np.random.default_rng([seed, subject_number(store.subject)])
    chosen = random.permutation(np.sort(known))[:pairs]
    tested = store.split == _TEST
    split = np.where(tested, _TEST, _TRAIN)
    _write_part(store, tested | np.isin(store.nsd_id, chosen), split, [responses], out)


def _write_part(
    store: ResponseStore, kept: np.ndarray, split: np.ndarray, inputs: list[str | Path], out: str | Path
) -> None:
    """Write the trials of a store that are kept, bool [T], with their splits."""
    rows = np.flatnonzero(kept)
    with (
        RunRecord(record_path(out), "subset", inputs=inputs, outputs=[out]) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        labels = {name: getattr(store, name) for name in ("subject", "data", "beta_version", "mesh")}
        writer = ResponseWriter(file, len(rows), store.n_vertices, **labels)
        for start in range(0, len(rows), _TRIALS_AT_ONCE):
            writer.append(store.rows[rows[start : start + _TRIALS_AT_ONCE]])
        fields = {name: getattr(store, name)[rows] for name in ("nsd_id", "session", "repeat")}
        writer.finish(ncsnr=store.ncsnr, missing=store.missing, split=split[rows], **fields)
        images = {name: len(np.unique(fields["nsd_id"][split[rows] == code])) for code, name in enumerate(SPLITS)}
        record.add(subject=store.subject, data=store.data, trials=len(rows), images=images)
        log.info("Subject %s: %s images", store.subject, images)
    store.close()
