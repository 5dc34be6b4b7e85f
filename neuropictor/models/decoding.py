"""Images to latents and back in a given memory: as many at a time as fit, and in tiles where not even one does."""

import logging
import math

import torch
from diffusers import AutoencoderKL

log = logging.getLogger(__name__)

#: GiB for the VAE's activations by default: the default of ``runtime.decode_memory``.
DECODE_MEMORY = 8.0

#: Tensors of the decoder's widest layer alive at once: a residual block's input, its normalised and its
#: convolved copy, and the shortcut (3.3 measured with Stable Diffusion's VAE in float32 on a CPU).
_ALIVE = 4
#: Side of the smallest tile in latents: below it, seams cost more than they save.
_SMALLEST_TILE = 16


def latent_bytes(vae: AutoencoderKL) -> int:
    """Return the bytes of activations that decoding takes for each position of the latents, at most."""
    channels = vae.config["block_out_channels"]
    # At each level the image has 4 times the positions of the level before, and comes in with its channels.
    widest = max(max(channels[level : level + 2]) * 4 ** (len(channels) - 1 - level) for level in range(len(channels)))
    return _ALIVE * widest * vae.dtype.itemsize


def encode(
    vae: AutoencoderKL, images: torch.Tensor, memory: float = DECODE_MEMORY
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images ``[B, 3, S, S]`` in -1..1, as many at a time as fit into `memory` (GiB).

    Returns
    -------
    tuple
        Mean and log variance ``[B, C, h, w]`` of the posterior, unscaled. The encoder's widest layer is no wider than
        the decoder's, so the same bound holds.
    """
    places = math.prod(images.shape[2:]) // 4 ** (len(vae.config["block_out_channels"]) - 1)
    count = max(1, int(min(len(images), memory * 2**30 // (latent_bytes(vae) * places))))
    posteriors = [vae.encode(part.to(vae.device, vae.dtype), return_dict=False)[0] for part in images.split(count)]
    return torch.cat([part.mean for part in posteriors]), torch.cat([part.logvar for part in posteriors])


def decode(vae: AutoencoderKL, latents: torch.Tensor, memory: float = DECODE_MEMORY) -> torch.Tensor:
    """Decode latents.

    Parameters
    ----------
    vae
        The backbone's.
    latents
        Scaled, ``[B, C, h, w]``.
    memory
        GiB that the activations may take. Where more do not fit, images are decoded one by one, which changes nothing;
        an image that does not fit is decoded in overlapping tiles, whose colours may differ a little.

    Returns
    -------
    torch.Tensor
        Images ``[B, 3, S, S]`` about -1..1, float32.

    Raises
    ------
    ValueError
        If latents or images are not finite: as colours they would be black.
    """
    places = memory * 2**30 / latent_bytes(vae)
    count = max(1, int(min(len(latents), places // math.prod(latents.shape[2:]))))
    side = max(_SMALLEST_TILE, math.isqrt(int(min(places, 2**30))))
    tiled = side < max(latents.shape[2:])
    if tiled:
        log.warning("decode_memory: %.2f GiB do not hold one image: decoding in tiles of %d latents", memory, side)
        vae.tile_latent_min_size = side
        vae.tile_sample_min_size = side * 2 ** (len(vae.config["block_out_channels"]) - 1)
    vae.use_tiling = tiled
    scaled = (latents / vae.config["scaling_factor"]).to(vae.dtype)
    images = torch.cat([vae.decode(part, return_dict=False)[0].float() for part in scaled.split(count)])
    for name, values in (("latents", latents), (f"images of a VAE in {vae.dtype}", images)):
        if not values.isfinite().all():
            wrong = (~values.isfinite()).flatten(1).any(1).sum()
            raise ValueError(
                f"{wrong} of {len(values)} {name} are not finite; allowed: finite numbers, for example with "
                "runtime.precision: fp32"
            )
    return images
