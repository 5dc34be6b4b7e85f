"""A copy of the workflow with a library of its own, and what Snakemake would run there.

Snakemake is imported once: each call of it is a fork of that process.
"""

import contextlib
import gc
import io
import json
import logging
import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tiny_chain import ROOT

PARTS = ("Snakefile", "rules", "workflow_scripts", "report", "envs", "profiles", "presets", "config.yaml")
PER_SUBJECT = {
    "simulate_subject": 1,
    "preprocess_subject": 1,
    "preprocess_stimuli": 1,
    "cache_latents": 1,
    "align": 1,
    "refine": 1,
    "sample": 2,
    "baselines": 1,
    "contact_sheet": 1,
}
ONCE = ["simulate_images", "calibrate", "align_space", "pretrain"]
ONCE += ["evaluate", "data_card", "report_scores", "gallery", "training_curves"]
ONCE += ["response_map", "score_controls"]
CONTROLS = 4  # that draw images, of one subject
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["snakemake.cli", "scipy.ndimage", "pandas", "pydantic", "h5py"])


@dataclass
class Said:
    """What Snakemake said, and its exit status."""

    output: str
    status: int
    #: Rule and reason of each job, without the targets.
    reasons: list[tuple[str, str]] = field(default_factory=list)

    @property
    def jobs(self) -> Counter:
        """Jobs by rule; a dry run that failed has none that a test could expect."""
        return Counter(rule for rule, _ in self.reasons) if self.status == 0 else Counter([self.output])


def in_fork(folder: Path, arguments: Iterable[str], settings: Mapping, presets: Iterable[str]) -> Said:
    """Run Snakemake in a folder that holds a workflow and a library; call this in a process of its own."""
    gc.disable()
    os.chdir(folder)
    sys.path[:0] = [str(folder)]  # as `python -m snakemake` does: the library of this folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "neuropictor"]:
        del sys.modules[name]
    from snakemake.cli import main

    own = Path(f"settings-{os.getpid()}.yaml")
    own.write_text(json.dumps(settings))  # JSON is YAML
    told, found = io.StringIO(), Said("", 0)

    def keep(record: logging.LogRecord) -> bool:
        if getattr(record, "rule_name", "all") != "all" and hasattr(record, "reason"):
            found.reasons.append((record.rule_name, record.reason))
        return True

    logging.getLogger("snakemake.logging").addFilter(keep)
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            main(["--cores", "2", "--configfile", *presets, str(own), *arguments])
        except SystemExit as end:
            found.status = end.code or 0
    own.unlink()
    found.output = told.getvalue()
    return found


def snakemake_all(calls: Mapping[str, tuple]) -> dict[str, Said]:
    """Call Snakemake with the arguments of `in_fork`, given by name, as many at once as there are cores."""
    # Not concurrent.futures: with one task a process it may wait for ever (CPython issue 115634).
    with FORKS.Pool(min(len(calls), os.cpu_count() or 1), maxtasksperchild=1) as pool:
        return dict(zip(calls, pool.starmap(in_fork, calls.values(), chunksize=1), strict=True))


def snakemake(folder: Path, *arguments: str, settings: Mapping | None = None, presets: Iterable[str] = ()) -> Said:
    return snakemake_all({"": (folder, arguments, settings or {}, presets)})[""]


def done(folder: Path, *arguments: str, **settings: Mapping) -> str:
    """Return what a run said that succeeded."""
    said = snakemake(folder, *arguments, **settings)
    assert said.status == 0, said.output
    return said.output


def planned(
    folder: Path, settings: Mapping, *presets: str, targets: Iterable[str] = (), forced: bool = False
) -> Counter:
    """Jobs of a dry run, by rule."""
    flags = ["-n", "--forceall"] if forced else ["-n"]
    return snakemake(folder, *flags, "--", *targets, settings=settings, presets=presets).jobs


def refused(folder: Path, settings: Mapping, *presets: str) -> str:
    """Return what a dry run said that must fail."""
    said = snakemake(folder, "-n", settings=settings, presets=presets)
    assert said.status != 0
    return said.output


def chain(subjects: int) -> Counter:
    jobs = {rule: count * subjects for rule, count in PER_SUBJECT.items()} | dict.fromkeys(ONCE, 1)
    return Counter(jobs | {"control": CONTROLS})


def copy_workflow(folder: Path) -> Path:
    """Copy the workflow, with a library of its own: fingerprints follow edits of it."""
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    weights = shutil.ignore_patterns("__pycache__", "assets", "*.npz")
    shutil.copytree(ROOT / "neuropictor", folder / "neuropictor", ignore=weights)
    (folder / "neuropictor/assets").symlink_to(ROOT / "neuropictor/assets")
    return folder


def variant(chain: Path, folder: Path) -> Path:
    """Make a folder that shares the results of a finished chain, with a workflow and a library of its own to edit."""
    folder.mkdir(parents=True)
    for part in ("data", "results", "logs", ".snakemake"):
        (folder / part).symlink_to(chain / part)
    return copy_workflow(folder)


def image_files() -> list[str]:
    from neuropictor.nsd import keys

    annotations = [keys.annotations(kind, split) for kind in keys.ANNOTATION_KINDS for split in keys.COCO_SPLITS]
    return [keys.STIMULI, keys.STIMULUS_INFO, keys.EXPERIMENT_DESIGN, *annotations]
