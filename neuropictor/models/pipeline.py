"""From maps to pictures: the sampling loop of the modulated backbone, as a diffusers pipeline."""

from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput

from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.manipulation import ManipulationNetwork
from neuropictor.models.networks import Networks

if TYPE_CHECKING:
    import numpy as np

    from neuropictor.models.backbone import Backbone


class NeuroPictorOutput(BaseOutput):
    """Result of `NeuroPictorPipeline`.

    Attributes
    ----------
    latents
        ``[B, C, h, w]``, scaled as the UNet sees them.
    pictures
        uint8 ``[B, S, S, 3]``, or None with ``output_type="latent"``.
    """

    latents: torch.Tensor
    pictures: "np.ndarray | None"


class NeuroPictorPipeline(DiffusionPipeline):
    """Reconstruct pictures from maps with a frozen latent diffusion model and the three networks.

    Parameters
    ----------
    encoder, guiding, manipulation
        The trained networks.
    alignment
        Makes tokens of aligned components; None, as in the paper, if the networks have none.
    unet, vae, scheduler
        Parts of the frozen backbone. For the same steps as the official sampler the scheduler is DDIM with leading
        timestep spacing, an offset of one step, and the first alpha (not 1) after the last step.
    """

    model_cpu_offload_seq = "encoder->alignment->guiding->manipulation->unet->vae"
    _optional_components = ["alignment"]  # noqa: RUF012

    def __init__(
        self,
        encoder: FMRIEncoder,
        guiding: GuidingNetwork,
        manipulation: ManipulationNetwork,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        alignment: AlignmentNetwork | None = None,
    ):
        super().__init__()
        self.register_modules(
            encoder=encoder,
            guiding=guiding,
            manipulation=manipulation,
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            alignment=alignment,
        )

    @classmethod
    def from_parts(cls, networks: Networks, backbone: "Backbone") -> "NeuroPictorPipeline":
        """Join trained networks and a backbone; the scheduler is copied, since sampling changes its state."""
        scheduler = backbone.scheduler.from_config(backbone.scheduler.config)
        parts = (networks.encoder, networks.guiding, networks.manipulation, backbone.unet, backbone.vae, scheduler)
        return cls(*parts, networks.alignment)

    @torch.no_grad()
    def __call__(
        self,
        maps: torch.Tensor,
        null_context: torch.Tensor,
        components: torch.Tensor | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        structure_scale: float = 1.0,
        semantics_scale: float = 1.0,
        structure_maps: torch.Tensor | None = None,
        structure_components: torch.Tensor | None = None,
        generators: list[torch.Generator] | None = None,
        output_type: str = "picture",
    ) -> NeuroPictorOutput:
        """Reconstruct one picture for each map.

        Parameters
        ----------
        maps
            ``[B, 1, H, W]``.
        null_context
            ``[1, L, D]``, the text tower's output for the empty prompt.
        components
            Aligned components ``[B, K]`` of the same responses, if the networks have an alignment.
        num_inference_steps
            Denoising steps; 50 in the paper.
        guidance_scale
            Classifier-free guidance; 5 in the paper. At 1 the unconditional branch is left out. The hint stays in
            both branches, which run as one batch.
        structure_scale
            Factor on the manipulation network's residuals; 0 switches structure off.
        semantics_scale
            Position of the context between the null context (0) and the guiding network's (1).
        structure_maps, structure_components
            As `maps` and `components`: take the structure from these, only the semantics from those. Default: the same.
        generators
            One CPU generator a picture for its starting noise, so that it depends on nothing else in the batch.
            Default: torch's global generator.
        output_type
            ``picture`` or ``latent``.
        """
        if generators is not None and len(generators) != len(maps):
            raise ValueError(f"generators: {len(generators)} given for {len(maps)} maps; allowed: one a map, or None")
        if output_type not in ("picture", "latent"):
            raise ValueError(f"output_type: {output_type!r}; allowed: 'picture' or 'latent', for example 'picture'")
        device, dtype = self.unet.device, self.unet.dtype
        context, tokens = self._condition(maps, components, null_context, semantics_scale)
        if structure_maps is not None:
            tokens = self._tokens(structure_maps, structure_components)
        hint = self.manipulation.hint(tokens)  # the same for all steps
        latents = self._noise(len(maps), generators) * float(self.scheduler.init_noise_sigma)
        guided = guidance_scale != 1.0
        if guided:
            context = torch.cat([null_context.to(device, dtype).expand_as(context), context])
            hint = torch.cat([hint, hint])
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        for timestep in self.scheduler.timesteps:
            noisy = torch.cat([latents, latents]) if guided else latents
            noisy = self.scheduler.scale_model_input(noisy, timestep)
            skips = middle = None
            if structure_scale != 0.0:
                skips, middle = self.manipulation(noisy, timestep, context, hint, structure_scale)
            output = self.unet(
                noisy,
                timestep,
                context,
                down_block_additional_residuals=skips,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
            if guided:
                unconditional, conditional = output.chunk(2)
                output = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(output, timestep, latents, return_dict=False)[0]
        pictures = self._decode(latents) if output_type == "picture" else None
        return NeuroPictorOutput(latents=latents, pictures=pictures)

    def _tokens(self, maps: torch.Tensor, components: torch.Tensor | None) -> torch.Tensor:
        """Return tokens ``[B, n_tokens, width]``."""
        networks = Networks(self.encoder, self.guiding, self.manipulation, self.alignment)
        to = {"device": self.unet.device, "dtype": self.unet.dtype}
        return networks.tokens(maps.to(**to), None if components is None else components.to(**to))

    def _condition(
        self, maps: torch.Tensor, components: torch.Tensor | None, null_context: torch.Tensor, semantics_scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return context ``[B, L, D]`` and the tokens behind it."""
        tokens = self._tokens(maps, components)
        context, _ = self.guiding(tokens)
        if semantics_scale != 1.0:
            context = torch.lerp(null_context.to(context).expand_as(context), context, semantics_scale)
        return context, tokens

    def _noise(self, count: int, generators: list[torch.Generator] | None) -> torch.Tensor:
        """Return starting noise ``[count, C, h, w]``, drawn on the CPU: the same picture on every device."""
        shape = (self.unet.config.in_channels, *self.manipulation.config.latent_size)
        drawn = [torch.randn(shape, generator=generators[i] if generators else None) for i in range(count)]
        return torch.stack(drawn).to(self.unet.device, self.unet.dtype)

    def _decode(self, latents: torch.Tensor) -> "np.ndarray":
        """Return uint8 pictures ``[B, S, S, 3]``; rounded as in `Backbone.decode` (the official code truncates)."""
        decoded = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        scaled = (decoded.float().clamp(-1, 1) + 1) * 127.5
        return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
