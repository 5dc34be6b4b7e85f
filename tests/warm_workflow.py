"""Snakemake whose jobs are forks of a process that has loaded torch and diffusers, which takes 5 s of processor time.

All of this library a job loads by itself, as always; `test_paper_structure.py` has all jobs in processes of their own.
"""

import multiprocessing
import runpy
import sys
from pathlib import Path

from snakemake.benchmark import benchmarked
from snakemake.cli import main
from snakemake.script import PythonScript

PACKAGES = ["snakemake.cli", "torch", "accelerate", "transformers", "pandas", "matplotlib.pyplot", "scipy.stats"]
PACKAGES += [
    "diffusers.models.controlnets.controlnet",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.training_utils",
]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PACKAGES)


def script(path: str) -> None:
    sys.argv = [path]
    runpy.run_path(path, run_name="__main__")


def execute_script(self: PythonScript, fname: str, edit: bool = False) -> None:
    """Do in a fork what Snakemake does in a process of its own."""
    job = FORKS.Process(target=script, args=(fname,))
    job.start()
    with benchmarked(job.pid, self.bench_record):
        job.join()
    if job.exitcode:
        raise RuntimeError(f"{fname} ended with status {job.exitcode}")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    PythonScript.execute_script = execute_script
    sys.exit(main())
