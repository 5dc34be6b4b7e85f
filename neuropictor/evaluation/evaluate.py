"""The stage that scores all reconstructions: Scorer, ceilings, and the tidy tables with intervals and tests.

All scores of all models are made in one pass: every image is read once, and every network that judges is loaded once.
Images are read, compared and forgotten in blocks of `judges.IMAGES_AT_ONCE`; only features grow with their number: for
982 images the longest, AlexNet's second layer, take 0.7 GB each for the seen and the scored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from neuropictor.config.drawing import SampleConfig
from neuropictor.config.types import Subject
from neuropictor.data.origin import joined_label
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore, resize_images
from neuropictor.evaluation.judges import Held, Images, Judge, Seen, blocks, load_describer, look
from neuropictor.evaluation.judging import LoadedNetwork, PerceptualDistance, common_images, pixel_images
from neuropictor.evaluation.metrics import METRICS, Space, shown_in
from neuropictor.evaluation.networks import NETWORKS
from neuropictor.evaluation.protocols import OURS, PROTOCOLS, Protocol
from neuropictor.evaluation.statistics import Nulls, Pairings, derangements, summarise, tests_of
from neuropictor.evaluation.tables import (
    METRIC_COLUMNS,
    SCORE_COLUMNS,
    SCORES,
    STATISTICS,
    TEST_COLUMNS,
    order_models,
    without_ceilings,
    write_table,
)
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.records.files import Folder
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path
from neuropictor.sampling import Sampler, batched

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, RuntimeConfig

log = logging.getLogger(__name__)

ByMetric = dict[tuple[str, str], np.ndarray]
"""By label of the protocol and metric: float64 [n], or [repetitions] of a null distribution."""

COMPARED = "refined"
"""Model that the others are compared with, and whose reconstructions, paired with wrong images, make the null."""
USED = ("bootstrap", "permutations", "seed", "networks", "protocols")
"""Settings of `evaluate` that the scores depend on."""

NULL_PAIRINGS = 4
"""Wrong pairings that the null averages over: fewer would leave its own chance in it, more take time."""

TEXT_IMAGES = 48
"""Images of the text ceiling: its standard error is at most 7 points."""
TEXT_SAMPLING = {"steps": 15, "guidance_scale": 3.0, "batch_size": 8}


def evaluate(
    samples: dict[Subject, dict[str, Path]],
    stimuli: Sequence[Path],
    backbone: str | Path,
    config: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
    weights: Folder | None = None,
) -> None:
    """Score reconstructions of all subjects and models.

    Parameters
    ----------
    samples
        dict of dict of Path: `samples[subject][model]`; the model "null" is made here from "refined", and so are the
        ceilings.
    stimuli
        Prepared images of the subjects.
    backbone
        Judges the images, unless published networks do; its VAE and text tower give the ceilings.
    config
        The settings of `USED`.
    runtime
        Section of the configuration.
    out
        `metrics.csv`; `scores.csv` and `statistics.csv` are written beside it.
    weights
        Folder of `fetch_weights`; needed with `networks: published`.
    """
    device = prepare_device(runtime)
    files = [path for models in samples.values() for path in models.values()]
    used = {name: getattr(config, name) for name in USED}
    tables = [out, out.with_name(SCORES), out.with_name(STATISTICS)]
    with RunRecord(
        record_path(out), "evaluate", config=used, seed=config.seed, inputs=[*stimuli, *files], outputs=tables
    ) as record:
        reconstructions = open_samples(samples)
        store = StimulusStore(*stimuli)
        nsd_ids = np.unique(np.concatenate([images.nsd_id for images in reconstructions.values()]))
        frozen = Backbone.load(backbone).to(device)
        judge = Judge.of_store(load_describer(config.networks, frozen, weights, device), store, nsd_ids, config.seed)
        places = {key: (images, np.searchsorted(nsd_ids, images.nsd_id)) for key, images in reconstructions.items()}
        scorer = Scorer(judge, config.protocols, weights if config.networks == "published" else None, device)
        pairings = Pairings(len(nsd_ids), config.permutations, config.seed)
        scores, nulls = score_all(scorer, places, nsd_ids, pairings, COMPARED, config.seed)
        data = joined_label(images.data for images in reconstructions.values())
        tests = tests_of(without_ceilings(scores), nulls, COMPARED, data, config)
        rows = {subject: rows for (subject, _), (_, rows) in places.items()}
        of_ceilings = score_ceilings(judge, frozen, store, nsd_ids, rows, config.seed, runtime)
        write_scores(pd.concat([scores, of_ceilings]), data, config, out)
        write_table(tests, TEST_COLUMNS, out.with_name(STATISTICS))
        record.add(
            data=data,
            test_images=len(nsd_ids),
            backbone=frozen.name,
            networks=config.networks,
            judge=judge.describer.name,
            categories=store.categories,
            null_pairings=NULL_PAIRINGS,
        )


def open_samples(samples: Mapping[str, Mapping[str, Path]]) -> dict[tuple[str, str], StoredReconstructions]:
    """Open the files of all subjects and models.

    Raises
    ------
    ValueError
        If those of a subject do not reconstruct the same images, or a file is not of the subject that its path says.
    """
    opened = {}
    for subject, models in samples.items():
        first = next(iter(models.values()))
        for model, path in models.items():
            images = opened[subject, model] = StoredReconstructions(path)
            expected = opened[subject, next(iter(models))].nsd_id
            if images.subject != subject:
                raise ValueError(f"{path}: is of subject {images.subject}, but was given as subject {subject}'s")
            if not np.array_equal(images.nsd_id, expected):
                raise ValueError(
                    f"{path}: {len(images.nsd_id)} images that differ from the {len(expected)} of {first}; all models"
                    " of a subject need the same test images: sample them again from the same responses"
                )
    return opened


def write_scores(scores: pd.DataFrame, data: str, config: EvaluateConfig, out: Path, mean: bool = True) -> list[dict]:
    """Write `metrics.csv` and, beside it, `scores.csv`; return the rows of the former."""
    rows = summarise(scores, data, config, mean)
    write_table(rows, METRIC_COLUMNS, out)
    names = [name for name in METRICS if name in scores and scores[name].notna().any()]
    write_table(scores, [*SCORE_COLUMNS, *names], out.with_name(SCORES))
    return rows


class Scorer:
    """Scores images against the seen ones by the protocol `ours`, and by published ones.

    Parameters
    ----------
    judge
        Of the N seen images.
    protocols
        Names of published ones; others are left out.
    weights
        Folder of `fetch_weights`; without it there is no LPIPS, and of published protocols only PixCorr and SSIM.
    device
        Where it runs.
    """

    def __init__(self, judge: Judge, protocols: Sequence[str], weights: Path | None, device: torch.device):
        self.judge, self.device = judge, device
        self.protocols = [PROTOCOLS[name] for name in protocols if name in PROTOCOLS]
        by_images = {name for name, metric in METRICS.items() if metric.needs == "images"}
        self._by_images = {OURS: shown_in("main", by_images)}
        self._by_images |= {protocol.label: shown_in("published", by_images) for protocol in self.protocols}
        self.perceptual = PerceptualDistance(weights, device) if weights else None
        networks = NETWORKS.values() if self.protocols else ()
        self.networks = [LoadedNetwork(network, weights, device) for network in networks] if weights else []
        self._known: ByMetric = {}
        for rows in blocks(len(judge.seen)) if self.networks else ():
            seen = judge.seen.read(rows)
            for protocol in self.protocols:
                self._see(common_images(seen, protocol, device), protocol, self._known, rows, len(judge.seen))

    def score(
        self, images: Images, rows: np.ndarray, pairings: Pairings | None = None
    ) -> tuple[ByMetric, ByMetric, np.ndarray]:
        """Score images.

        Parameters
        ----------
        images
            K samples of each of n images.
        rows
            int [n]: rows of their seen images.
        pairings
            Of the null distributions; None for none.

        Returns
        -------
        scores : dict of float64 arrays [n]
            By label of the protocol and metric, averaged over samples.
        nulls : dict of float64 arrays [repetitions]
            The same for scores whose chance is known: means under random pairing.
        features : float32 array [n, K, E]
            In the judge's space.
        """
        scores: ByMetric = {}
        tables: dict[tuple[str, str], list[np.ndarray]] = {}
        described = []
        for sample in range(images.samples):
            parts, features = self.look_through(images, rows, sample)
            described.append(features.pop((OURS, "")))
            for key, values in features.items():
                seen = self._known[key] if len(rows) == len(self._known[key]) else self._known[key][rows]
                metric, space = METRICS[key[1]], Space(values[:, None], seen)
                parts[key] = metric.function(space)[:, 0]
                if pairings is not None and metric.chance is not None:
                    tables.setdefault(key, []).append(metric.table(space)[0])
            for key, values in parts.items():
                scores[key] = scores.get(key, 0.0) + values / images.samples
        features = np.stack(described, axis=1)
        space = self.judge.space(features, rows)
        scores |= {(OURS, name): values for name, values in self.judge.score(space).items()}
        nulls: ByMetric = {}
        if pairings is not None:
            ours = [metric for metric in self.judge.metrics if metric.chance is not None]
            nulls = {(OURS, metric.name): pairings.null(metric.table(space), rows) for metric in ours}
            nulls |= {key: pairings.null(np.stack(parts), rows) for key, parts in tables.items()}
        return scores, nulls, features

    def wrong_pairs(self, images: Images, rows: np.ndarray, features: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Score the first sample of images as if they were of other seen images, by `ours`: float64 [n] by metric.

        Parameters
        ----------
        images, rows, features
            Arguments and result of `score`.
        seed
            Of the wrong pairs.
        """
        wrong = derangements(len(rows), NULL_PAIRINGS, seed)
        scores = {name: np.empty(len(rows)) for name in self._by_images[OURS]}
        for part in blocks(len(rows)):
            seen = self.judge.seen.read(rows[part])
            paired = [resize_images(images.read(order[part]), self.judge.size) for order in wrong]
            for name, values in scores.items():
                values[part] = METRICS[name].function(np.stack(paired, axis=1), seen).mean(1)
        return scores | self.judge.score(self.judge.space(features[:, 0][wrong].swapaxes(0, 1), rows))

    def look_through(self, images: Images, rows: np.ndarray, sample: int = 0) -> tuple[ByMetric, ByMetric]:
        """Score and describe one sample of all images.

        Returns
        -------
        scores : dict of float64 arrays [n]
            Scores that need the images themselves.
        features : dict of float32 arrays [n, E]
            In the judge's space under (`OURS`, ""), and for each score of published networks.
        """
        count, judge = len(images), self.judge
        scores = {(label, name): np.empty(count) for label, names in self._by_images.items() for name in names}
        features: ByMetric = {}
        if self.perceptual is not None:
            scores[OURS, "lpips"] = np.empty(count)
        for part in blocks(count):
            made, seen = images.read(part, sample), judge.seen.read(rows[part])
            _put(features, (OURS, ""), look(judge.describer, made), part, count)
            sized = resize_images(made, judge.size)
            pairs = {OURS: (sized, seen)}
            if self.perceptual is not None:
                scores[OURS, "lpips"][part] = self.perceptual(sized, seen)
            for protocol in self.protocols:
                common = [common_images(side, protocol, self.device) for side in (made, seen)]
                pairs[protocol.label] = pixel_images(common[0], protocol), pixel_images(common[1], protocol)
                self._see(common[0], protocol, features, part, count)
            for label, (left, right) in pairs.items():
                for name in self._by_images[label]:
                    scores[label, name][part] = METRICS[name].function(left[:, None], right)[:, 0]
        return scores, features

    def _see(self, common: torch.Tensor, protocol: Protocol, features: ByMetric, part: np.ndarray, count: int) -> None:
        """Keep the published networks' features of a block of images."""
        for network in self.networks:
            for name, values in network.features(common, protocol).items():
                _put(features, (protocol.label, name), values, part, count)


def _put(features: ByMetric, key: tuple[str, str], values: np.ndarray, part: np.ndarray, count: int) -> None:
    """Put a block's features into the array of all images, which the first block allocates."""
    if key not in features:
        features[key] = np.empty((count, values.shape[1]), np.float32)
    features[key][part] = values


def score_all(
    scorer: Scorer,
    images: Mapping[tuple[str, str], tuple[Images, np.ndarray]],
    nsd_ids: np.ndarray,
    pairings: Pairings,
    null_of: str | None,
    seed: int,
) -> tuple[pd.DataFrame, Nulls]:
    """Score all models.

    Parameters
    ----------
    scorer
        Scores each model.
    images
        By subject and model: images, and their rows among the seen ones.
    nsd_ids
        [N]: numbers, or names, of the seen images.
    pairings
        Wrong pairings behind the null.
    null_of
        Model whose images are paired with wrong ones, which makes the model "null"; None for no such model.
    seed
        Of the wrong pairs.

    Returns
    -------
    scores : DataFrame
        As for `statistics.summarise`.
    nulls : dict
    """
    parts, nulls = [], {}
    for (subject, model), (made, rows) in progress(list(images.items()), "Scoring", unit="model"):
        scores, null, features = scorer.score(made, rows, pairings)
        parts += _frames(subject, model, nsd_ids[rows], scores)
        nulls |= {(label, subject, model, name): values for (label, name), values in null.items()}
        if model == null_of:
            wrong = scorer.wrong_pairs(made, rows, features, seed)
            parts += _frames(subject, "null", nsd_ids[rows], {(OURS, name): values for name, values in wrong.items()})
    models = {model: place for place, model in enumerate(order_models(part["model"].iloc[0] for part in parts))}
    labels = [OURS, *(protocol.label for protocol in scorer.protocols)]
    parts.sort(key=lambda part: (labels.index(part["protocol"].iloc[0]), models[part["model"].iloc[0]]))
    return pd.concat(parts, ignore_index=True), nulls


def _frames(subject: str, model: str, nsd_ids: np.ndarray, scores: ByMetric) -> list[pd.DataFrame]:
    """One table a protocol."""
    labels = dict.fromkeys(label for label, _ in scores)
    return [
        pd.DataFrame(
            {"protocol": label, "subject": subject, "model": model, "nsd_id": nsd_ids}
            | {name: values for (of, name), values in scores.items() if of == label}
        )
        for label in labels
    ]


def score_ceilings(
    judge: Judge,
    backbone: Backbone,
    store: StimulusStore,
    nsd_ids: np.ndarray,
    rows: Mapping[str, np.ndarray],
    seed: int,
    runtime: RuntimeConfig,
) -> pd.DataFrame:
    """Score what the backbone and the images allow, and trivial solutions, all made of the seen images.

    Parameters
    ----------
    judge
        Of the seen images.
    backbone
        Whose VAE and text tower are measured.
    store
        The seen images.
    nsd_ids
        int [N]: of the seen images.
    rows
        mapping of int array: rows of each subject's images in `nsd_ids`.
    seed
        Of the random numbers.
    runtime
        Section of the configuration.

    Returns
    -------
    DataFrame
        As for `statistics.summarise`. `seen`: the true images themselves (the best category accuracy that the zero-shot
        judge can reach); `vae`: the true images encoded and decoded by the VAE; `text`: images sampled from the
        first true caption alone (`TEXT_IMAGES` of those with one); `mean_colour`: each image as its mean colour.
    """
    scorer, everything = Scorer(judge, [], None, backbone.device), np.arange(len(nsd_ids))
    described = np.flatnonzero([bool(texts) for texts in store.captions(nsd_ids)])
    chosen = described[evenly_spaced(len(described), TEXT_IMAGES)]
    ceilings = {
        "seen": lambda: (judge.seen, everything),
        "vae": lambda: (
            Seen(store, nsd_ids, lambda images: vae_round_trip(backbone, images, runtime.decode_memory)),
            everything,
        ),
        "mean_colour": lambda: (Seen(store, nsd_ids, _mean_colour), everything),
        # Last, since sampling may bring UNet and VAE to another precision.
        "text": lambda: (_from_captions(backbone, store, nsd_ids[chosen], seed, runtime), chosen),
    }
    if not len(chosen):
        del ceilings["text"]
    parts = []
    for model, make in ceilings.items():
        images, of = make()
        scores, features = scorer.look_through(images, of)
        for subject, subject_rows in rows.items():
            part = np.flatnonzero(np.isin(of, subject_rows))
            if not len(part):
                continue
            judged = judge.score(judge.space(features[OURS, ""][part, None], of[part]))
            subject_scores = {key: values[part] for key, values in scores.items()}
            subject_scores |= {(OURS, name): values for name, values in judged.items()}
            parts += _frames(subject, model, nsd_ids[of[part]], subject_scores)
    return pd.concat(parts, ignore_index=True)


def _mean_colour(images: np.ndarray) -> np.ndarray:
    means = np.rint(images.mean((1, 2), keepdims=True)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(means, images.shape))


def _from_captions(
    backbone: Backbone, store: StimulusStore, nsd_ids: np.ndarray, seed: int, runtime: RuntimeConfig
) -> Held:
    """Sample an image from each image's first caption."""
    config = SampleConfig(**TEXT_SAMPLING, seed=seed)
    context = backbone.encode_text([texts[0] for texts in store.captions(nsd_ids)])
    sampler = Sampler(NeuroPictorPipeline.from_backbone(backbone), "00", config, runtime)
    parts = zip(batched(nsd_ids, config), context.split(config.batch_size), strict=True)
    return Held(np.concatenate([sampler.draw(jobs, {"context": part}) for jobs, part in parts])[:, None])


def vae_round_trip(backbone: Backbone, images: np.ndarray, memory: float) -> np.ndarray:
    """Encode and decode images uint8 [n, S, S, 3] by the posterior mean, within `memory` (GiB)."""
    mean, logvar = backbone.encode_images(resize_images(images, backbone.image_size), memory)
    return backbone.decode(backbone.latents(mean, logvar, torch.zeros_like(mean)), memory)
