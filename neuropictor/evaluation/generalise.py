"""Stages that draw what generalisation is judged by: images of further test sets, and of new people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuropictor.data.adapt import adapt_subject
from neuropictor.data.alignment import align_test_set
from neuropictor.data.subsets import choose_pairs
from neuropictor.evaluation.baselines import fit_baselines
from neuropictor.records.files import Folder
from neuropictor.sampling import sample_subject

if TYPE_CHECKING:
    from neuropictor.config import AlignConfig, EvaluateConfig, GeneraliseConfig, RuntimeConfig, SampleConfig

REFINED, ADAPTED = "refined", "adapted"


def draw_test_set(
    tested: Path,
    pipeline: Folder,
    responses: Path,
    stimuli: Path,
    latents: Path,
    backbone: str | Path,
    config: SampleConfig,
    evaluate: EvaluateConfig,
    runtime: RuntimeConfig,
    out: dict[str, Path],
    components: Path | None = None,
    aligned: Path | None = None,
    weights: Folder | None = None,
) -> None:
    """Reconstruct a further test set of a subject, by its refined networks and by all baselines, drawn alike.

    Parameters
    ----------
    tested
        Responses of the subject to the images of the test set.
    pipeline
        Folder of the subject's refined networks.
    responses, stimuli, latents
        Prepared stores, and latents, of what the networks were trained on; baselines are fitted on them.
    backbone
        Source of the backbone.
    config, evaluate, runtime
        Sections of the configuration, as for `sample_subject` and `fit_baselines`.
    out
        Files to write, by model: "refined" and the baselines.
    components, aligned
        The subject's file of components, whose regression is used, and the file to write of those of the test set; None
        for networks without alignment.
    weights
        Folder of `fetch_weights`; needed with `networks: published`.
    """
    if components is not None and aligned is not None:
        align_test_set(tested, components, aligned)
    sample_subject(pipeline, tested, config, runtime, REFINED, out[REFINED], aligned, backbone)
    baselines = {model: path for model, path in out.items() if model != REFINED}
    fit_baselines(responses, stimuli, latents, backbone, evaluate, config, runtime, baselines, weights, tested)


def draw_new_person(
    responses: Path,
    latents: Path,
    space: Path,
    others: Sequence[Path],
    pairs: str,
    pipeline: Folder,
    backbone: str | Path,
    config: GeneraliseConfig,
    align: AlignConfig,
    sample: SampleConfig,
    runtime: RuntimeConfig,
    chosen: Path,
    aligned: Path,
    out: Path,
) -> None:
    """Reconstruct the test images of a person from few image-response pairs, or none, without training any network.

    Parameters
    ----------
    responses, latents
        Prepared responses of the person, and latents of the images.
    space, others
        The shared space, and other people's components in it.
    pairs
        Number of pairs, or "all".
    pipeline
        Folder of networks that read such components.
    backbone
        Source of the backbone.
    config
        Its seed chooses the pairs.
    align, sample, runtime
        Sections of the configuration.
    chosen, aligned, out
        Files to write: the responses to these pairs and to the test images, their components, and the images.
    """
    none = pairs == "0"  # then all responses tell how components spread, and no image is looked at
    choose_pairs(responses, None if none or pairs == "all" else int(pairs), config.seed, chosen)
    adapt_subject(chosen, space, others, 0 if none else None, align, aligned, latents)
    sample_subject(pipeline, chosen, sample, runtime, ADAPTED, out, aligned, backbone)
