"""What the backbone and the pictures allow: ceilings and trivial solutions, measured on the seen test pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from neuropictor.data.stimuli import resize_pictures
from neuropictor.evaluation import measures
from neuropictor.evaluation.diffusion import diffuse, picture_noise
from neuropictor.evaluation.similarity import identification

if TYPE_CHECKING:
    from neuropictor.models.backbone import Backbone

TEXT_PICTURES, TEXT_STEPS, TEXT_GUIDANCE = 48, 15, 3.0
"""The text ceiling draws this many pictures with so many DDIM steps: its standard error is 7 points at most."""

_PICTURES_AT_ONCE = 128


class Judge:
    """Features of the seen pictures and of the categories, and what is scored against them.

    Parameters
    ----------
    describer : Backbone or ClipDescriber
        With an image tower: `image_size`, `image_features`, `category_features` and `name`.
    seen : uint8 array [N, S, S, 3]
        All test pictures.
    category, background : str arrays [N]
        Of the seen pictures; either may be empty.
    categories : list of str
        All main categories of the data set; may be empty.
    seed : int
        Of the pools of retrieval.
    """

    def __init__(
        self,
        describer,
        seen: np.ndarray,
        category: np.ndarray,
        background: np.ndarray,
        categories: list[str],
        seed: int = 0,
    ):
        self.describer, self.seen, self.categories, self.seed = describer, seen, categories, seed
        self.features = self.look(seen)
        index = {name: place for place, name in enumerate(categories)}
        self.main = np.array([index.get(name, -1) for name in category])
        kinds = {name: place for place, name in enumerate(sorted(set(background) - {""}))}
        self._backgrounds = np.array([kinds.get(name, -1) for name in background])
        self.prompts = describer.category_features(categories).float().cpu().numpy() if categories else None

    def look(self, pictures: np.ndarray) -> np.ndarray:
        """Describe pictures uint8 [..., S, S, 3] in the describer's image space, float32 [..., E], unit norm."""
        flat = resize_pictures(pictures.reshape(-1, *pictures.shape[-3:]), self.describer.image_size)
        features = self.describer.image_features(flat).float().cpu().numpy()
        return features.reshape(*pictures.shape[:-3], -1)

    def groups(self, rows: np.ndarray) -> dict[str, np.ndarray | None]:
        """Which pictures are distractors of each other, for each score of `measures.IDENTIFICATION`."""
        return {
            "two_way": None,
            "two_way_hard": measures.groups_of(self._backgrounds[rows]),
            "two_way_category": measures.groups_of(self.main[rows]),
        }

    def score(
        self, pictures: np.ndarray, rows: np.ndarray, features: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Score reconstructions against the pictures seen.

        Parameters
        ----------
        pictures : uint8 array [n, K, s, s, 3]
            K samples of each of n pictures; brought to the seen pictures' size.
        rows : int array [n]
            Rows of the seen pictures; distractors come from these rows too.
        features : array [n, K, E], optional
            Their features where already known.

        Returns
        -------
        dict of float64 arrays [n]
            `measures.METRICS` and `FURTHER_METRICS` without lpips, averaged over samples; NaN where a picture has none.
        """
        pictures = resize_pictures(pictures, self.seen.shape[1])
        features = self.look(pictures) if features is None else features
        seen, known = self.seen[rows], self.features[rows]
        tables = measures.correlations(features, known)
        scores = {"pixcorr": measures.pixcorr(pictures, seen), "ssim": measures.ssim(pictures, seen)}
        for name, groups in self.groups(rows).items():
            scores[name] = measures.two_way(features, known, groups, tables)
        scores["distance"] = measures.distance(features, known)
        image, brain = measures.retrieval(features, known, self.seed)
        scores |= {"retrieval_image": image, "retrieval_brain": brain}
        scores["similarity"] = measures.similarity(features, known)
        if self.prompts is not None:
            scores["category"] = measures.category(features, self.prompts, self.main[rows])
        return {name: values.mean(1) for name, values in scores.items()}

    def tables(self, features: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Identification scores as if every picture were the right one, [K, n, n] for each of `IDENTIFICATION`."""
        known = measures.correlations(features, self.features[rows])
        return {
            name: np.stack([identification(table, groups) for table in known])
            for name, groups in self.groups(rows).items()
        }


def backbone_controls(
    judge: Judge, backbone: Backbone, captions: list[list[str]], nsd_ids: np.ndarray, seed: int
) -> dict:
    """Measure ceilings and the mean-colour control.

    Parameters
    ----------
    judge : Judge
    backbone : Backbone
        Whose VAE and text tower are measured.
    captions : list of list of str
        Of the seen pictures.
    nsd_ids : int array [N]
    seed : int

    Returns
    -------
    dict of dict of float
        `seen`: the true pictures themselves (category accuracy is what the zero-shot judge can reach at all);
        `vae`: the true pictures encoded and decoded by the VAE;
        `text`: pictures drawn from the first true caption alone (a part of the pictures);
        `mean_colour`: each picture replaced by its mean colour.
    """
    seen, rows = judge.seen, np.arange(len(judge.seen))
    flat = np.broadcast_to(np.rint(seen.mean((1, 2), keepdims=True)).astype(np.uint8), seen.shape)
    results = {
        "seen": judge.score(seen[:, None], rows, judge.features[:, None]),
        "vae": judge.score(vae_round_trip(backbone, seen)[:, None], rows),
        "mean_colour": judge.score(np.ascontiguousarray(flat)[:, None], rows),
    }
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(TEXT_PICTURES, len(rows))).astype(int))
    context = backbone.encode_text([captions[row][0] if captions[row] else "" for row in chosen])
    noise = picture_noise(backbone.latent_shape, seed, 0, nsd_ids[chosen])
    drawn = diffuse(
        backbone,
        torch.zeros_like(noise),
        context,
        noise,
        steps=TEXT_STEPS,
        strength=1.0,
        guidance_scale=TEXT_GUIDANCE,
        batch_size=TEXT_PICTURES,
    )
    results["text"] = judge.score(drawn[:, None], chosen)
    means = {
        name: {metric: _mean(values) for metric, values in scores.items()} | {"n_images": len(scores["pixcorr"])}
        for name, scores in results.items()
    }
    return means


def vae_round_trip(backbone: Backbone, pictures: np.ndarray) -> np.ndarray:
    """Encode and decode pictures uint8 [n, S, S, 3] by the posterior mean."""
    parts = []
    for start in range(0, len(pictures), _PICTURES_AT_ONCE):
        part = resize_pictures(pictures[start : start + _PICTURES_AT_ONCE], backbone.image_size)
        mean, logvar = backbone.encode_pictures(part)
        parts.append(backbone.decode(backbone.latents(mean, logvar, torch.zeros_like(mean))))
    return np.concatenate(parts)


def _mean(values: np.ndarray) -> float | None:
    return round(float(np.nanmean(values)), 6) if np.isfinite(values).any() else None
