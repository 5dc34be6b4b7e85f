"""Building blocks of the sections of the configuration: their base, and the types of numbers and texts."""

import math
import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# Pages of the report are made of them: neither code of Snakemake's nor reStructuredText's.
_FOLDER = r"^([^{}<>`\s\x00-\x1f\x7f][^{}<>`\x00-\x1f\x7f]*)?$"


class Section(BaseModel):
    """Base of all sections: exact types, no unknown keys, no changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)


def subject_label(value: object) -> object:
    """Write a subject's number as its label, of two digits as in NSD: 1 -> ``01``; labels stay as they are.

    What is neither is returned unchanged, for the type to refuse.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 100:
        return f"{value:02d}"
    return f"0{value}" if isinstance(value, str) and re.fullmatch(r"[0-9]", value) else value


def _unique_subjects(subjects: list[str]) -> list[str]:
    if len(set(subjects)) != len(subjects):
        raise ValueError("each subject once, e.g. [1, 2, 5]")
    return subjects


def _expand(name: str) -> str:
    """Write a folder's name without ``~`` and ``$HOME``, as shells do."""
    path = os.path.expandvars(os.path.expanduser(name))
    if unknown := re.search(r"^~[^/]*|\$\w+", path):
        raise ValueError(
            f"{name!r} has {unknown[0]}, which is no variable or home folder here; allowed: one that is, e.g. $HOME/nsd"
        )
    if not re.search(_FOLDER, path) or any(len(os.fsencode(part)) > 255 for part in path.split("/")):
        raise ValueError(f"{path!r} is no name of a folder, or longer than 255 bytes; allowed: e.g. data/nsd")
    if path and os.path.normpath(path) in (".", "/"):
        raise ValueError(f"{name!r} is the working directory or the whole disk; allowed: a folder, e.g. data/nsd")
    return path


def _check_spacing(steps: int) -> int:
    """Refuse what diffusers' "trailing" spacing of 1,000 noise levels rounds to a step more, below the first level."""
    if math.ceil(1000 / (1000 / steps)) != steps:
        raise ValueError(
            f"{steps} steps, which do not divide the 1,000 noise levels evenly by rounding; allowed: one less, e.g."
            f" {steps - 1}"
        )
    return steps


Seed = Annotated[int, Field(ge=0, lt=2**32)]
# Most values are far above any use: they tell a slip of the keyboard before hours of other stages, not after.
Count = Annotated[int, Field(ge=1, le=10**8)]
Size = Annotated[int, Field(ge=1, le=2**16)]
Few = Annotated[int, Field(ge=1, le=1000)]
Side = Annotated[int, Field(ge=8, le=4096)]
Machines = Annotated[int, Field(ge=1, le=4096)]
#: Noise schedules have 1,000 levels, Stable Diffusion's and the miniature's.
SamplingSteps = Annotated[int, Field(ge=1, le=1000), AfterValidator(_check_spacing)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Alphas = Annotated[list[Positive], Field(min_length=1)]
Start = Literal["population", "scratch"]
#: What a subject is called: BIDS's labels, of which NSD's are 01 to 08.
SUBJECT = r"[A-Za-z0-9]+"
_Label = Annotated[str, Field(pattern=rf"^{SUBJECT}$")]
_Number = Annotated[int, Field(ge=0, le=99)]
Subject = Annotated[_Label, BeforeValidator(subject_label, json_schema_input_type=_Label | _Number)]
Subjects = Annotated[list[Subject], Field(min_length=1), AfterValidator(_unique_subjects)]
Address = Annotated[str, Field(pattern=r"^https?://[^{}<>\s]+$")]
FolderName = Annotated[str, Field(min_length=1, pattern=_FOLDER), AfterValidator(_expand)]
FolderOrNone = Annotated[str, Field(pattern=_FOLDER), AfterValidator(_expand)]
Commit = Annotated[str, Field(pattern=r"^([0-9a-f]{40})?$")]
#: A repository of the Hugging Face hub.
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
