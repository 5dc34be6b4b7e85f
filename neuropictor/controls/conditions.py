"""The controls, each one entry of `CONTROLS`: its title, its settings and its conditions. Loads no torch.

A condition says whose responses give structure and semantics, how they are altered, and at which strengths images are
sampled. A new control needs an entry here, and its settings and name in `config.ControlsConfig`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from neuropictor.surface.atlas import AREA_GROUPS

if TYPE_CHECKING:
    from neuropictor.config import ControlsConfig

Conditions = Callable[["ControlsConfig"], list["Condition"]]


@dataclass(frozen=True)
class Condition:
    """One way to sample the test images.

    Attributes
    ----------
    column, row
        Place on the contact sheet; together they name the condition.
    responses
        Whose: "own", "other" (those of another test image) or "mean" (of all training images).
    most_repeats
        Repeats that are averaged; None: all.
    half
        Of which repeats of an image: "odd" (the first, third, ...) or "even" ones; "": all.
    numbers
        How many numbers pass from the response to the networks (see `bottleneck.Bottleneck`); None: the response.
    components
        Aligned components that the networks read: "predicted" from the response, or the "true" ones of the seen image.
    areas, keep
        A group of areas, and its use: "only" it is kept, it is left "out", or it comes from the "other" test
        image's responses.
    semantics
        Whose responses give the context: "own" or "other".
    partner
        Which other test image, 1 to n - 1 (see `draw.partners`); 0: none.
    noise
        Number of the sample whose starting noise is used; that of stage sample's first is 0.
    against
        Name of the condition whose images these are scored against as if they were the seen ones; "": of none.
    strengths
        Options of `Sampler.draw` that differ from those of stage sample.
    """

    column: str
    row: str = ""
    responses: str = "own"
    most_repeats: int | None = None
    half: str = ""
    numbers: int | None = None
    components: str = "predicted"
    areas: str = ""
    keep: str = ""
    semantics: str = "own"
    partner: int = 0
    noise: int = 0
    against: str = ""
    strengths: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Row and column."""
        return f"{self.row}, {self.column}" if self.row else self.column


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes
    ----------
    name, title
        In file names and tables, and for readers.
    settings
        Keys of `ControlsConfig` that its images depend on, besides those that all controls share.
    conditions
        Makes its conditions from the settings; None where nothing is sampled, as stage sample's images are scored.
    joined
        Whether the columns are steps of one quantity, joined by lines in figures.
    apart
        Columns that are no steps of it.
    of_space
        Whether it reads the space of the aligned components, and the true ones of the test images.
    of_two
        Whether an image is made of two scans, so that it matters which one it follows.
    """

    name: str
    title: str
    settings: tuple[str, ...] = ()
    conditions: Conditions | None = None
    joined: bool = False
    apart: tuple[str, ...] = ()
    of_space: bool = False
    of_two: bool = False

    def label(self, condition: Condition) -> str:
        """A condition's description in the file of images, as JSON."""
        return json.dumps({"title": self.title} | asdict(condition) | {"name": condition.name})


_ANOTHER = Condition("another image's response", responses="other", partner=1)
_TRUE = Condition("true components", components="true")


def _responses(config: ControlsConfig) -> list[Condition]:
    repeats = [Condition(f"{count} repeat{'s' if count > 1 else ''}", most_repeats=count) for count in config.repeats]
    return [*repeats, _ANOTHER, Condition("mean response", responses="mean")]


def _bottleneck(config: ControlsConfig) -> list[Condition]:
    counts = sorted({0, *config.bottleneck_components})
    steps = [Condition(f"{count} number{'' if count == 1 else 's'}", numbers=count) for count in counts]
    return [*steps, Condition("whole response"), _ANOTHER, _TRUE]


def _agreement(config: ControlsConfig) -> list[Condition]:
    """Make two readings, from other noise: from the same, images would agree by what they owe to it."""
    readings = [
        Condition("even", half="even", noise=1, against="odd"),
        Condition("odd again", half="odd", noise=1, against="odd"),
    ]
    return [Condition("odd", half="odd"), *readings]


def _areas(config: ControlsConfig) -> list[Condition]:
    words = {"only": "only", "out": "without"}
    groups = [
        Condition(group.replace("_", " "), words[keep], areas=group, keep=keep)
        for keep in words
        for group in AREA_GROUPS
    ]
    return [Condition("all areas", row) for row in words.values()] + groups


def _area_swap(config: ControlsConfig) -> list[Condition]:
    swaps = [Condition(group.replace("_", " "), areas=group, keep="other", partner=1) for group in AREA_GROUPS]
    return [Condition("no area"), *swaps, Condition("all areas", responses="other", partner=1)]


def _strengths(config: ControlsConfig) -> list[Condition]:
    return [
        Condition(
            f"structure {structure:g}",
            f"semantics {semantics:g}",
            strengths={"structure_scale": structure, "semantics_scale": semantics},
        )
        for semantics in config.semantics_scales
        for structure in config.structure_scales
    ]


def _semantic_swap(config: ControlsConfig) -> list[Condition]:
    return [
        Condition(
            f"structure {structure:g}",
            f"guidance {guidance:g}",
            semantics="other",
            partner=partner,
            strengths={"structure_scale": structure, "guidance_scale": guidance},
        )
        for guidance in config.swap_guidance_scales
        for structure in config.swap_structure_scales
        for partner in range(1, config.swap_partners + 1)
    ]


def _guidance(config: ControlsConfig) -> list[Condition]:
    return [Condition(f"guidance {scale:g}", strengths={"guidance_scale": scale}) for scale in config.guidance_scales]


def _steps(config: ControlsConfig) -> list[Condition]:
    return [
        Condition(f"{steps} steps", scheduler, strengths={"num_inference_steps": steps, "scheduler": scheduler})
        for scheduler in config.schedulers
        for steps in config.steps
    ]


CONTROLS = {
    control.name: control
    for control in (
        Control("nearest", "nearest training images"),
        Control(
            "responses",
            "images from fewer repeats, from another image's response, and from the mean response",
            ("repeats",),
            _responses,
        ),
        Control(
            "bottleneck",
            "few numbers in the place of a response",
            ("bottleneck_components",),
            _bottleneck,
            joined=True,
            apart=(_ANOTHER.column, _TRUE.column),
            of_space=True,
        ),
        Control("agreement", "two readings of one image: odd and even repeats", (), _agreement),
        Control("areas", "one group of areas alone, and all without it", (), _areas),
        Control(
            "strengths",
            "strength of structure and of semantics",
            ("structure_scales", "semantics_scales"),
            _strengths,
            joined=True,
        ),
        Control(
            "semantic_swap",
            "structure of one scan, semantics of another",
            ("swap_structure_scales", "swap_guidance_scales", "swap_partners"),
            _semantic_swap,
            joined=True,
            of_two=True,
        ),
        Control("area_swap", "one group of areas from another scan", (), _area_swap, of_two=True),
        Control("guidance", "guidance", ("guidance_scales",), _guidance, joined=True),
        Control("steps", "denoising steps", ("steps", "schedulers"), _steps, joined=True),
    )
}


def sampled_controls() -> list[str]:
    """Names of the controls that sample images; the others score those of stage sample."""
    return [name for name, control in CONTROLS.items() if control.conditions]


def conditions(name: str, config: ControlsConfig) -> list[Condition]:
    """Return the conditions of a control; ValueError if no control of this name samples images."""
    make = CONTROLS[name].conditions if name in CONTROLS else None
    if make is None:
        raise ValueError(f"control is {name!r}; allowed are {', '.join(sampled_controls())}, for example strengths")
    return make(config)
