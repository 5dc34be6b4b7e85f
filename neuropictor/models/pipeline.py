"""From responses to images: the sampling loop of the modulated backbone, as a diffusers pipeline."""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from neuropictor.models import pipeline_folder
from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.decoding import DECODE_MEMORY, decode
from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.manipulation import ManipulationNetwork
from neuropictor.models.maps import MapOperator
from neuropictor.models.networks import Networks, join_tokens
from neuropictor.models.null_context import NullContext
from neuropictor.models.schedules import make_scheduler

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from neuropictor.models.backbone import Backbone

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_SCANS = {"maps", "responses", "components"}


class NeuroPictorOutput(BaseOutput):
    """Result of `NeuroPictorPipeline`.

    Attributes
    ----------
    images
        By ``output_type``: a list of images (``pil``), float ``[B, S, S, 3]`` in 0..1 (``np``), a tensor
        ``[B, 3, S, S]`` in 0..1 (``pt``), or scaled latents ``[B, C, h, w]`` (``latent``).
    """

    images: "list[Image] | np.ndarray | torch.Tensor"


class NeuroPictorPipeline(DiffusionPipeline):
    """Reconstruct images from fMRI with a frozen latent diffusion model and the trained networks.

    Parameters
    ----------
    encoder, guiding, manipulation
        The trained networks; None where the backbone draws without them (see `from_backbone`).
    unet, vae, scheduler
        Parts of the frozen backbone. For the same steps as the official sampler the scheduler is DDIM with leading
        timestep spacing, an offset of one step, and the first alpha (not 1) after the last step; any other of
        diffusers' schedulers may take its place.
    null_context
        The text tower's output for the empty prompt.
    alignment
        Makes tokens from aligned components; None, as in the paper, if the networks have none.

    Attributes
    ----------
    decode_memory
        GiB for decoding, see `neuropictor.models.decoding.decode`.

    Examples
    --------
    >>> pipeline = NeuroPictorPipeline.from_pretrained("results/refine/sub-01")
    >>> image = pipeline(responses=responses, components=components).images[0]
    """

    model_cpu_offload_seq = "encoder->alignment->guiding->unet->vae"
    _optional_components = ["alignment", "encoder", "guiding", "manipulation"]  # noqa: RUF012

    def __init__(
        self,
        encoder: FMRIEncoder | None,
        guiding: GuidingNetwork | None,
        manipulation: ManipulationNetwork | None,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        null_context: NullContext,
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
            null_context=null_context,
            alignment=alignment,
        )
        self.image_processor = VaeImageProcessor()
        self._maps: MapOperator | None = None
        self.decode_memory = DECODE_MEMORY

    @classmethod
    def from_parts(cls, networks: Networks, backbone: "Backbone") -> "NeuroPictorPipeline":
        """Join trained networks and a backbone; the scheduler is copied, since sampling changes its state."""
        scheduler = make_scheduler("ddim", backbone.scheduler.config)
        parts = (networks.encoder, networks.guiding, networks.manipulation, backbone.unet, backbone.vae, scheduler)
        return cls(*parts, NullContext.of(backbone.null_context()), networks.alignment)

    @classmethod
    def from_backbone(cls, backbone: "Backbone") -> "NeuroPictorPipeline":
        """Return a pipeline without networks, which draws from a ``context``, for baselines and ceilings."""
        scheduler = make_scheduler("ddim", backbone.scheduler.config)
        return cls(None, None, None, backbone.unet, backbone.vae, scheduler, NullContext.of(backbone.null_context()))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        backbone: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> "NeuroPictorPipeline":
        """Read a pipeline from its folder.

        Parameters
        ----------
        folder
            Complete (written by `save_pretrained`), or with the trained parts alone (written by `save_trained`, as
            the stages pretrain and refine do), which names the backbone that the frozen parts are read from.
        backbone
            Where that backbone lies now, if it has been moved.
        dtype
            Of all weights.
        options
            As for diffusers' pipelines.

        Raises
        ------
        FileNotFoundError
            If the named backbone is missing.
        ValueError
            If it is not the one that the networks were trained with.
        """
        parts: dict[str, Any] = {**pipeline_folder.read_parts(folder, backbone, dtype), **options}
        return super().from_pretrained(str(folder), dtype=dtype, local_files_only=True, **parts)

    def save_trained(self, folder: str | Path, backbone: str | Path) -> None:
        """Write the trained parts, and the backbone's name and checksums instead of its weights.

        Parameters
        ----------
        folder
            Where to; see `neuropictor.models.pipeline_folder` for the files. `save_pretrained` writes a complete one.
        backbone
            Source of the backbone, see `Backbone.load`.
        """
        pipeline_folder.write_trained(self, folder, backbone)

    @torch.no_grad()
    def __call__(
        self,
        maps: "torch.Tensor | np.ndarray | None" = None,
        responses: "torch.Tensor | np.ndarray | None" = None,
        components: "torch.Tensor | np.ndarray | None" = None,
        context: torch.Tensor | None = None,
        initial_latents: torch.Tensor | None = None,
        strength: float = 1.0,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        structure_scale: float | Sequence[float] = 1.0,
        semantics_scale: float = 1.0,
        semantics_from: Mapping[str, torch.Tensor] | None = None,
        num_images_per_scan: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
    ) -> NeuroPictorOutput:
        """Reconstruct images, ``num_images_per_scan`` of each scan, those of one scan in a row.

        Parameters
        ----------
        maps
            ``[B, 1, H, W]``, responses drawn on the flat cortex; or else:
        responses
            ``[B, V]``, z-scored responses on the shipped geometry's vertices of visual cortex.
        components
            Aligned components ``[B, K]`` of the same scans, if the networks have an alignment.
        context
            ``[B, L, D]`` in place of scans: the backbone draws alone, without structure.
        initial_latents
            Scaled latents ``[B, C, h, w]`` to start from, noised as far as `strength` says; default: noise alone.
        strength
            Share of the noise schedule that is run from `initial_latents`.
        num_inference_steps
            Denoising steps of the whole schedule; 50 of DDIM in the paper.
        guidance_scale
            Classifier-free guidance; 5 in the paper. At 1 the unconditional branch is left out. The hint stays in
            both branches, which run as one batch.
        guidance_interval
            Guidance is used between these shares of the noise schedule (0: clean, 1: pure noise) and left out, at half
            the cost of a step, elsewhere (arXiv 2404.07724).
        structure_scale
            Factor on the manipulation network's residuals, one for all or one a level (the skips in the order of the
            UNet's encoder, then the middle: 13 in Stable Diffusion); 0 switches structure off.
        semantics_scale
            Position of the context between the null context (0) and the guiding network's (1).
        semantics_from
            ``maps`` or ``responses``, and ``components``, of equally many other scans, which give the context;
            structure stays that of the call's own scans (the paper's semantic swap). Default: the same scans.
        num_images_per_scan
            Images a scan, which differ in their starting noise.
        generator
            A CPU generator for each image's noise, so that it depends on nothing else in the batch; or one for all.
            Default: torch's global generator.
        output_type
            ``pil``, ``np``, ``pt`` or ``latent``, see `NeuroPictorOutput`.

        Raises
        ------
        ValueError
            If inputs do not fit each other or the networks.
        """
        hint = None
        if context is None:
            tokens = self._tokens(maps, responses, components)
            context = self._context(tokens, semantics_from, semantics_scale)
            hint = self.manipulation.hint(tokens)  # the same for all steps
        elif any(value is not None for value in (maps, responses, components, semantics_from)):
            raise ValueError("context: given beside scans; allowed: one of them, for example pipeline(context=context)")
        longest = self.scheduler.config["num_train_timesteps"]
        for name, value, high in (
            ("num_inference_steps", num_inference_steps, longest),
            ("num_images_per_scan", num_images_per_scan, math.inf),
        ):
            if value != int(value) or not 1 <= value <= high:
                raise ValueError(f"{name}: {value}; allowed: a whole number from 1 to {high}, for example 50")
        count = len(context) * num_images_per_scan
        _check_call(count, generator, output_type)
        context, hint, start = (
            None if part is None else part.to(self._execution_device).repeat_interleave(num_images_per_scan, 0)
            for part in (context, hint, initial_latents)
        )
        assert context is not None
        latents = self._denoise(
            self._noise(count, generator),
            context,
            hint,
            num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            structure_scale=structure_scale,
            start=start,
            strength=strength,
            generator=generator,
        )
        if output_type == "latent":
            return NeuroPictorOutput(images=latents)
        decoded = decode(self.vae, latents, self.decode_memory)
        return NeuroPictorOutput(images=self.image_processor.postprocess(decoded, output_type))

    def _denoise(
        self,
        noise: torch.Tensor,
        context: torch.Tensor,
        hint: torch.Tensor | None,
        steps: int,
        guidance_scale: float,
        guidance_interval: tuple[float, float],
        structure_scale: float | Sequence[float],
        start: torch.Tensor | None,
        strength: float,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> torch.Tensor:
        """Return latents ``[B, C, h, w]`` in float32; `generator` is for schedulers with noise of their own."""
        context = context.to(self.unet.dtype)
        structured = any(structure_scale) if isinstance(structure_scale, Sequence) else structure_scale != 0.0
        hint = hint.to(self.unet.dtype) if structured and hint is not None else None
        conditions = {False: (context, hint)}
        if guidance_scale != 1.0:
            null = self.null_context().to(context).expand_as(context)
            conditions[True] = (torch.cat([null, context]), None if hint is None else torch.cat([hint, hint]))
        # The scheduler reads its tables on the CPU: time steps there save waiting for the GPU in every step.
        self.scheduler.set_timesteps(steps, device="cpu")
        first = 0 if start is None else steps - max(1, min(steps, round(steps * strength)))
        timesteps = self.scheduler.timesteps[first * self.scheduler.order :]
        if start is None:
            latents = noise * float(self.scheduler.init_noise_sigma)
        else:
            if hasattr(self.scheduler, "set_begin_index"):
                self.scheduler.set_begin_index(first * self.scheduler.order)
            latents = self.scheduler.add_noise(start.float(), noise, timesteps[:1].expand(len(start)))
        options = {}
        if "generator" in inspect.signature(self.scheduler.step).parameters:
            options["generator"] = generator
        low, high = (share * self.scheduler.config["num_train_timesteps"] for share in guidance_interval)
        for timestep, on_device in zip(self.progress_bar(timesteps), timesteps.to(noise.device), strict=True):  # pyright: ignore[reportCallIssue, reportArgumentType] (it is decorated)
            if on_device.is_cuda:  # where compiled, by recorded graphs: a step may overwrite the outputs of the last
                torch.compiler.cudagraph_mark_step_begin()
            guided = guidance_scale != 1.0 and bool(low <= timestep <= high)
            noisy = self.scheduler.scale_model_input(latents, timestep).to(self.unet.dtype)
            noisy = torch.cat([noisy, noisy]) if guided else noisy
            contexts, hints = conditions[guided]
            skips = middle = None
            if hints is not None:
                skips, middle = self.manipulation(noisy, on_device, contexts, hints, structure_scale)
            output = self.unet(
                noisy,
                on_device,
                contexts,
                down_block_additional_residuals=skips,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0].float()
            if guided:
                unconditional, conditional = output.chunk(2)
                output = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(output, timestep, latents, return_dict=False, **options)[0]
        return latents

    def draw(self, responses: "torch.Tensor | np.ndarray") -> torch.Tensor:
        """Return maps ``[B, 1, H, W]`` of responses ``[B, V]``, drawn through the shipped geometry."""
        device = self._execution_device
        if self._maps is None:
            self._maps = MapOperator.shipped(self.encoder.config["image_size"])
        return self._maps.to(device)(_scans("responses", responses, self._maps.n_vertices).to(device))

    def _tokens(
        self,
        maps: "torch.Tensor | np.ndarray | None" = None,
        responses: "torch.Tensor | np.ndarray | None" = None,
        components: "torch.Tensor | np.ndarray | None" = None,
    ) -> torch.Tensor:
        """Return tokens ``[B, n_tokens, width]``."""
        if (maps is None) == (responses is None):
            which = "neither" if maps is None else "both"
            raise ValueError(f"maps, responses: {which} given; allowed: one, for example pipeline(responses=responses)")
        to = {"device": self._execution_device, "dtype": self.encoder.dtype}
        if responses is None:
            assert maps is not None
            size = self.encoder.config["image_size"]
            drawn = _scans("maps", maps, 1, *((size, size) if isinstance(size, int) else size))
        else:
            drawn = self.draw(responses)
        aligned = None
        if components is not None:
            sizes = () if self.alignment is None else (self.alignment.config["n_components"],)
            aligned = _scans("components", components, *sizes).to(**to)
            if len(aligned) != len(drawn):
                raise ValueError(f"components: of {len(aligned)} scans for {len(drawn)} responses; allowed: as many")
        return join_tokens(self.encoder, self.alignment, drawn.to(**to), aligned)

    def _context(
        self, tokens: torch.Tensor, semantics_from: Mapping[str, torch.Tensor] | None, semantics_scale: float
    ) -> torch.Tensor:
        """Return the context ``[B, L, D]`` of `tokens`, or of other scans."""
        if semantics_from is not None:
            unknown = sorted(set(semantics_from) - _SCANS)
            if unknown:
                raise ValueError(
                    f"semantics_from: {', '.join(unknown)} given; allowed: maps or responses, and components, for "
                    "example semantics_from={'responses': others}"
                )
            others = self._tokens(**semantics_from)
            if len(others) != len(tokens):
                raise ValueError(
                    f"semantics_from: {len(others)} scans for the context of {len(tokens)}; allowed: as many, for "
                    f"example {{'responses': others[:{len(tokens)}]}}"
                )
            tokens = others
        context, _ = self.guiding(tokens)
        if semantics_scale != 1.0:
            context = torch.lerp(self.null_context().to(context).expand_as(context), context, semantics_scale)
        return context

    def _noise(self, count: int, generator: torch.Generator | list[torch.Generator] | None) -> torch.Tensor:
        """Return starting noise ``[count, C, h, w]``, drawn on the CPU: the same image on every device."""
        shape = (count, self.unet.config["in_channels"], *2 * (self.unet.config["sample_size"],))
        return randn_tensor(shape, generator=generator).to(self._execution_device)


def _scans(name: str, values: "torch.Tensor | np.ndarray", *shape: int) -> torch.Tensor:
    """Return an argument as a tensor ``[B, *shape]`` (any, if none is given); refuse other shapes and no numbers."""
    values = torch.as_tensor(values)
    if (shape and tuple(values.shape[1:]) != shape) or not len(values):
        sizes = ", ".join(map(str, ("scans", *shape)))
        raise ValueError(f"{name}: shape {tuple(values.shape)} does not fit; allowed: ({sizes}) of these networks")
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of {values.numel()} values are NaN or infinite; allowed: finite numbers, for example "
            f"torch.nan_to_num({name}), where 0 is a vertex's mean"
        )
    return values


def _check_call(count: int, generator: torch.Generator | list[torch.Generator] | None, output_type: str) -> None:
    """Refuse wrong arguments before the first step."""
    if isinstance(generator, list) and len(generator) != count:
        raise ValueError(
            f"generator: {len(generator)} given for {count} images; allowed: one an image (scans x"
            f" num_images_per_scan), for example [torch.Generator().manual_seed(i) for i in range({count})], one for"
            " all, or None"
        )
    if output_type not in OUTPUT_TYPES:
        raise ValueError(
            f"output_type: {output_type!r}; allowed: {', '.join(map(repr, OUTPUT_TYPES))}, for example 'pil'"
        )
