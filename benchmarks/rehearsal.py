"""The paper's own preset from the first byte to the last page, at its real size: does every job fit its memory?

    PYTHONPATH=.:tests python benchmarks/rehearsal.py --work DIR

Takes two cores, 24 GiB, no GPU, 45 GB of disk in DIR and at most 150 minutes; started again after a kill, it goes on.

1. Makes what is fetched (`rehearsal_data.py`): a simulated NSD on the full fsaverage, COCO's annotations, a backbone in
   the sizes of Stable Diffusion 2.1-base and the published networks, with random weights.
2. Runs `rule all` under presets/nsd.yaml and an overlay (DIR/overlay.yaml) with few images, two training steps and one
   or two denoising steps; large jobs take both cores, so one runs at a time. All is fetched from a local server, by the
   real rules; the bank of images lacks the bytes of images that nobody looks at. Only the checksums that torchvision
   puts into its files' names are not compared.
3. Measures what grows with the counts of NSD (982 test images, 8,859 training images, 78,848 text features, 213,000
   trials) at these counts, with cheap stand-ins for the networks (`rehearsal_counts.py`).

Memory of a job is the largest of: VmHWM (peak of resident memory, which the kernel keeps) of each of its processes,
read five times a second; and, where it has several, the sum of what is theirs (Pss) at any such moment. Weights that
are mapped from files count while they are resident. `need_gib` is what rules/needs.yaml or the rule gives the job.

Writes results/rehearsal.json; exit 1 if a job needs more than it is given, or did not end well.
"""

import argparse
import ast
import contextlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from machine import machine
from rehearsal_counts import COUNTS, LIMITS, RULES
from rehearsal_data import PUBLISHED, SESSIONS_FETCHED, make_all, served
from stand_in_bucket import serving

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULT = HERE / "results" / "rehearsal.json"
_INTERVAL = 0.2
_LARGE = 50 * 2**10  # kB; processes below it are shells

#: Put before every job's other modules: torchvision's checksums are those of its own weights.
_HOOK = """import sys

if any("fetch_weights" in word for word in sys.orig_argv):
    from neuropictor.fetching import weights

    weights._expected = lambda file, config: ""
"""


def overlay(work: Path, address: str) -> dict:
    """Return what lies over presets/nsd.yaml."""
    one = {"steps": 2, "batch_size": 1}
    return {
        "subjects": {"pretrain": [1, 2], "refine": [1]},
        "paths": {"nsd": "nsd", "prepared": "prepared", "weights": "weights", "results": "results"},
        "nsd": {
            "terms_accepted": True,
            "sessions": SESSIONS_FETCHED,
            "endpoint": address,
            "coco_endpoint": address,
        },
        "weights": dict.fromkeys(("torchvision", "clip", "swav"), f"{address}/{PUBLISHED}"),
        "backbone": {
            "source": str(work / "backbone"),
            "target_text_encoder": str(work / "target_text_encoder"),
        },
        "calibrate": one,
        "pretrain": {**one, "guidance_adaptation": {"steps": 1}},
        "refine": {**one, "guidance_adaptation": {"steps": 1}},
        "sample": {"steps": 2, "batch_size": 2},
        # One control that is scored alone, one of other responses and one of two scans: all ways through the rules.
        "controls": {
            "made": ["nearest", "responses", "semantic_swap"],
            "images": 2,
            "sampling_steps": 1,
            "repeats": [1],
            "swap_structure_scales": [1.0],
        },
        # Processors without instructions for bf16 take twelve times as long in it.
        "runtime": {"precision": "fp32", "accumulation": 1, "gpus": 0, "threads": 2},
    }


def snakemake(work: Path, *arguments: str) -> list[str]:
    """Return the command that runs the workflow of this checkout in ``work/run``."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", work / "run"]
    command += ["--workflow-profile", ROOT / "profiles/default", "--cores", 2, *arguments]
    return [str(word) for word in [*command, "--configfile", ROOT / "presets/nsd.yaml", work / "overlay.yaml"]]


@dataclass
class Job:
    """A job under observation."""

    rule: str
    start: float
    end: float = 0.0
    peak_kb: float = 0.0
    counts: dict = field(default_factory=dict)

    def measured(self) -> dict:
        """Return its entry."""
        used = {"seconds": round(self.end - self.start, 1), "peak_gib": round(self.peak_kb / 2**20, 3)}
        return {"rule": self.rule, **used, "counts": self.counts}


class Watch(threading.Thread):
    """Measures jobs below a process until it is told to stop.

    Parameters
    ----------
    root
        Number of the process.
    job_of
        From a process's command line: a name that all processes of one job have in common, or None.
    describe
        From that name: a `Job`.
    out
        File to which each job's entry is appended when it has ended.
    """

    def __init__(self, root: int, job_of: Callable[[str], str | None], describe: Callable[[str], Job], out: Path):
        super().__init__(daemon=True)
        self.root, self.job_of, self.describe, self.out = root, job_of, describe, out
        self.jobs: dict[str, Job] = {}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(_INTERVAL):
            self.look()
        for name in list(self.jobs):
            self._finish(name)

    def look(self) -> None:
        """Look once at all processes."""
        by_job: dict[str, list[int]] = {}
        for number, name in self._members():
            by_job.setdefault(name, []).append(number)
        now = time.monotonic()
        for name, numbers in by_job.items():
            if name not in self.jobs:
                self.jobs[name] = self.describe(name)
            job, status = self.jobs[name], [_status(number) for number in numbers]
            job.end = now
            large = [number for number, found in zip(numbers, status, strict=True) if found.get("VmRSS", 0) > _LARGE]
            together = sum(_pss(number) for number in large) if len(large) > 1 else 0
            job.peak_kb = max(job.peak_kb, together, *(found.get("VmHWM", 0) for found in status))
        for name in self.jobs.keys() - by_job.keys():
            self._finish(name)

    def _members(self) -> Iterator[tuple[int, str]]:
        """Yield processes below the root with the jobs they belong to: their own name's, or an ancestor's."""
        parents = _parents()
        children: dict[int, list[int]] = {}
        for number, parent in parents.items():
            children.setdefault(parent, []).append(number)
        below = [(number, None) for number in children.get(self.root, [])]
        while below:
            number, name = below.pop()
            name = name or self.job_of(_command(number))
            below += [(child, name) for child in children.get(number, [])]
            if name is not None:
                yield number, name

    def _finish(self, name: str) -> None:
        job = self.jobs.pop(name)
        with open(self.out, "a") as file:
            file.write(json.dumps(job.measured()) + "\n")


def _parents() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _command(number: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def _status(number: int) -> dict[str, int]:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
        return {
            key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if key[:2] == "Vm"
        }
    return {}


def _pss(number: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{number}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def script_of(command: str) -> str | None:
    """Return the script that Snakemake has written for a job, from a command line that runs it."""
    found = re.search(r"\S*/\.snakemake/scripts/tmp\w+\.\w+\.py", command)
    return found.group() if found else None


def describe_script(script: str) -> Job:
    """Read the rule from what Snakemake hands to the script: its own pickle, which the script itself loads."""
    text = Path(script).read_text()
    found = re.search(r"pickle\.loads\((b'(?:[^'\\]|\\.)*'|b\"(?:[^\"\\]|\\.)*\")\)", text)
    job = pickle.loads(ast.literal_eval(found.group(1)))
    wildcards = {name: str(value) for name, value in job.wildcards.items()}
    return Job(job.rule, time.monotonic(), counts={"cores": job.threads, **wildcards})


def rules(work: Path) -> list[str]:
    """Return the rules that have jobs, as a dry run of all of them tells."""
    command = snakemake(work, "--dry-run", "--forceall", "--nolock", "--quiet", "rules")
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    table = output.partition("Job stats:\n")[2].partition("\n\n")[0]
    return [name for name in re.findall(r"^(\w+) +\d+$", table, re.MULTILINE) if name not in {"all", "total"}]


def given_gib(rule: str) -> float:
    """Return the memory of a rule's jobs: its own, that of rules/needs.yaml for the paper's size, or the default."""
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    like = re.search(rf"^use rule (\w+) as {rule} with:", text, re.MULTILINE)
    body = re.search(
        rf"^rule {like.group(1) if like else rule}:\n(.*?)(?=^\w|\Z)", text, re.DOTALL | re.MULTILINE
    ).group(1)
    given = re.search(r"mem_mb=(growing|need)\((.*?)\)", body)
    if given is None:
        profile = yaml.safe_load((ROOT / "profiles/slurm/profile.v9+.yaml").read_text())
        megabytes = profile["default-resources"]["mem_mb"]
    elif given.group(1) == "growing":
        megabytes = int(given.group(2))
    else:
        megabytes = yaml.safe_load((ROOT / "rules/needs.yaml").read_text())[rule]["paper"]["mem_mb"]
    return round(megabytes / 1024, 3)


def run_workflow(work: Path, arguments: list[str]) -> int:
    """Run the workflow under observation and return its exit status."""
    (work / "run").mkdir(exist_ok=True)
    (work / "hook").mkdir(exist_ok=True)
    (work / "hook/sitecustomize.py").write_text(_HOOK)
    path = os.pathsep.join([str(work / "hook"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    with serving(served(work)) as server:
        (work / "overlay.yaml").write_text(yaml.safe_dump(overlay(work, server.address)))
        environment = os.environ | {"PYTHONPATH": path, "NO_PROXY": "127.0.0.1"}
        with subprocess.Popen(snakemake(work, *arguments), env=environment) as process:
            watch = Watch(process.pid, script_of, describe_script, work / "jobs.jsonl")
            watch.start()
            try:
                return process.wait()
            finally:
                watch.done.set()
                watch.join()


def run_count(work: Path, name: str) -> bool:
    """Measure one of `rehearsal_counts.COUNTS`, unless it is measured; return whether it is.

    One process makes the input, and another one is measured.
    """
    out = work / "counts" / f"{name}.json"
    if out.is_file():
        return True
    out.parent.mkdir(exist_ok=True)
    print(f"Measuring {name}", flush=True)
    watched = out.with_suffix(".jsonl")
    watched.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "rehearsal_counts.py"), name, "--work", str(work)]
    if subprocess.run([*command, "--make"], check=False).returncode:
        return False
    job = Job(name, time.monotonic())
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = Watch(os.getpid(), _count_of, lambda _: job, watched)
        watch.start()
        output, _ = process.communicate()
        watch.done.set()
        watch.join()
    if process.returncode:
        return False
    told = json.loads(output.splitlines()[-1])
    out.write_text(json.dumps(json.loads(watched.read_text()) | told) + "\n")
    return True


def _count_of(command: str) -> str | None:
    found = re.search(r"rehearsal_counts\.py (\w+)", command)
    return found.group(1) if found else None


def collected(work: Path, counts: list[str]) -> dict:
    """Put together one entry a rule, the largest of its jobs, and one of each count."""
    expected, jobs = rules(work), {}
    lines = (work / "jobs.jsonl").read_text().splitlines() if (work / "jobs.jsonl").is_file() else []
    for item in map(json.loads, lines):
        best = jobs.setdefault(item["rule"], item | {"jobs": 0})
        best["jobs"] += 1
        best["seconds"] = max(best["seconds"], item["seconds"])
        if item["peak_gib"] > best["peak_gib"]:
            best |= {"peak_gib": item["peak_gib"], "counts": item["counts"]}
    entries = [jobs[rule] | {"need_gib": given_gib(rule)} for rule in expected if rule in jobs]
    for name in counts:
        if (path := work / "counts" / f"{name}.json").is_file():
            rule = RULES[name]
            names = {"rule": f"{rule} (count)", "need_gib": min(given_gib(rule), LIMITS.get(name, math.inf))}
            entries.append(json.loads(path.read_text()) | names)
    missing = [rule for rule in expected if rule not in jobs]
    return {"jobs": entries, "rules_without_a_job": missing, "machine": described()}


def described() -> dict:
    """Describe the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return machine() | {"memory_gib": round(memory, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything; may be removed afterwards")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--counts", nargs="*", choices=COUNTS, default=list(COUNTS), help="what is measured in step 3")
    parser.add_argument("--only-counts", action="store_true", help="leave out step 2")
    parser.add_argument("snakemake", nargs="*", help="further arguments of Snakemake, after --, e.g. -- --until sample")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    make_all(work)
    status = 0 if given.only_counts else run_workflow(work, given.snakemake)
    measured = [run_count(work, name) for name in given.counts]
    result = collected(work, list(COUNTS))
    over = [item for item in result["jobs"] if item["peak_gib"] > item["need_gib"]]
    result["ended_well"] = status == 0 and all(measured) and not result["rules_without_a_job"]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    for item in result["jobs"]:
        mark = "MORE THAN GIVEN" if item in over else ""
        print(f"{item['rule']:22} {item['seconds']:8.1f} s {item['peak_gib']:7.2f} of {item['need_gib']} GiB {mark}")
    return int(bool(over) or not result["ended_well"])


if __name__ == "__main__":
    sys.exit(main())
