"""Scores of controls: right on images whose scores are known, tables and sheets complete."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from small_stores import CATEGORIES, SIZE, TEST, PretendBackbone, smooth_images, write_responses, write_stimuli

from neuropictor.config import ControlsConfig, EvaluateConfig, RuntimeConfig
from neuropictor.controls import tables as control_tables
from neuropictor.controls.figures import draw_scores
from neuropictor.controls.scores import COLUMNS, TABLE_METRICS, PairScores, Scored, rank_correlations, table_rows
from neuropictor.data.reconstructions import Reconstructions, StoredReconstructions, write_reconstructions
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation import judging
from neuropictor.evaluation.judges import Judge, Seen, look
from neuropictor.evaluation.metrics import METRICS

IDS = np.array(TEST)


@pytest.fixture
def pairs(tmp_path):
    store = StimulusStore(write_stimuli(tmp_path / "stimuli.h5"))
    judge = Judge(PretendBackbone(), Seen(store, IDS), store.category(IDS), store.background(IDS), list(CATEGORIES))
    return PairScores(judge, IDS, repetitions=400, seed=0)


def test_tables_are_what_loops_give(pairs):
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    tables, judge = pairs.tables(images), pairs.judge
    features = look(judge.describer, images).astype(float)
    seen = judge.seen.read(np.arange(len(IDS)))
    for i in range(5):
        correlations = [np.corrcoef(features[i], known.astype(float))[0, 1] for known in judge.features]
        for j in range(len(IDS)):
            pixels = np.corrcoef(images[i].ravel().astype(float), seen[j].ravel().astype(float))[0, 1]
            assert abs(tables["pixcorr"][i, j] - pixels) < 1e-6
            assert abs(tables["similarity"][i, j] - features[i] @ judge.features[j]) < 1e-6
            lower = [correlations[k] < correlations[j] for k in range(len(IDS)) if k != j]
            assert abs(tables["two_way"][i, j] - np.mean(lower)) < 1e-9
            same = [k for k in range(len(IDS)) if k != j and judge.main[k] == judge.main[j]]
            lower = [correlations[k] < correlations[j] for k in same]
            assert abs(tables["two_way_category"][i, j] - np.mean(lower)) < 1e-9
            found = int(np.argmax(features[i] @ judge.prompts.T))
            assert tables["category"][i, j] == (found == judge.main[j])


def test_the_seen_images_score_full_and_wrong_pairs_half(pairs):
    scored = pairs.against_seen([pairs.tables(pairs.judge.seen.read(np.arange(len(IDS))))], np.arange(len(IDS)))
    for metric in ("pixcorr", "two_way", "two_way_category"):
        np.testing.assert_allclose(scored.values[metric], 1.0, atol=1e-6)
    for metric in ("two_way", "two_way_category"):
        low, high = np.percentile(scored.nulls[metric], [2.5, 97.5])
        assert low < 0.5 < high
        assert abs(scored.nulls[metric].mean() - 0.5) < 0.02
        assert high < 0.75


def test_images_of_two_scans_follow_the_one_they_are_made_of(pairs):
    rows, others = np.arange(len(IDS)), np.roll(np.arange(len(IDS)), 1)  # neighbours have different categories
    seen = pairs.judge.seen.read(np.arange(len(IDS)))
    own = pairs.follows([pairs.tables(seen)], rows, [others]).values
    other = pairs.follows([pairs.tables(seen[others])], rows, [others]).values
    for metric in ("layout_follows_own", "light_follows_own"):
        assert own[metric].mean() == 1.0
        assert other[metric].mean() == 0.0
    assert (own["similarity_follows_other"].mean(), other["similarity_follows_other"].mean()) == (0.0, 1.0)
    np.testing.assert_allclose(other["pixcorr_other"], 1.0, atol=1e-6)
    prompts = pairs.tables(seen[others])["prompts"]
    main = pairs.judge.main
    nearer = prompts[rows, main[others]] > prompts[rows, main]
    defined = main[others] != main
    np.testing.assert_array_equal(other["category_follows_other"][defined], nearer[defined])
    assert np.isnan(other["category_follows_other"][~defined]).all()
    both = pairs.follows([pairs.tables(seen), pairs.tables(seen[others])], rows, [others, others]).values
    assert both["layout_follows_own"].mean() == 0.5  # partners are averaged


def test_rows_hold_intervals_chance_and_the_mean_over_subjects():
    random = np.random.default_rng(0)
    scored = {
        subject: Scored(
            np.arange(10),
            {"two_way": random.random(10), "layout_follows_own": (random.random(10) < 0.8).astype(float)},
            {"two_way": random.normal(0.5, 0.1, 500)},
        )
        for subject in ("01", "05")
    }
    rows = table_rows(scored, {"control": "x", "data": "simulated"}, 200, 0)
    assert [(row["subject"], row["metric"]) for row in rows] == [
        (subject, metric) for metric in ("two_way", "layout_follows_own") for subject in ("01", "05", "mean")
    ]
    for row in rows:
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["null_low"] < 0.5 < row["null_high"]
        assert row["n_images"] == 10
    mean = np.mean([scored[subject].values["two_way"].mean() for subject in scored])
    assert rows[2]["value"] == pytest.approx(mean)
    alone, together = (rows[place]["null_high"] - rows[place]["null_low"] for place in (3, 5))
    assert together < alone  # twenty coins, not ten
    np.testing.assert_allclose([rows[3]["null_low"], rows[3]["null_high"]], [0.2, 0.8])  # of ten fair coins


def test_rank_correlation_with_distance():
    far = np.arange(30.0)
    falling = Scored(far, dict.fromkeys(TABLE_METRICS, -far))
    rows = rank_correlations(falling, far, 100, 0)
    assert [row["metric"] for row in rows] == [f"spearman_{metric}" for metric in TABLE_METRICS]
    assert rows[0]["value"] == pytest.approx(-1)
    assert rows[0]["null_low"] < 0 < rows[0]["null_high"]
    assert rows[0]["ci_high"] < rows[0]["null_low"]
    constant = Scored(far, dict.fromkeys(TABLE_METRICS, 0 * far))
    assert np.isnan(rank_correlations(constant, far, 20, 0)[0]["value"])


def label(row, column):
    return json.dumps({"name": f"{row}, {column}" if row else column, "row": row, "column": column})


def test_the_stage_writes_table_and_images(tmp_path, monkeypatch):
    texts = []
    kept = Figure.savefig

    def savefig(self, *arguments, **options):
        texts.extend(item.get_text() for item in self.findobj(match=lambda item: hasattr(item, "get_text")))
        return kept(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr(control_tables, "Backbone", PretendBackbone)
    stimuli, seen = write_stimuli(tmp_path / "stimuli.h5"), smooth_images(IDS)
    others = np.roll(IDS, 1)
    responses, drawn, samples = {}, {}, {}
    for subject in ("01", "02"):
        folder = tmp_path / f"sub-{subject}"
        folder.mkdir()
        responses[subject] = write_responses(folder / "responses.h5", subject)
        samples[subject] = folder / "refined.h5"
        write_reconstructions(samples[subject], Reconstructions(seen[:, None], IDS, "refined", subject, "simulated"))
        images = np.stack([seen, smooth_images(others), smooth_images(np.roll(IDS, 2))], axis=1)
        swap = Reconstructions(
            images,
            IDS,
            "semantic_swap",
            subject,
            "simulated",
            (
                label("guidance 2", "structure 1"),
                label("guidance 2", "structure 2"),
                label("guidance 2", "structure 2"),
            ),
            np.stack([others, others, np.roll(IDS, 2)], axis=1),
        )
        drawn[subject] = {"semantic_swap": folder / "semantic_swap.h5", "strengths": folder / "strengths.h5"}
        write_reconstructions(drawn[subject]["semantic_swap"], swap)
        labels = (label("semantics 0", "structure 0"), label("semantics 1", "structure 0"))
        none = np.full((len(IDS), 2), -1)
        grid = Reconstructions(images[:, :2], IDS, "strengths", subject, "simulated", labels, none)
        write_reconstructions(drawn[subject]["strengths"], grid)
    out = tmp_path / "controls.csv"
    control_tables.score_controls(
        drawn,
        samples,
        responses,
        {"01": stimuli, "02": stimuli},
        "pretended",
        ControlsConfig(sheet_rows=2),
        EvaluateConfig(bootstrap=20),
        RuntimeConfig(device="cpu", threads=1),
        out,
        tmp_path / "figures",
    )
    table = pd.read_csv(out, dtype={"subject": str})
    assert tuple(table.columns) == COLUMNS
    assert set(table["subject"]) == {"01", "02", "mean"}
    assert set(table["data"]) == {"simulated"}
    value = table.set_index(["subject", "control", "condition", "metric"])["value"]
    own, other = "guidance 2, structure 1", "guidance 2, structure 2"
    assert value["mean", "semantic_swap", own, "layout_follows_own"] == 1.0
    assert value["01", "semantic_swap", other, "layout_follows_own"] == 0.0
    assert value["01", "semantic_swap", other, "pixcorr_other"] == pytest.approx(1)  # each with its own partner
    assert value["02", "strengths", "semantics 0, structure 0", "two_way"] == 1.0
    assert "layout_follows_own" not in table[table["control"] == "strengths"]["metric"].to_numpy()
    quarters = [f"{word} quarter" for word in ("nearest", "second", "third", "farthest")]
    assert all(value["01", "nearest", quarter, "pixcorr"] == pytest.approx(1) for quarter in quarters)
    assert value["01", "nearest", "nearest in training instead", "pixcorr"] < 0.9
    assert ("01", "nearest", "all", "spearman_similarity") in value.index
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("nearest", "semantic_swap", "strengths")
    assert names == {f"{kind}_sub-0{s}{end}.png" for kind in kinds for s in (1, 2) for end in ("", "_scores")}
    titles = [text for text in texts if text.startswith("Subject")]
    assert len(titles) == 12
    assert all("SIMULATED" in title for title in titles)
    assert {"seen", "seen in the other scan", "structure 1", "reconstruction's nearest"} <= {
        text.replace("\n", " ") for text in texts
    }
    record = json.loads((tmp_path / "controls.run.json").read_text())
    assert set(record["outputs"]) == {"controls.csv", *(f"figures/{name}" for name in names)}
    assert record["results"]["controls"] == sorted(kinds)


def test_readings_of_one_image_are_scored_against_each_other(tmp_path):
    """Not against what was seen: here neither resembles it. Wrong pairs of them stay at chance."""
    unseen, stored = smooth_images(IDS + 500), tmp_path / "agreement.h5"
    random = np.random.default_rng(0).integers(0, 256, unseen.shape, dtype=np.uint8)
    labels = [{"name": name, "row": "", "column": name} for name in ("odd", "the same", "other")]
    for about in labels[1:]:
        about["against"] = "odd"
    images, others = np.stack([unseen, unseen, random], axis=1), np.full((len(IDS), 3), -1)
    drawn = Reconstructions(images, IDS, "agreement", "01", "simulated", tuple(map(json.dumps, labels)), others)
    write_reconstructions(stored, drawn)
    files = write_responses(tmp_path / "responses.h5"), write_stimuli(tmp_path / "stimuli.h5")
    scorer = control_tables._Subject("01", *files, PretendBackbone(), EvaluateConfig(bootstrap=200))
    scored = {name: part for (_, name, _, _), part in scorer.score("agreement", StoredReconstructions(stored)).items()}
    means = {name: {metric: np.nanmean(v) for metric, v in part.values.items()} for name, part in scored.items()}
    same, other = means["the same against odd"], means["other against odd"]
    assert same == pytest.approx(dict.fromkeys(same, 1.0) | {"distance": 0.0}, abs=1e-6)
    for of in (other, means["the same"]):
        assert 0.3 < of["two_way"] < 0.7
        assert abs(of["pixcorr"]) < 0.2
        assert 0.8 < of["distance"] < 1.2
    assert abs(scored["the same against odd"].nulls["two_way"].mean() - 0.5) < 0.05
    assert len(means) == 5


def test_a_line_joins_the_steps_of_a_quantity_alone(tmp_path, monkeypatch):
    columns = ["0 numbers", "1 number", "whole response", "another image's response", "true components"]
    rows = {"control": "bottleneck", "subject": "01", "data": "simulated", "row": "", "metric": "two_way"}
    frame = pd.DataFrame([rows | dict.fromkeys(("value", "ci_low", "ci_high"), 0.5) | {"column": c} for c in columns])
    lines, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *given, **options: (lines.extend(self.axes[0].lines), save(self, *given, **options)),
    )
    draw_scores(frame.assign(null_low=0.4, null_high=0.6, n_images=9), tmp_path / "scores.png")
    joined = [line.get_xdata().tolist() for line in lines if line.get_linestyle() == "-"]
    assert joined == [[0, 1, 2]]


def test_each_condition_has_its_own_range_of_chance_and_each_score_a_panel(tmp_path, monkeypatch):
    about = {"control": "agreement", "subject": "01", "data": "simulated", "row": "", "n_images": 9, "value": 0.5}
    about |= {"ci_low": 0.4, "ci_high": 0.6}
    ranges = {"odd": (0.3, 0.7), "even against odd": (0.1, 0.4)}
    rows = [
        about | {"metric": metric, "column": column, "null_low": low, "null_high": high}
        for metric in TABLE_METRICS
        for column, (low, high) in ranges.items()
    ]
    panels, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **options: (panels.extend(self.axes), save(self, *given, **options))
    )
    draw_scores(pd.DataFrame(rows), tmp_path / "scores.png")
    shown = [axes for axes in panels if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [METRICS[metric].title for metric in TABLE_METRICS]
    for axes in shown:
        assert [(bar.get_y(), round(bar.get_y() + bar.get_height(), 6)) for bar in axes.patches] == list(
            ranges.values()
        )


def test_clip_judges_controls_of_a_backbone_without_image_tower(tmp_path, monkeypatch):
    """As Stable Diffusion has none."""
    judge, samples = PretendBackbone(), tmp_path / "refined.h5"
    judge.name = "CLIP"
    monkeypatch.setattr(PretendBackbone, "image_encoder", None)
    monkeypatch.setattr(control_tables, "Backbone", PretendBackbone)
    monkeypatch.setattr(judging, "ClipDescriber", lambda folder, device: judge)
    images = Reconstructions(smooth_images(IDS)[:, None], IDS, "refined", "01", "simulated")
    write_reconstructions(samples, images)
    responses, stimuli = write_responses(tmp_path / "responses.h5"), write_stimuli(tmp_path / "stimuli.h5")
    config, evaluate = ControlsConfig(sheet_rows=2), EvaluateConfig(bootstrap=20, networks="published")
    runtime, out = RuntimeConfig(device="cpu", threads=1), tmp_path / "controls.csv"
    stores = ({"01": responses}, {"01": stimuli}, "bare")
    control_tables.score_controls({}, {"01": samples}, *stores, config, evaluate, runtime, out, tmp_path, tmp_path)
    assert json.loads((tmp_path / "controls.run.json").read_text())["results"]["judge"] == "CLIP"
