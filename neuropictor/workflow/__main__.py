"""Make one file again, in one job of the workflow that a debugger can stop.

    python -m neuropictor.workflow results/refine/sub-01/run.json --configfile presets/tiny.yaml

The job runs even if its output exists. The call of its function stands in the job's log, and ``breakpoint()`` stops
it.
"""

import os
import subprocess
import sys

from neuropictor.workflow.job import SHOW_CALL


def main() -> int:
    """Run Snakemake for one file."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    file, *options = sys.argv[1:]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--debug",
        "--force",
        "--notemp",
        *options,
        "--",
        file,
    ]
    return subprocess.run(command, env={**os.environ, SHOW_CALL: "yes"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
