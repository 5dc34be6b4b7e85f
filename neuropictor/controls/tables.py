"""The stage that scores controls: `controls.csv`, a contact sheet and a figure for each kind and subject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuropictor.controls.figures import draw_scores, draw_sheet
from neuropictor.controls.scores import COLUMNS, PairScores, Scored, rank_correlations, table_rows
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.responses import ResponseStore
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore, resize_pictures
from neuropictor.evaluation.judges import Describer, Held, Judge, Seen, load_describer
from neuropictor.evaluation.tables import write_table
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.records.files import Folder
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import ControlsConfig, EvaluateConfig, RuntimeConfig

NEAREST = "nearest"
"""Name of the control that draws nothing: scores by distance to the nearest training picture."""
QUARTERS = 4


def score_controls(
    drawn: dict[int, dict[str, Path]],
    samples: dict[int, Path],
    responses: dict[int, Path],
    stimuli: dict[int, Path],
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
    drawn : dict of dict of Path
        `drawn[subject][kind]`: files of `neuropictor.controls.draw.steer_subject`.
    samples : dict of Path
        Reconstructions of stage sample, for the control `nearest`; empty for none.
    responses, stimuli : dict of Path
        Prepared stores of each subject.
    backbone : str or Path
        Its image tower judges, unless published networks do.
    config, evaluate : ControlsConfig, EvaluateConfig
        `sheet_rows`; `bootstrap`, `seed` and `networks`.
    runtime : RuntimeConfig
    out : Path
        `controls.csv`.
    figures : Path
        Folder for `<kind>_sub-<subject>.png`, the contact sheets, and `<kind>_sub-<subject>_scores.png`.
    weights : Path, optional
        Folder of `fetch_weights`; needed with `networks: published`.
    """
    device = prepare_device(runtime)
    files = [*(path for kinds in drawn.values() for path in kinds.values()), *samples.values(), *stimuli.values()]
    used = {"sheet_rows": config.sheet_rows, "bootstrap": evaluate.bootstrap, "seed": evaluate.seed}
    used["networks"] = evaluate.networks
    with RunRecord(
        record_path(out), "score_controls", config=used, seed=evaluate.seed, inputs=files, outputs=[out]
    ) as record:
        describer = load_describer(evaluate.networks, Backbone.load(backbone).to(device), weights, device)
        found: dict[tuple, dict[int, tuple[Scored, np.ndarray]]] = {}
        data, further = "", []
        for subject in progress(sorted({*drawn, *samples}), "Scoring controls", unit="subject"):
            own = _Subject(subject, responses[subject], stimuli[subject], describer, evaluate)
            data = own.stimuli.data
            for kind, path in drawn.get(subject, {}).items():
                drawn_images = StoredReconstructions(path)
                for key, scored, nsd_ids in own.score(kind, drawn_images):
                    found.setdefault(key, {})[subject] = (scored, nsd_ids)
                own.sheet(kind, drawn_images, config.sheet_rows, figures)
            if subject in samples:
                rows, parts = own.nearest(StoredReconstructions(samples[subject]), config.sheet_rows, figures)
                further += [row | {"data": data} for row in rows]
                for key, scored, nsd_ids in parts:
                    found.setdefault(key, {})[subject] = (scored, nsd_ids)
        rows = []
        for (kind, condition, row, column), by_subject in found.items():
            names = {"control": kind, "condition": condition, "row": row, "column": column, "data": data}
            scored = {subject: part for subject, (part, _) in by_subject.items()}
            nsd_ids = {subject: ids for subject, (_, ids) in by_subject.items()}
            rows += table_rows(scored, nsd_ids, names, evaluate.bootstrap, evaluate.seed)
        frame = pd.DataFrame([*rows, *further], columns=list(COLUMNS))
        write_table(frame, COLUMNS, out)
        for (subject, kind), part in frame.groupby(["subject", "control"], sort=False):
            if subject != "mean":
                draw_scores(part, figures / f"{kind}_sub-{int(subject):02d}_scores.png")
        record.add(data=data, controls=sorted({row["control"] for row in rows}), judge=describer.name)


class _Subject:
    """One subject's test pictures and what is scored against them."""

    def __init__(self, subject: int, responses: Path, stimuli: Path, describer: Describer, evaluate: EvaluateConfig):
        self.subject, self.evaluate = subject, evaluate
        self.responses, self.stimuli = ResponseStore(responses), StimulusStore(stimuli)
        self.nsd_ids = self.responses.pictures("test")
        self.judge = Judge.of_store(describer, self.stimuli, self.nsd_ids)
        self.pairs = PairScores(self.judge, evaluate.bootstrap, evaluate.seed)

    def score(self, kind: str, drawn: StoredReconstructions) -> list[tuple[tuple, Scored, np.ndarray]]:
        """Score all conditions of a control; those of one name (several partners) together."""
        rows = np.searchsorted(self.nsd_ids, drawn.nsd_id)
        together: dict[tuple, list[int]] = {}
        for place, label in enumerate(map(json.loads, drawn.labels)):
            together.setdefault((kind, label["name"], label["row"], label["column"]), []).append(place)
        found = []
        for key, places in together.items():
            tables = [self.pairs.tables(drawn.read(np.arange(len(drawn)), place)) for place in places]
            scored = self.pairs.against_seen(tables, rows)
            if (drawn.others[:, places] >= 0).all():
                others = [np.searchsorted(self.nsd_ids, drawn.others[:, place]) for place in places]
                two = self.pairs.follows(tables, rows, others)
                scored = Scored(scored.values | two.values, scored.nulls | two.nulls)
            found.append((key, scored, drawn.nsd_id))
        return found

    def sheet(self, kind: str, drawn: StoredReconstructions, rows: int, figures: Path) -> None:
        """Draw the contact sheet."""
        chosen = evenly_spaced(len(drawn.nsd_id), rows)
        seen = {"seen": self.stimuli.pictures(drawn.nsd_id[chosen])}
        partner = np.flatnonzero((drawn.others >= 0).all(0))
        if len(partner):
            seen["seen in the other scan"] = self.stimuli.pictures(drawn.others[chosen, partner[0]])
        draw_sheet(kind, drawn, chosen, seen, figures / f"{kind}_sub-{self.subject:02d}.png")

    def nearest(self, drawn: StoredReconstructions, rows: int, figures: Path) -> tuple[list[dict], list]:
        """Score stage sample's pictures by how near the seen picture is to a training picture."""
        train = self.responses.pictures("train")
        known = self.judge.describe(Seen(self.stimuli, train))
        pictures = resize_pictures(drawn.read(np.arange(len(drawn))), self.stimuli.size)
        places = np.arange(len(self.nsd_ids))
        distance = 1.0 - (self.judge.features @ known.T).max(1)
        features = self.judge.describe(Held(pictures[:, None]))
        imitated = train[(features @ known.T).argmax(1)]
        scored = self.pairs.against_seen([self.pairs.tables(pictures)], places)
        instead = self.pairs.against_seen([self.pairs.tables(self.stimuli.pictures(imitated))], places)
        found = [((NEAREST, name, "", name), part, self.nsd_ids) for name, part in self._quarters(distance, scored)]
        replaced = "nearest in training instead"
        found += [
            ((NEAREST, name, "", name), part, self.nsd_ids) for name, part in (("all", scored), (replaced, instead))
        ]
        names = {"subject": str(self.subject), "control": NEAREST, "condition": "all", "row": "", "column": "all"}
        ranks = rank_correlations(scored, distance, self.evaluate.bootstrap, self.evaluate.seed)
        chosen = np.argsort(distance)[evenly_spaced(len(places), rows)]
        by_seen = train[(self.judge.features[chosen] @ known.T).argmax(1)]
        columns = {
            "seen": self.judge.seen.read(chosen),
            "reconstruction": pictures[chosen],
            "nearest in training": self.stimuli.pictures(by_seen),
            "reconstruction's nearest": self.stimuli.pictures(imitated[chosen]),
        }
        labels = [f"distance {value:.2f}" for value in distance[chosen]]
        draw_sheet(NEAREST, drawn, chosen, columns, figures / f"{NEAREST}_sub-{self.subject:02d}.png", labels)
        return [names | row for row in ranks], found

    def _quarters(self, distance: np.ndarray, scored: Scored) -> list[tuple[str, Scored]]:
        """Split scores by distance; wrong pairs are those of all pictures."""
        order = np.argsort(np.argsort(distance, kind="stable"), kind="stable")
        quarter = order * QUARTERS // len(order)
        found = []
        for number, words in enumerate(("nearest", "second", "third", "farthest")):
            inside = quarter == number
            if not inside.any():
                continue
            values = {metric: np.where(inside, value, np.nan) for metric, value in scored.values.items()}
            found.append((f"{words} quarter", Scored(values, scored.nulls)))
        return found
