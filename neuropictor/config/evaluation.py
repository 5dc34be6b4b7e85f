"""The sections of the configuration about scores: how images are judged, and where the judging networks come from.

Take them from `neuropictor.config`, which checks them together.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from neuropictor.config.types import Address, Alphas, Few, Section, Seed


def _each_once(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError("each protocol once, e.g. [ours, neuropictor]")
    return names


Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{8,64})?$")]
Protocols = Annotated[list[Literal["ours", "neuropictor", "mindeye2"]], Field(min_length=1), AfterValidator(_each_once)]


class EvaluateConfig(Section):
    """Scores, baselines and figures."""

    bootstrap: Annotated[int, Field(ge=10, le=10**6)] = Field(
        default=1000, description="bootstrap samples behind the 95 % intervals"
    )
    permutations: Annotated[int, Field(ge=99, le=10**6)] = Field(
        default=9999,
        description="random pairings and sign flips behind p values, whose least is 1 / (permutations + 1)",
    )
    seed: Seed = Field(default=15, description="seed of bootstrap, permutations, retrieval and wrong pairings")
    networks: Literal["miniature", "published"] = Field(
        default="miniature",
        description="judge of images: the miniature's image tower, or the networks of published evaluations",
    )
    protocols: Protocols = Field(
        default=["ours"],
        description="definitions of the scores, docs/metrics.md; all but ours need networks: published",
    )
    ridge_alphas: Alphas = Field(
        default=[1.0e2, 3.0e2, 1.0e3, 3.0e3, 1.0e4, 3.0e4, 1.0e5],
        description="ridge penalties among which validation images choose",
    )
    diffusion_strength: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.75, description="ridge_diffusion: share of the noise schedule that is run, as in Brain-Diffuser"
    )
    contact_sheet_rows: Few = Field(default=12, description="test images on a contact sheet")

    @model_validator(mode="after")
    def _check_protocols(self) -> "EvaluateConfig":
        published = [name for name in self.protocols if name != "ours"]
        if "ours" not in self.protocols:
            raise ValueError(
                f"protocols is {self.protocols}; allowed: ours, which tables stand on, and others beside it,"
                " e.g. [ours, neuropictor]"
            )
        if published and self.networks == "miniature":
            raise ValueError(
                f"protocols has {published[0]}, which is defined by published networks, but networks is miniature;"
                " allowed: networks: published, or protocols: [ours]"
            )
        return self


class WeightsConfig(Section):
    """Where the published networks' weights are fetched from; each file is compared with its checksum."""

    torchvision: Address = Field(
        default="https://download.pytorch.org/models", description="AlexNet, Inception-v3 and EfficientNet-B1"
    )
    clip: Address = Field(
        default="https://huggingface.co/timm/vit_large_patch14_clip_224.openai/resolve/main",
        description="CLIP ViT-L/14 of OpenAI, in open_clip's safetensors",
    )
    swav: Address = Field(default="https://dl.fbaipublicfiles.com/deepcluster", description="SwAV ResNet-50")
    clip_sha256: Digest = Field(
        default="", description="start of the file's SHA-256; empty: noted at the first fetch and compared from then on"
    )
    swav_sha256: Digest = Field(default="", description="the same of SwAV's file")
    connections: Annotated[int, Field(ge=1, le=64)] = Field(default=4, description="files fetched at the same time")
