"""The sections of the configuration about drawing images: reconstructions, and controls of them.

Take them from `neuropictor.config`, which checks them together.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from neuropictor.config.types import Few, NotNegative, SamplingSteps, Section, Seed, Share, Size


def _each_once(values: list) -> list:
    if len(set(values)) != len(values):
        raise ValueError("each value once, e.g. [0.5, 1.0]")
    return values


Control = Literal[
    "nearest",
    "responses",
    "bottleneck",
    "agreement",
    "areas",
    "strengths",
    "semantic_swap",
    "area_swap",
    "guidance",
    "steps",
]
Scales = Annotated[list[NotNegative], Field(min_length=1), AfterValidator(_each_once)]
GuidanceScales = Annotated[list[Annotated[float, Field(ge=1)]], Field(min_length=1), AfterValidator(_each_once)]
Sizes = Annotated[list[Size], Field(min_length=1), AfterValidator(_each_once)]
Repeats = Annotated[list[Few], Field(min_length=1), AfterValidator(_each_once)]
StepCounts = Annotated[list[SamplingSteps], Field(min_length=1), AfterValidator(_each_once)]
Scheduler = Literal["ddim", "dpm++", "unipc"]


def _rising(interval: list[float]) -> list[float]:
    if interval[0] >= interval[1]:
        raise ValueError("the lower end first, e.g. [0.0, 1.0]")
    return interval


Interval = Annotated[list[Share], Field(min_length=2, max_length=2), AfterValidator(_rising)]


class SampleConfig(Section):
    """Reconstruction of the test images."""

    scheduler: Scheduler = Field(
        default="dpm++", description="solver of the noise schedule: ddim as in the paper; the others need fewer steps"
    )
    steps: SamplingSteps = Field(default=6, description="denoising steps")
    guidance_scale: Annotated[float, Field(ge=1)] = Field(default=3.0, description="classifier-free guidance; 1: none")
    guidance_interval: Interval = Field(
        default=[0.0, 1.0],
        description="shares of the noise schedule (0 clean, 1 pure noise) between which guidance is used; outside, a"
        " step costs half as much",
    )
    samples: Few = Field(default=1, description="images drawn a test image")
    choose: Literal["all", "consensus"] = Field(
        default="all",
        description="samples that are kept: all, or the one that an image's other samples resemble most, without"
        " use of the seen image",
    )
    trial_averaging: Literal["mean", "single"] = Field(
        default="mean",
        description="a test image's response, for networks and baselines: mean of its repeats, or its first trial",
    )
    rounding: Literal["nearest", "down"] = Field(
        default="nearest",
        description="from colours to whole numbers of 0 to 255: the nearest, or, as the official code, the next lower",
    )
    batch_size: Size = Field(default=50, description="images at a time; changes them by rounding at most")
    seed: Seed = Field(default=14, description="seed from which each image's noise seed is derived")

    @property
    def most_repeats(self) -> int | None:
        """Repeats of a test image that are averaged; None: all."""
        return 1 if self.trial_averaging == "single" else None


class ControlsConfig(Section):
    """Controls against spurious reconstruction, and images steered on purpose."""

    made: Annotated[list[Control], AfterValidator(_each_once)] = Field(
        default=["nearest", "responses", "areas", "strengths", "semantic_swap"],
        description="controls to make, docs/controls.md; []: none",
    )
    subjects: Few = Field(default=1, description="number of subjects, the first of subjects.refine")
    images: Annotated[int, Field(ge=2, le=73_000)] = Field(
        default=24, description="test images of each control, evenly spaced; all if there are no more"
    )
    sampling_steps: SamplingSteps = Field(
        default=6, description="denoising steps of all controls but steps, in place of sample.steps"
    )
    repeats: Repeats = Field(default=[1, 2, 3], description="responses: repeats of a test image that are averaged")
    bottleneck_components: Sizes = Field(
        default=[1, 4, 16, 64], description="bottleneck: numbers that pass from a response to the networks"
    )
    structure_scales: Scales = Field(
        default=[0.0, 1.0, 2.0], description="strengths: factors on the manipulation network's residuals"
    )
    semantics_scales: Scales = Field(
        default=[0.0, 0.5, 1.0],
        description="strengths: places of the context between the empty prompt's and the guiding network's",
    )
    swap_structure_scales: Scales = Field(default=[1.0, 2.0, 3.0], description="semantic_swap: factors on structure")
    swap_guidance_scales: GuidanceScales = Field(default=[2.0], description="semantic_swap: classifier-free guidance")
    swap_partners: Size = Field(
        default=1, description="semantic_swap: other test images that give an image its semantics"
    )
    guidance_scales: GuidanceScales = Field(
        default=[1.0, 2.0, 3.0, 5.0, 8.0], description="guidance: classifier-free guidance"
    )
    steps: StepCounts = Field(default=[2, 5, 10, 25], description="steps: denoising steps")
    schedulers: Annotated[list[Scheduler], Field(min_length=1), AfterValidator(_each_once)] = Field(
        default=["ddim", "dpm++", "unipc"], description="steps: solvers of the noise schedule"
    )
    sheet_rows: Few = Field(default=4, description="test images on a contact sheet")
    seed: Seed = Field(default=16, description="seed of wrong responses and of pairs")

    @model_validator(mode="after")
    def _check_partners(self) -> "ControlsConfig":
        if self.swap_partners >= self.images:
            raise ValueError(
                f"swap_partners is {self.swap_partners}, but each of {self.images} images has"
                f" {self.images - 1} others; allowed: at most that, e.g. swap_partners: 1"
            )
        return self
