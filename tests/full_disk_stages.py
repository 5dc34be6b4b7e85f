"""Let the disk be full, or read-only, under each stage of the tiny chain; mend it, and continue."""

import random
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from killed_chain import STAGES, differing, lasting
from tiny_chain import command

PAGE = 4096
#: Bytes for what stages keep while they run, checkpoints above all.
SPARE = 2**27
SAID = {
    "full": r"could not be written: No space left on device. Make room in .*, and run again",
    # Snakemake says it first, by the rule's other files or by the one it would remove.
    "read-only": r"Write-protected output files for rule \w+|cannot be written \(Read-only file system\)",
}


def one_stage(stage: str, fault: str, finished: Path, folder: Path) -> dict:
    """Run a stage of a finished run anew on a disk that is full or read-only; then mend the disk and continue.

    A full disk has room for a part of what the stage writes, drawn by the stage's name. Returns what was seen: the
    message, files that were there and are not as before, results that differ after continuing. Needs to be root.
    """
    top = STAGES[stage].split("/")[0]
    for part in ("data", "results"):
        if part != top:
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            (folder / part).symlink_to(finished / part)
    for part in (".snakemake", "logs"):
        shutil.copytree(finished / part, folder / part, symlinks=True)
    disk, names = folder / top, [name for name in lasting(finished) if name.parts[0] == top]
    disk.mkdir()
    size = sum(path.stat().st_size // PAGE + 2 for path in (finished / top).rglob("*")) * PAGE + SPARE
    with ExitStack() as mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
        mounted.callback(subprocess.run, ["umount", "-l", disk], check=True)
        shutil.copytree(finished / top, disk, symlinks=True, dirs_exist_ok=True)
        removed = sorted(folder.glob(STAGES[stage]))
        room = random.Random(stage).randrange(sum(path.stat().st_size for path in removed))
        for path in removed:
            path.unlink()
        filler = disk / "filler"
        if fault == "full":
            with open(filler, "wb") as file:
                file.write(bytes(shutil.disk_usage(disk).free - room // PAGE * PAGE))
        else:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        wanted = [path.relative_to(folder).as_posix() for path in removed]
        failed = subprocess.run(command(folder, *wanted), capture_output=True, text=True, check=False)
        logs = "".join(path.read_text() for path in (folder / "logs").rglob("*.log"))
        said = re.search(SAID[fault], logs + failed.stderr)
        seen = {"stage": stage, "fault": fault, "failed": failed.returncode != 0, "said": said[0] if said else ""}
        seen["lost"] = differing(finished, folder, names, missing=False)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        filler.unlink(missing_ok=True)
        done = subprocess.run(command(folder, *wanted), capture_output=True, text=True, check=False)
        seen |= {"continued": done.returncode == 0, "differing": differing(finished, folder, names, missing=True)}
        seen["left"] = [path.relative_to(folder).as_posix() for path in disk.rglob("*") if ".partial" in path.name]
        if done.returncode or not said:
            seen["output"] = (failed.stderr[-3000:], done.stderr[-3000:])
    shutil.rmtree(folder)
    return seen
