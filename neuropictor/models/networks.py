"""The three trained networks as one bundle, and the files that hold weights together with their configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from neuropictor.models.encoder import FMRIAutoencoder, FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork, Variant
from neuropictor.models.manipulation import ManipulationNetwork, plain_config
from neuropictor.runlog import atomic_path

if TYPE_CHECKING:
    from neuropictor.models.backbone import Backbone


class Modulation(NamedTuple):
    """What the networks hand to the frozen UNet.

    Attributes
    ----------
    context, semantic
        ``[B, L, D]``: context of the cross-attentions; semantic feature for the semantic loss.
    skips, middle
        Residuals for the UNet's skips and its middle block.
    """

    context: torch.Tensor
    semantic: torch.Tensor
    skips: list[torch.Tensor]
    middle: torch.Tensor


class Networks(nn.Module):
    """Encoder, High-Level Guiding Network and Low-Level Manipulation Network.

    Parameters
    ----------
    encoder, guiding, manipulation
        The three parts; their sizes must fit each other.
    """

    def __init__(self, encoder: FMRIEncoder, guiding: GuidingNetwork, manipulation: ManipulationNetwork):
        super().__init__()
        self.encoder = encoder
        self.guiding = guiding
        self.manipulation = manipulation

    @classmethod
    def build(cls, encoder: FMRIEncoder, backbone: "Backbone", variant: Variant = "pretrain") -> "Networks":
        """Build new guiding and manipulation networks; every size follows from `encoder` and `backbone`."""
        tokens, width = encoder.n_tokens, encoder.config.width
        guiding = GuidingNetwork(tokens, width, *backbone.context_shape, variant=variant)
        manipulation = ManipulationNetwork.from_unet(backbone.unet, tokens, width, backbone.latent_shape[1:])
        return cls(encoder, guiding, manipulation)

    @classmethod
    def from_config(cls, config: Mapping[str, Mapping[str, Any]]) -> "Networks":
        """Build the networks of `config` (see `config`), with random weights."""
        return cls(
            FMRIEncoder(**config["encoder"]),
            GuidingNetwork(**config["guiding"]),
            ManipulationNetwork(**config["manipulation"]),
        )

    @property
    def config(self) -> dict[str, dict[str, Any]]:
        """Constructor arguments of the three parts, as plain JSON types."""
        parts = {"encoder": self.encoder, "guiding": self.guiding, "manipulation": self.manipulation}
        return {name: plain_config(part) for name, part in parts.items()}

    def forward(
        self,
        maps: torch.Tensor,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        null_context: torch.Tensor | None = None,
        dropped: torch.Tensor | None = None,
    ) -> Modulation:
        """Run all three parts, as training does.

        Parameters
        ----------
        maps
            ``[B, 1, H, W]``.
        latents
            Noisy latents ``[B, C, h, w]``.
        timesteps
            ``[B]``.
        null_context
            ``[1, L, D]``, needed where `dropped` is given.
        dropped
            ``[B]`` bool: pictures whose whole context is replaced by the null context. The hint always stays, and the
            semantic feature is not touched.
        """
        tokens = self.encoder(maps)
        context, semantic = self.guiding(tokens)
        if dropped is not None:
            context = torch.where(dropped[:, None, None], null_context.to(context.dtype), context)
        skips, middle = self.manipulation(latents, timesteps, context, self.manipulation.hint(tokens))
        return Modulation(context, semantic, skips, middle)


def save_weights(
    path: str | Path, state: Mapping[str, torch.Tensor], config: Mapping[str, Any], **metadata: str
) -> None:
    """Write tensors and their configuration (as JSON in the metadata) to one safetensors file, atomically."""
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={**metadata, "config": json.dumps(config, sort_keys=True)})


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read tensors and configuration from a file of `save_weights`; raise ``ValueError`` where there is none."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "config" not in metadata:
            raise ValueError(
                f"{path}: holds weights without configuration (metadata keys found: {sorted(metadata)}); allowed: a "
                "file written by this project, for example results/pretrain/networks.safetensors"
            )
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["config"])  # noqa: SIM118


def save_networks(networks: Networks, path: str | Path) -> None:
    """Write the three networks to one safetensors file (keys ``encoder.*``, ``guiding.*``, ``manipulation.*``)."""
    save_weights(path, networks.state_dict(), networks.config)


def load_networks(path: str | Path, variant: Variant | None = None) -> Networks:
    """Read networks from a file of `save_networks`.

    Parameters
    ----------
    path
        The safetensors file.
    variant
        Replaces the guiding network's variant: ``refine`` switches the extra branch of pretrained weights on.
    """
    state, config = load_weights(path)
    if variant is not None:
        config["guiding"]["variant"] = variant
    networks = Networks.from_config(config)
    networks.load_state_dict(state)
    return networks.eval()


def save_autoencoder(autoencoder: FMRIAutoencoder, path: str | Path, start: str = "scratch") -> None:
    """Write a calibrated autoencoder to one safetensors file, its constructor arguments in the metadata.

    Parameters
    ----------
    autoencoder, path
        What is written, and where.
    start
        ``scratch``, or the checksum of the weights that its training started from.
    """
    save_weights(path, autoencoder.state_dict(), plain_config(autoencoder), start=start)


def load_autoencoder(path: str | Path) -> FMRIAutoencoder:
    """Read an autoencoder from a file of `save_autoencoder`."""
    state, config = load_weights(path)
    autoencoder = FMRIAutoencoder(**config)
    autoencoder.load_state_dict(state)
    return autoencoder.eval()


def autoencoder_start(path: str | Path) -> str:
    """Return what the training of an autoencoder started from, see `save_autoencoder`."""
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("start", "scratch")
