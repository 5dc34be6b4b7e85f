"""Settings of the miniature's training, which no user of the workflow needs; their values lie in ``settings.yaml``."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from neuropictor import config
from neuropictor.config import AlignConfig, EncoderConfig, RuntimeConfig, Section, SimulateConfig
from neuropictor.config.types import Count, Few, Positive, Seed

SHIPPED = Path(__file__).with_name("settings.yaml")
#: Widths of levels; the VAE's norms have 8 groups of channels, the UNet's 16.
_VaeWidths = Annotated[list[Annotated[int, Field(ge=8, le=2048, multiple_of=8)]], Field(min_length=2, max_length=5)]
_UnetWidths = Annotated[list[Annotated[int, Field(ge=16, le=2048, multiple_of=16)]], Field(min_length=2, max_length=4)]
_Steps = Annotated[int, Field(ge=0, le=10**8)]


class BackboneTraining(Section):
    """How the parts of the backbone are trained, one after the other."""

    scenes: Annotated[int, Field(ge=1200)] = Field(
        default=42000, description="rendered scenes, the last 1000 of them held out; no subject sees them"
    )
    latent_channels: Few = Field(default=8, description="channels of the latents")
    vae_channels: _VaeWidths = Field(
        default=[16, 32, 64], description="widths of the VAE's levels, each after the first of half the side"
    )
    unet_channels: _UnetWidths = Field(
        default=[48, 96, 160], description="widths of the UNet's levels; all but the first attend to the caption"
    )
    towers_steps: _Steps = Field(default=500, description="steps of the text and image towers; 0: left as they start")
    towers_batch: Count = Field(default=192, description="scenes a step of the towers")
    vae_steps: _Steps = Field(default=9000, description="steps of the VAE; 0: left as it starts")
    vae_batch: Count = Field(default=16, description="scenes a step of the VAE")
    decoder_steps: _Steps = Field(default=4500, description="further steps of the VAE's decoder alone")
    decoder_batch: Count = Field(default=16, description="scenes a step of the decoder")
    unet_steps: _Steps = Field(default=40000, description="steps of the UNet; 0: left as it starts")
    unet_batch: Count = Field(default=64, description="scenes a step of the UNet")
    judge_steps: Count = Field(default=3000, description="steps of the judge of the model card, which no part knows")
    judge_batch: Count = Field(default=64, description="scenes a step of the judge")
    seed: Seed = Field(default=777, description="seed of scenes, weights and noise")


class Population(Section):
    """Training of start weights for encoder and networks on simulated people who are no subjects."""

    people: Count = Field(default=12, description="simulated people")
    images: Annotated[int, Field(ge=40)] = Field(default=2250, description="scenes that each of them sees three times")
    folds: Annotated[int, Field(ge=2)] = Field(
        default=2, description="as align.folds; with 2, components rest on about as many images as a subject's"
    )
    batch_size: Count = Field(default=64, description="images a step")
    calibrate_steps: Count = Field(default=450, description="steps of calibration")
    calibrate_rate: Positive = Field(default=1.0e-3, description="highest learning rate of calibration")
    semantic_steps: Annotated[int, Field(ge=0)] = Field(default=1500, description="as pretrain.semantic_steps")
    pretrain_steps: Count = Field(default=3500, description="steps of pretraining, those on the semantic loss included")
    pretrain_rate: Positive = Field(default=8.0e-4, description="highest learning rate of pretraining")
    seed: Seed = Field(default=1, description="seed of weights, noise and order of images")


class MiniatureSettings(Section):
    """All of them; sections shared with the workflow have its defaults."""

    backbone: BackboneTraining = Field(default=BackboneTraining(), description="the latent diffusion model")
    population: Population = Field(default=Population(), description="start weights of encoder and networks")
    simulate: SimulateConfig = Field(default=SimulateConfig(), description="the people's brains")
    encoder: EncoderConfig = Field(default=EncoderConfig(), description="sizes of the encoder")
    align: AlignConfig = Field(default=AlignConfig(), description="sizes of the alignment")
    runtime: RuntimeConfig = Field(default=RuntimeConfig(), description="how it runs")


def read(*paths: str | Path) -> MiniatureSettings:
    """Read ``settings.yaml`` and merge files into it; raises ``ConfigError`` as `neuropictor.config.read`."""
    return config.read(SHIPPED, *paths, model=MiniatureSettings)
