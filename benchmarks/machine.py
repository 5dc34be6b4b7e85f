"""Where something was measured, for the results of all benchmarks."""

import os
import platform
import subprocess
from pathlib import Path


def processor() -> dict[str, str]:
    """Return the processor's description by the kernel's names, such as "model name" and "flags"; may be empty."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def revision() -> str:
    """Return the revision of the code, with "-dirty" where files differ from it; "" outside a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> dict:
    """Describe the machine and the code, and what it had to do when this was called."""
    return {
        "revision": revision(),
        "cpu": processor().get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
