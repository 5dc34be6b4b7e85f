"""Building blocks of the sections of the configuration: their base, and the types of numbers and texts."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: NSD has subjects 1 to 8.
NSD_SUBJECTS = 8


class Section(BaseModel):
    """Base of all sections: exact types, no unknown keys, no changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)


def _unique_subjects(subjects: list[int]) -> list[int]:
    if len(set(subjects)) != len(subjects):
        raise ValueError("each subject once, e.g. [1, 2, 5]")
    return subjects


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Alphas = Annotated[list[Positive], Field(min_length=1)]
Start = Literal["population", "scratch"]
Subjects = Annotated[
    list[Annotated[int, Field(ge=1, le=NSD_SUBJECTS)]], Field(min_length=1), AfterValidator(_unique_subjects)
]
Address = Annotated[str, Field(pattern=r"^https?://[^{}<>\s]+$")]
FolderName = Annotated[str, Field(min_length=1, pattern=r"^[^{}<>\s][^{}<>]*$")]
Commit = Annotated[str, Field(pattern=r"^([0-9a-f]{40})?$")]
#: A repository of the Hugging Face hub.
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
