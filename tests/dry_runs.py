"""Many dry runs at little cost: Snakemake is imported once, and each dry run is a fork of that process."""

import contextlib
import io
import json
import multiprocessing
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Planned:
    """What a dry run said."""

    output: str
    jobs: Counter = field(init=False)

    def __post_init__(self):
        stats = self.output.partition("Job stats:")[2].partition("total")[0]
        found = re.findall(r"^(\w+)\s+(\d+)\s*$", stats, re.MULTILINE)
        self.jobs = Counter({rule: int(count) for rule, count in found if rule != "all"})

    def reasons(self) -> str:
        """Return all lines that give a reason."""
        return "\n".join(re.findall(r"Reason: .*", self.output))


def dry_run(folder: Path, settings: Mapping, presets: tuple[str, ...], arguments: tuple[str, ...]) -> Planned:
    """Plan in a folder that holds a workflow and a library; runs in a process of its own."""
    os.chdir(folder)
    sys.path[:0] = [str(folder)]  # as `python -m snakemake` does: the library of this folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "neuropictor"]:
        del sys.modules[name]
    from snakemake.cli import main

    own = Path(f"settings-{os.getpid()}.yaml")
    own.write_text(json.dumps(settings))  # JSON is YAML
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            main(["-n", "--cores", "2", *arguments, "--configfile", *presets, str(own)])
        except SystemExit as end:
            if end.code:
                raise RuntimeError(told.getvalue()) from None
    own.unlink()
    return Planned(told.getvalue())


def plan_all(cases: Mapping[str, tuple]) -> dict[str, Planned]:
    """Plan all cases, as many at once as there are cores.

    Parameters
    ----------
    cases
        Arguments of `dry_run` by name.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["snakemake.cli"])
    # Not concurrent.futures: with one task a process it may wait for ever (CPython issue 115634).
    with context.Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        return dict(zip(cases, pool.starmap(_planned, cases.values(), chunksize=1), strict=True))


def _planned(*case) -> Planned:
    """Return what a dry run said, also where it failed: then it planned nothing that a test could expect."""
    try:
        return dry_run(*case)
    except RuntimeError as error:
        return Planned(f"{error}\nJob stats:\nfailed 1\ntotal 1")
