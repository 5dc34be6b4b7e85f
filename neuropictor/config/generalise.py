"""The section of the configuration about generalisation: further test sets, and people on whom nothing was trained.

Take it from `neuropictor.config`, which checks the sections together.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from neuropictor.config.types import Few, Section, Seed


def _each_once(values: list[int]) -> list[int]:
    if len(set(values)) != len(values):
        raise ValueError("each number once, e.g. [0, 50, 200]")
    return values


#: Fewer pairs tell neither the noise of a vertex nor how far to follow others; the mean of others does without.
FEWEST_PAIRS = 10
Pairs = Annotated[list[Annotated[int, Field(ge=0, le=73_000)]], AfterValidator(_each_once)]


class GeneraliseConfig(Section):
    """Questions beyond the test images of those who were trained on."""

    new_people: bool = Field(
        default=False,
        description="whether people on whom no network was trained are adapted to, from few image-response pairs: those"
        " of subjects.refine who did not pretrain; else, by start weights, all of them",
    )
    pairs: Pairs = Field(
        default=[0, 25, 50, 200, 750],
        description="new_people: numbers of pairs, before all that there are; 0: from other people alone",
    )
    refine_pairs: Pairs = Field(
        default=[200],
        description="new_people: numbers, among these, on which networks are refined too, and then on all; []: on none",
    )
    samples: Few = Field(default=10, description="images drawn for each stimulus of NSD-Imagery (nsd.test_sets)")
    subjects: Few = Field(
        default=8, description="number of new people, and of people of further test sets, the first of subjects.refine"
    )
    seed: Seed = Field(default=18, description="seed of the choice of pairs")

    @model_validator(mode="after")
    def _check_pairs(self) -> "GeneraliseConfig":
        few = [pairs for pairs in self.pairs if 0 < pairs < FEWEST_PAIRS]
        if few:
            raise ValueError(
                f"pairs has {few[0]}, too few to tell noise from signal; allowed: 0, or at least {FEWEST_PAIRS}, e.g."
                " [0, 50]"
            )
        other = [pairs for pairs in self.refine_pairs if not pairs or pairs not in self.pairs]
        if other:
            raise ValueError(
                f"refine_pairs has {other[0]}; allowed: numbers above 0 that are among pairs, e.g. refine_pairs: [200]"
            )
        return self
