"""The trained networks as one bundle, and the files that hold weights together with their configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.encoder import FMRIAutoencoder, FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork, Variant
from neuropictor.models.manipulation import ManipulationNetwork, plain_config
from neuropictor.records.files import atomic_path

if TYPE_CHECKING:
    from neuropictor.models.backbone import Backbone


#: The parts of `Networks`, by their names in a pipeline and its folder.
TRAINED = {
    "encoder": FMRIEncoder,
    "guiding": GuidingNetwork,
    "manipulation": ManipulationNetwork,
    "alignment": AlignmentNetwork,
}


class Modulation(NamedTuple):
    """The networks' inputs to the frozen UNet.

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
    middle: torch.Tensor | None


def join_tokens(
    encoder: FMRIEncoder,
    alignment: AlignmentNetwork | None,
    maps: torch.Tensor,
    components: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return tokens ``[B, n_tokens, width]`` of maps ``[B, 1, H, W]`` and, if aligned, components ``[B, K]``."""
    if (components is None) != (alignment is None):
        passed = "none" if components is None else "components"
        allowed = "none, as these networks were built without an alignment" if components is not None else "[B, K]"
        raise ValueError(f"components: {passed} given; allowed: {allowed}")
    tokens = encoder(maps)
    return tokens if alignment is None else torch.cat([tokens, alignment(components)], dim=1)


def check_space(alignment: AlignmentNetwork | None, space: str | None) -> None:
    """Refuse components of another space than the networks were trained in; None: no components."""
    expected = alignment.config["space"] if alignment is not None else None
    if space != expected:
        raise ValueError(
            f"components: from the shared space {str(space)[:12]}, the networks belong to {str(expected)[:12]} (None: "
            "no alignment); allowed: the same, for example by running stage align again"
        )


class Networks(nn.Module):
    """Encoder, High-Level Guiding Network and Low-Level Manipulation Network.

    Parameters
    ----------
    encoder, guiding, manipulation
        The three parts; their sizes must fit each other.
    alignment
        Its tokens follow the encoder's; None: the encoder's alone, as in the paper.
    """

    def __init__(
        self,
        encoder: FMRIEncoder,
        guiding: GuidingNetwork,
        manipulation: ManipulationNetwork,
        alignment: AlignmentNetwork | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.guiding = guiding
        self.manipulation = manipulation
        self.alignment = alignment

    @classmethod
    def build(
        cls,
        encoder: FMRIEncoder,
        backbone: "Backbone",
        variant: Variant = "pretrain",
        alignment: AlignmentNetwork | None = None,
    ) -> "Networks":
        """Build new guiding and manipulation networks; all sizes follow from the given parts."""
        tokens, width = encoder.n_tokens, encoder.config["width"]
        if alignment is not None:
            tokens += alignment.config["n_tokens"]
        guiding = GuidingNetwork(tokens, width, *backbone.context_shape, variant=variant)
        manipulation = ManipulationNetwork.from_unet(backbone.unet, tokens, width, backbone.latent_shape[1:])
        return cls(encoder, guiding, manipulation, alignment)

    def tokens(self, maps: torch.Tensor, components: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tokens of `join_tokens`."""
        return join_tokens(self.encoder, self.alignment, maps, components)

    def forward(
        self,
        maps: torch.Tensor,
        latents: torch.Tensor | None,
        timesteps: torch.Tensor | None,
        null_context: torch.Tensor | None = None,
        dropped: torch.Tensor | None = None,
        components: torch.Tensor | None = None,
    ) -> Modulation:
        """Run all parts, as training does.

        Parameters
        ----------
        maps
            ``[B, 1, H, W]``.
        latents
            Noisy latents ``[B, C, h, w]``; None: no manipulation network, and no residuals in the result.
        timesteps
            ``[B]``.
        null_context
            ``[1, L, D]``, needed where `dropped` is given.
        dropped
            ``[B]`` bool: images whose whole context is replaced by the null context. The hint and the
            semantic feature stay unchanged.
        components
            ``[B, K]``; None without an alignment.
        """
        tokens = self.tokens(maps, components)
        context, semantic = self.guiding(tokens)
        if dropped is not None:
            assert null_context is not None
            context = torch.where(dropped[:, None, None], null_context.to(context.dtype), context)
        if latents is None:
            return Modulation(context, semantic, [], None)
        skips, middle = self.manipulation(latents, timesteps, context, self.manipulation.hint(tokens))
        return Modulation(context, semantic, skips, middle)


def check_fit(networks: Networks, backbone: "Backbone", scheduler: Mapping[str, Any] | None = None) -> None:
    """Refuse networks that were made for another backbone, before anything is trained or sampled.

    Parameters
    ----------
    networks, backbone
        Parts to use together.
    scheduler
        Configuration of the scheduler that the networks were trained with; None: they are new.

    Raises
    ------
    ValueError
        Naming the size, or the noise schedule's setting, that differs.
    """
    guiding, control = networks.guiding.config, networks.manipulation.control.config
    unet, schedule = backbone.unet.config, backbone.scheduler.config
    fits = [
        ("latent size", tuple(networks.manipulation.config["latent_size"]), backbone.latent_shape[1:]),
        ("latent channels", control["in_channels"], backbone.latent_shape[0]),
        ("context (tokens, width)", (guiding["context_length"], guiding["context_width"]), backbone.context_shape),
        ("context width of the ControlNet", control["cross_attention_dim"], unet["cross_attention_dim"]),
        ("UNet widths", tuple(control["block_out_channels"]), tuple(unet["block_out_channels"])),
    ]
    for name in ("prediction_type", "beta_schedule", "beta_start", "beta_end", "num_train_timesteps"):
        fits.append((name, (scheduler or schedule)[name], schedule[name]))
    for name, trained, frozen in fits:
        if trained != frozen:
            raise ValueError(
                f"backbone: {name} is {frozen} in backbone {backbone.name}, and {trained} in the networks that are to "
                "steer it; allowed: the backbone they were made with, or new ones, e.g. pretrain: {init: scratch}"
            )


def save_weights(path: str | Path, state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Write tensors and their configuration to one safetensors file, atomically.

    The configuration is JSON in one entry of the metadata: safetensors writes several in random order.
    """
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"config": json.dumps(config, sort_keys=True)})


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read tensors and configuration from a file of `save_weights`; raise ``ValueError`` where there is none."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "config" not in metadata:
            raise ValueError(
                f"{path}: holds weights without configuration (metadata keys found: {sorted(metadata)}); allowed: a "
                "file written by this project, for example results/calibrate/autoencoder.safetensors"
            )
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["config"])  # noqa: SIM118


def save_autoencoder(autoencoder: FMRIAutoencoder, path: str | Path, start: str = "scratch") -> None:
    """Write a calibrated autoencoder to one safetensors file, its constructor arguments in the metadata.

    Parameters
    ----------
    autoencoder, path
        The network, and the file to write.
    start
        ``scratch``, or the checksum of the weights that its training started from.
    """
    save_weights(path, autoencoder.state_dict(), {**plain_config(autoencoder), "start": start})


def load_autoencoder(path: str | Path) -> FMRIAutoencoder:
    """Read an autoencoder from a file of `save_autoencoder`."""
    state, config = load_weights(path)
    autoencoder = FMRIAutoencoder(**{name: value for name, value in config.items() if name != "start"})
    autoencoder.load_state_dict(state)
    return autoencoder.eval()


def autoencoder_start(path: str | Path) -> str:
    """Return where the training of an autoencoder started, see `save_autoencoder`."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["config"]).get("start", "scratch")
