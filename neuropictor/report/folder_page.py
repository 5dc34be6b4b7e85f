"""The page of scores of anybody's folders of images. Loads no torch."""

import json
from html import escape
from pathlib import Path

from neuropictor.evaluation.measures import FURTHER_METRICS, METRICS
from neuropictor.evaluation.protocols import OURS, PUBLISHED_METRICS
from neuropictor.evaluation.significance import read_tests
from neuropictor.evaluation.tables import read_metrics
from neuropictor.records.files import atomic_path
from neuropictor.report.pages import page
from neuropictor.report.scores import score_table, tests_of_frame


def folder_page(scores: Path, out: Path) -> None:
    """Write the page of a folder of `neuropictor.evaluation.folders.evaluate_folders`.

    Parameters
    ----------
    scores : Path
        Folder with metrics.csv, statistics.csv and metrics.json.
    out : Path
        HTML page.
    """
    facts = json.loads((scores / "metrics.json").read_text(encoding="utf-8"))
    frame, tested = read_metrics(scores / "metrics.csv"), read_tests(scores / "statistics.csv")
    models = list(facts["samples"])
    samples = ", ".join(f"{model}: {count} a picture" for model, count in facts["samples"].items())
    body = [f"<p>{facts['pictures']} pictures; samples: {escape(samples)}. Small print: 95 % bootstrap intervals.</p>"]
    for protocol in frame["protocol"].unique():
        part = frame[frame["protocol"] == protocol]
        body.append(f"<h2>Protocol {escape(protocol)}</h2>")
        if protocol == OURS:
            judged = "" if facts["networks"] == "published" else ": <b>not comparable with published scores</b>"
            body.append(f"<p>Judged by {escape(facts['judge'])}{judged}.</p>")
            body += [score_table(part, METRICS), score_table(part, FURTHER_METRICS)]
        else:
            body.append(score_table(part, PUBLISHED_METRICS))
            if facts["networks"] != "published":
                body.append(
                    "<p>AlexNet, Inception, CLIP, EfficientNet and SwAV are missing: <code>neuropictor fetch-weights"
                    "</code> fetches them, <code>--weights</code> names the folder.</p>"
                )
    body += tests_of_frame(tested)
    body.append("<p>Definitions: docs/metrics.md. Compare only numbers of the same protocol and test set.</p>")
    with atomic_path(out) as temporary:
        temporary.write_text(page(f"Reconstruction scores: {', '.join(models)}", "\n".join(body)), encoding="utf-8")
