"""The Low-Level Manipulation Network: a ControlNet whose hint is made from fMRI tokens."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import ConfigMixin, ControlNetModel, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

from neuropictor.models.guiding import token_mapper


class HintMapper(nn.Module):
    """Map tokens ``[B, n_tokens, width]`` to a hint ``[B, channels, height, width]`` in latent resolution.

    Tokens become channels, the feature axis becomes the flattened latent positions. The zero-initialised last
    convolution runs over the flattened positions, so neighbours wrap from one row to the next, as in the official code.
    """

    def __init__(self, n_tokens: int, width: int, channels: int, latent_size: Sequence[int], hidden: int):
        super().__init__()
        self.latent_size = (int(latent_size[0]), int(latent_size[1]))
        self.token_mapper = token_mapper(n_tokens, hidden, channels)
        self.position_mapper = nn.Linear(width, self.latent_size[0] * self.latent_size[1])
        self.out = nn.Conv1d(channels, channels, kernel_size=3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.get_parameter("bias"))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the hint ``[B, channels, height, width]`` of tokens ``[B, n_tokens, width]``."""
        positions = functional.silu(self.position_mapper(self.token_mapper(tokens)))
        return self.out(positions).unflatten(2, self.latent_size)


def plain_config(model: ConfigMixin) -> dict[str, Any]:
    """Return a diffusers model's constructor arguments as plain JSON types, without its private entries."""
    arguments = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}


class ManipulationNetwork(ModelMixin, ConfigMixin):
    """Residuals for the UNet's skips and middle block, steered by a hint.

    Parameters
    ----------
    n_tokens, width
        Tokens and token width of the encoder.
    latent_size
        Latent height and width of the backbone (64, 64 in the paper).
    controlnet
        Constructor arguments of the diffusers `ControlNetModel`; the first block's channels are the hint's.
    hidden
        Channels between the two token maps; default ``2 * n_tokens`` (514 in the paper).
    """

    @register_to_config
    def __init__(
        self,
        n_tokens: int,
        width: int,
        latent_size: Sequence[int],
        controlnet: dict[str, Any],
        hidden: int | None = None,
    ):
        super().__init__()
        channels = controlnet["block_out_channels"][0]
        self.hint_mapper = HintMapper(n_tokens, width, channels, latent_size, hidden or 2 * n_tokens)
        self.control = cast("ControlNetModel", ControlNetModel.from_config(dict(controlnet)))
        # diffusers adds the embedded condition to conv_in's output, which is where the hint belongs: nothing to embed.
        self.control.add_module("controlnet_cond_embedding", nn.Identity())

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        n_tokens: int,
        width: int,
        latent_size: Sequence[int],
        hidden: int | None = None,
    ) -> "ManipulationNetwork":
        """Build the network with a ControlNet copied from `unet` (weights of its encoder half, zero output convs)."""
        copy = ControlNetModel.from_unet(unet)
        network = cls(n_tokens, width, [int(side) for side in latent_size], plain_config(copy), hidden)
        copy.add_module("controlnet_cond_embedding", nn.Identity())
        network.control.load_state_dict(copy.state_dict())
        return network

    @property
    def levels(self) -> int:
        """Number of residuals: one a skip, and the middle block's (13 in Stable Diffusion)."""
        return len(self.control.controlnet_down_blocks) + 1

    def hint(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the hint ``[B, C0, h, w]`` of tokens ``[B, n_tokens, width]``; it does not depend on the time step."""
        return self.hint_mapper(tokens)

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor | int,
        context: torch.Tensor,
        hint: torch.Tensor,
        scale: float | Sequence[float] = 1.0,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the residuals for the UNet.

        Parameters
        ----------
        latents
            Noisy latents ``[B, C, h, w]``.
        timesteps
            One time step, or ``[B]``.
        context
            ``[B, L, D]``, the same that the UNet gets.
        hint
            ``[B, C0, h, w]`` from `hint`.
        scale
            Factor on every residual, or one factor a level: the skips in order, then the middle.

        Returns
        -------
        tuple
            List of residuals for the skips, and the residual for the middle block.
        """
        if not isinstance(scale, Sequence):
            return self.control(latents, timesteps, context, hint, conditioning_scale=scale, return_dict=False)
        if len(scale) != self.levels:
            raise ValueError(
                f"structure_scale: {len(scale)} factors given for {self.levels} levels; allowed: one number, or one a "
                f"level, for example [1.0] * {self.levels}"
            )
        skips, middle = self.control(latents, timesteps, context, hint, return_dict=False)
        return [skip * factor for skip, factor in zip(skips, scale[:-1], strict=True)], middle * scale[-1]
