"""The tiny chain on a real Slurm of two nodes, installed and started for it where that is possible.

Memory and processor limits are not enforced in this set-up; time limits, partitions and GPU counts are.
"""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import slurm_cluster
import yaml

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.workflow, pytest.mark.slurm]
# One subject, so that the chain is short; GPUs are reserved and not used.
SETTINGS = {
    "subjects": {"pretrain": [1], "refine": [1]},
    "encoder": {"dropout": 0.1},
    "runtime": {"device": "cpu", "gpus": 1, "threads": 1, "checkpoint_interval": 200},
}
ON_GPUS = {"cache_latents", "calibrate", "pretrain", "refine", "sample", "baselines", "evaluate"}
ON_PROCESSORS = {
    "simulate_images",
    "simulate_subject",
    "preprocess_stimuli",
    "preprocess_subject",
    "align",
    "align_space",
}
PATIENCE = 900


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    found = slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        slurm_cluster.install()
        found.start()
    except slurm_cluster.Unavailable as error:
        found.stop()
        pytest.skip(f"no Slurm here: {error}")
    yield found
    found.stop()


def command(folder: Path, settings: dict, *arguments: str) -> list[str]:
    """Call Snakemake with the cluster profile; it asks for news every second instead of every minute."""
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    quick = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
    place = ["--snakefile", ROOT / "Snakefile", "--directory", folder, "--workflow-profile", ROOT / "profiles/slurm"]
    partitions = ["--slurm-partition-config", ROOT / "profiles/slurm/partitions.yaml", "--latency-wait", "10"]
    files = ["--configfile", ROOT / "config.yaml", ROOT / "presets/tiny.yaml", path]
    all_of_it = [sys.executable, "-m", "snakemake", *place, *partitions, *quick, *arguments, *files]
    return [str(part) for part in all_of_it]


def snakemake(cluster, folder: Path, settings: dict, *arguments: str, status: int = 0, **environment: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        command(folder, settings, *arguments),
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    return output


def rule_of(job: dict[str, str]) -> str:
    return job["comment"].removeprefix("rule_").partition("_wildcards_")[0]


@pytest.fixture(scope="module")
def chain(cluster, tmp_path_factory):
    """Folder in which the chain has run, as far as the scores, and the jobs that it took."""
    folder = tmp_path_factory.mktemp("chain")
    snakemake(cluster, folder, SETTINGS, "results/metrics.csv")
    return folder, cluster.jobs()


def test_the_chain_runs_as_jobs_and_those_with_gpus_where_there_are_some(chain):
    folder, jobs = chain
    assert (folder / "results/metrics.csv").is_file()
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    partitions = {rule: {job["partition"] for job in jobs if rule_of(job) == rule} for rule in map(rule_of, jobs)}
    assert partitions == {rule: {"gpu" if rule in ON_GPUS else "cpu"} for rule in ON_GPUS | ON_PROCESSORS}
    count = Counter(map(rule_of, jobs))
    assert count["sample"] == 2  # refined and pretrained networks
    assert len(jobs) == len(ON_GPUS | ON_PROCESSORS) + 1


def test_no_accounting_database_is_needed(chain):
    # The program is there, but has nothing to ask.
    assert shutil.which("sacct")
    done = subprocess.run(["sacct"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "accounting storage is disabled" in done.stderr


def path_without(program: str, folder: Path) -> str:
    """Return PATH, with links to all else that lies beside the program in its place."""
    places = [Path(place) for place in os.get_exec_path()]
    for number, place in enumerate(places):
        if (place / program).exists():
            places[number] = folder / str(number)
            places[number].mkdir()
            for file in place.iterdir():
                if file.name != program:
                    (places[number] / file.name).symlink_to(file)
    return os.pathsep.join(map(str, places))


@pytest.mark.parametrize("status_command", ["squeue", "sacct"])
def test_sacct_may_be_absent(cluster, chain, tmp_path, status_command):
    folder = shutil.copytree(chain[0], tmp_path / "folder", ignore=shutil.ignore_patterns(".snakemake"))
    path = path_without("sacct", tmp_path)
    assert shutil.which("sacct", path=path) is None
    assert shutil.which("sbatch", path=path)
    target = "results/align/space.safetensors"
    options = ["-R", "align_space", "--slurm-status-command", status_command]
    output = snakemake(cluster, folder, SETTINGS, target, *options, PATH=path)
    assert "Unable to guess SLURM account" in output
    last = cluster.jobs()[-1]
    assert (rule_of(last), last["state"]) == ("align_space", "COMPLETED")


def test_a_training_on_two_nodes_has_the_losses_of_one(cluster, chain, tmp_path):
    def losses(folder):
        table = pd.read_csv(folder / "results/pretrain/history.csv")
        return table[table["split"] == "validation"].set_index(["step", "name"])[
            "value"
        ]  # without dropout, which differs

    folder = shutil.copytree(chain[0], tmp_path / "two", ignore=shutil.ignore_patterns(".snakemake"))
    both = {**SETTINGS, "runtime": {**SETTINGS["runtime"], "gpus": 0, "processes": 2, "nodes": 2}}
    snakemake(cluster, folder, both, "results/pretrain/model_index.json", "-R", "pretrain", "--retries", "0")
    last = cluster.jobs()[-1]
    assert (rule_of(last), last["nodes"], last["state"]) == ("pretrain", "2", "COMPLETED")
    one, two = losses(chain[0]), losses(folder)
    assert len(two) == 6
    pd.testing.assert_series_equal(one, two, rtol=1e-3)


def test_a_failing_job_shows_its_log(cluster, chain, tmp_path):
    folder = shutil.copytree(chain[0], tmp_path / "failing", ignore=shutil.ignore_patterns(".snakemake"))
    broken = {**SETTINGS, "runtime": {**SETTINGS["runtime"], "device": "mps"}}
    output = snakemake(
        cluster, folder, broken, "results/latents/sub-01.h5", "-R", "cache_latents", "--retries", "0", status=1
    )
    assert "runtime.device: 'mps' asked for, but torch" in output
    assert "Error in rule cache_latents" in output


def test_a_training_that_meets_its_time_limit_goes_on_in_the_next_try(cluster, chain, tmp_path):
    folder = shutil.copytree(chain[0], tmp_path / "limited", ignore=shutil.ignore_patterns(".snakemake"))
    endless = {**SETTINGS, "refine": {"steps": 200_000, "validation_interval": 100_000}}
    limits = ["-R", "refine", "--default-resources", "slurm_extra=''", "--set-resources", "refine:runtime=attempt"]
    target = "results/refine/sub-01/model_index.json"
    running = subprocess.Popen(
        command(folder, endless, target, *limits),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    log = folder / "logs/refine/sub-01.log"
    try:
        deadline = time.monotonic() + PATIENCE
        while not (log.is_file() and "Continuing after step" in log.read_text()):
            assert time.monotonic() < deadline, log.read_text() if log.is_file() else "no log"
            assert running.poll() is None, running.stdout.read().decode()
            time.sleep(1)
    finally:
        running.kill()  # asked to end, it would wait for its job, which ends with the cluster
        running.communicate()
    assert [job["state"] for job in cluster.jobs() if rule_of(job) == "refine"][1] == "TIMEOUT"
