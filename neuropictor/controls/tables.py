"""The stage that scores controls: `controls.csv`, a contact sheet and a figure for each kind and subject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neuropictor.config.types import Subject
from neuropictor.controls.figures import draw_scores, draw_sheet
from neuropictor.controls.scores import COLUMNS, PairScores, Scored, rank_correlations, table_rows
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.responses import ResponseStore
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore, resize_images
from neuropictor.evaluation.judges import Describer, Held, Judge, Seen, load_describer
from neuropictor.evaluation.metrics import zero_shot
from neuropictor.evaluation.tables import write_table
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.records.files import Folder
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import ControlsConfig, EvaluateConfig, RuntimeConfig

NEAREST = "nearest"
"""Name of the control that draws nothing: scores by distance to the nearest training image."""
QUARTERS = ("nearest", "second", "third", "farthest")


def score_controls(
    drawn: dict[Subject, dict[str, Path]],
    samples: dict[Subject, Path],
    responses: dict[Subject, Path],
    stimuli: dict[Subject, Path],
    backbone: str | Path,
    config: ControlsConfig,
    evaluate: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
    figures: Path,
    weights: Folder | None = None,
) -> None:
    """Score controls of all subjects.

    Parameters
    ----------
    drawn
        dict of dict of Path: `drawn[subject][kind]`: files of `neuropictor.controls.draw.steer_subject`.
    samples
        Reconstructions of stage sample, for the control `nearest`; empty for none.
    responses, stimuli
        Prepared stores of each subject.
    backbone
        Its image tower judges, unless published networks do.
    config, evaluate
        `sheet_rows`; `bootstrap`, `seed` and `networks`.
    runtime
        Section of the configuration.
    out
        `controls.csv`.
    figures
        Folder for `<kind>_sub-<subject>.png`, the contact sheets, and `<kind>_sub-<subject>_scores.png`.
    weights
        Folder of `fetch_weights`; needed with `networks: published`.
    """
    device = prepare_device(runtime)
    files = [*(path for kinds in drawn.values() for path in kinds.values()), *samples.values(), *stimuli.values()]
    used: dict[str, Any] = {"sheet_rows": config.sheet_rows, "bootstrap": evaluate.bootstrap, "seed": evaluate.seed}
    used["networks"] = evaluate.networks
    shown = [(kind, subject) for subject, kinds in drawn.items() for kind in kinds]
    shown += [(NEAREST, subject) for subject in samples]
    sheets = [figures / f"{kind}_sub-{subject}{end}.png" for kind, subject in shown for end in ("", "_scores")]
    with RunRecord(
        record_path(out), "score_controls", config=used, seed=evaluate.seed, inputs=files, outputs=[out, *sheets]
    ) as record:
        describer = load_describer(evaluate.networks, Backbone.load(backbone).to(device), weights, device)
        scored: dict[tuple, dict[str, Scored]] = {}
        data, ranks = "", []
        for subject in progress(sorted({*drawn, *samples}), "Scoring controls", unit="subject"):
            scorer = _Subject(subject, responses[subject], stimuli[subject], describer, evaluate)
            parts = {}
            for kind, path in drawn.get(subject, {}).items():
                images = StoredReconstructions(path)
                data = images.data
                parts |= scorer.score(kind, images)
                scorer.sheet(kind, images, config.sheet_rows, figures)
            if subject in samples:
                images = StoredReconstructions(samples[subject])
                data = images.data
                rows, quarters = scorer.nearest(images, config.sheet_rows, figures)
                ranks += [row | {"data": data} for row in rows]
                parts |= quarters
            for key, part in parts.items():
                scored.setdefault(key, {})[subject] = part
        rows = []
        for (kind, condition, row, column), by_subject in scored.items():
            names = {"control": kind, "condition": condition, "row": row, "column": column, "data": data}
            rows += table_rows(by_subject, names, evaluate.bootstrap, evaluate.seed)
        frame = pd.DataFrame([*rows, *ranks], columns=list(COLUMNS))
        write_table(frame, COLUMNS, out)
        for (subject, kind), part in frame.groupby(["subject", "control"], sort=False):
            if subject != "mean":
                draw_scores(part, figures / f"{kind}_sub-{subject}_scores.png")
        record.add(data=data, controls=sorted({row["control"] for row in rows}), judge=describer.name)


class _Subject:
    """One subject's test images, and scores against them."""

    def __init__(self, subject: str, responses: Path, stimuli: Path, describer: Describer, evaluate: EvaluateConfig):
        self.subject, self.evaluate = subject, evaluate
        self.responses, self.stimuli = ResponseStore(responses), StimulusStore(stimuli)
        self.nsd_ids = self.responses.images("test")
        self.judge = Judge.of_store(describer, self.stimuli, self.nsd_ids)
        self.pairs = PairScores(self.judge, self.nsd_ids, evaluate.bootstrap, evaluate.seed)

    def score(self, kind: str, images: StoredReconstructions) -> dict[tuple, Scored]:
        """Score all conditions of a control by kind, name, row and column; a condition's partners together."""
        assert images.others is not None
        rows, labels = np.searchsorted(self.nsd_ids, images.nsd_id), [json.loads(label) for label in images.labels]
        together: dict[tuple, list[int]] = {}
        for place, label in enumerate(labels):
            together.setdefault((kind, label["name"], label["row"], label["column"]), []).append(place)
        scored = {}
        for key, places in together.items():
            tables = [self.pairs.tables(images.read(np.arange(len(images)), place)) for place in places]
            scored[key] = self.pairs.against_seen(tables, rows)
            if (images.others[:, places] >= 0).all():
                others = [np.searchsorted(self.nsd_ids, images.others[:, place]) for place in places]
                scored[key].values |= self.pairs.follows(tables, rows, others).values
        places = {label["name"]: place for place, label in enumerate(labels)}
        for place, label in enumerate(labels):
            if label.get("against"):
                name = f"{label['name']} against {label['against']}"
                scored[kind, name, "", name] = self.against(images, place, places[label["against"]])
        return scored

    def against(self, images: StoredReconstructions, place: int, seen: int) -> Scored:
        """Score images of one condition as if those of another, and what the judge names in them, had been seen."""
        rows = np.arange(len(images))
        known, unnamed = Held(images.read(rows, seen)[:, None]), np.full(len(rows), "")
        judge = Judge(self.judge.describer, known, unnamed, unnamed, self.judge.categories)
        if judge.prompts is not None:
            judge.main = zero_shot(judge.features, judge.prompts)
        pairs = PairScores(judge, images.nsd_id, self.evaluate.bootstrap, self.evaluate.seed)
        return pairs.against_seen([pairs.tables(images.read(rows, place))], rows)

    def sheet(self, kind: str, drawn: StoredReconstructions, rows: int, figures: Path) -> None:
        """Draw the contact sheet."""
        chosen = evenly_spaced(len(drawn.nsd_id), rows)
        seen = {"seen": self.stimuli.images(drawn.nsd_id[chosen])}
        assert drawn.others is not None
        partner = np.flatnonzero((drawn.others >= 0).all(0))
        if len(partner):
            seen["seen in the other scan"] = self.stimuli.images(drawn.others[chosen, partner[0]])
        draw_sheet(kind, drawn, chosen, seen, figures / f"{kind}_sub-{self.subject}.png")

    def nearest(
        self, sampled: StoredReconstructions, rows: int, figures: Path
    ) -> tuple[list[dict], dict[tuple, Scored]]:
        """Score stage sample's images by the seen image's distance to the nearest training image."""
        train = self.responses.images("train")
        known = self.judge.describe(Seen(self.stimuli, train))
        images = resize_images(sampled.read(np.arange(len(sampled))), self.stimuli.size)
        places = np.arange(len(self.nsd_ids))
        distance = 1.0 - (self.judge.features @ known.T).max(1)
        imitated = train[(self.judge.describe(Held(images[:, None])) @ known.T).argmax(1)]
        scores = self.pairs.against_seen([self.pairs.tables(images)], places)
        instead = self.pairs.against_seen([self.pairs.tables(self.stimuli.images(imitated))], places)
        parts = self._quarters(distance, scores) | {"all": scores, "nearest in training instead": instead}
        names = {"subject": self.subject, "control": NEAREST, "condition": "all", "row": "", "column": "all"}
        ranks = rank_correlations(scores, distance, self.evaluate.bootstrap, self.evaluate.seed)
        chosen = np.argsort(distance)[evenly_spaced(len(places), rows)]
        columns = {
            "seen": self.judge.seen.read(chosen),
            "reconstruction": images[chosen],
            "nearest in training": self.stimuli.images(train[(self.judge.features[chosen] @ known.T).argmax(1)]),
            "reconstruction's nearest": self.stimuli.images(imitated[chosen]),
        }
        labels = [f"distance {value:.2f}" for value in distance[chosen]]
        draw_sheet(NEAREST, sampled, chosen, columns, figures / f"{NEAREST}_sub-{self.subject}.png", labels)
        return [names | row for row in ranks], {(NEAREST, name, "", name): part for name, part in parts.items()}

    def _quarters(self, distance: np.ndarray, scores: Scored) -> dict[str, Scored]:
        """Split scores by distance; wrong pairs are those of all images."""
        order = np.argsort(np.argsort(distance, kind="stable"), kind="stable")
        quarters = {}
        for number, name in enumerate(QUARTERS):
            inside = order * len(QUARTERS) // len(order) == number
            values = {metric: np.where(inside, value, np.nan) for metric, value in scores.values.items()}
            if inside.any():
                quarters[f"{name} quarter"] = Scored(scores.nsd_id, values, scores.nulls)
        return quarters
