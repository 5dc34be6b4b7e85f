"""The Natural Object Dataset (OpenNeuro ds004496): a person's folder of ciftify, with betas and image names a run."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from neuropictor.data.labs.formats import read
from neuropictor.data.labs.reader import Files, Run
from neuropictor.records.files import need

_NAME = re.compile(r"ses-(?P<session>[a-z]+\d*)_task-[A-Za-z0-9]+_run-(?P<run>\d+)_beta\.dscalar\.nii")
_TEST = "coco"  # its 120 images come in each run, the ImageNet ones once


def nod(folder: Path) -> Files | None:
    """Read a person's folder, with ``ses-imagenet01_task-imagenet_run-1/<the same>_{beta.dscalar.nii,label.txt}``."""
    matches = {path: match for path in folder.rglob("ses-*_beta.dscalar.nii") if (match := _NAME.fullmatch(path.name))}
    if not matches:
        return None
    people = {part for path in matches for part in path.relative_to(folder).parts if part.startswith("sub-")}
    if len(people) > 1:
        raise ValueError(f"{folder} holds {len(people)} people; allowed: one, e.g. {folder / min(people)}")
    names = sorted({match["session"] for match in matches.values()}, key=lambda name: (name.startswith(_TEST), name))
    every = {
        number: sorted(
            (path for path, match in matches.items() if match["session"] == name),
            key=lambda path: int(matches[path]["run"]),
        )
        for number, name in enumerate(names, start=1)
    }

    def runs(session: int) -> list[Run]:
        if session not in every:
            raise FileNotFoundError(
                f"{folder} has no session {session}; allowed: 1 to {len(names)} ({', '.join(names)})"
            )
        return [Run((path,)) for path in every[session]]

    def trials() -> pd.DataFrame:
        rows = []
        for session, paths in every.items():
            images = [image for path in paths for image in _labels(path)]
            split = ("test" if names[session - 1].startswith(_TEST) else "train") if names[-1].startswith(_TEST) else ""
            rows += [(session, trial, image, split) for trial, image in enumerate(images)]
        return pd.DataFrame(rows, columns=["session", "trial", "image", "split"])

    return Files(runs, read, trials)


def _labels(path: Path) -> list[str]:
    """Names of a run's images."""
    table = path.with_name(path.name.replace("_beta.dscalar.nii", "_label.txt"))
    need(table, f"expected the images' names of {path.name}")
    names = [line.strip() for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    count = read(path, "").shape[0]
    if len(names) != count:
        raise ValueError(f"{table} names {len(names)} images, but {path.name} has {count} trials; allowed: as many")
    return names
