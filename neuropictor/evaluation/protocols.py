"""The definitions of published scores, by name and version: how images are resized. Loads no torch.

docs/metrics.md describes each, with its source. A definition that changes gets a new version.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How images are brought to the networks and measures of one published evaluation.

    Attributes
    ----------
    name, version
        What tables call it.
    saved_size
        Side to which images are brought first, bilinearly by Pillow (with antialias), as 8-bit images.
    common_size
        Side to which all images are brought next, bilinearly without antialias.
    pixel_size
        Side for PixCorr and SSIM, enlarged from `common_size` bilinearly.
    clip_resize
        "bicubic" or "bilinear": how images are brought to CLIP's 224 pixels (without antialias).
    """

    name: str
    version: int
    saved_size: int | None
    common_size: int
    pixel_size: int
    clip_resize: str

    @property
    def label(self) -> str:
        """Name and version as tables show them, for example "neuropictor 1"."""
        return f"{self.name} {self.version}"


OURS = "ours 1"
"""Label of the project's own protocol: images at the seen ones' own size, features of one judge."""

PROTOCOLS = {
    # NeuroPictor, eval_metrics.py: images saved at 512; torchvision 0.16.2 resizes tensors without antialias.
    "neuropictor": Protocol("neuropictor", 1, 512, 256, 425, "bicubic"),
    # MindEye, Reconstruction_Metrics.py, which MindEye2 goes on using: as above without the step over 512.
    "mindeye2": Protocol("mindeye2", 1, None, 256, 425, "bilinear"),
}
