"""The definitions of the scores, by name and version: how pictures are resized, and what is measured. Loads no torch.

docs/metrics.md tells each in words, with its source. A definition that changes gets a new version.
"""

from __future__ import annotations

from dataclasses import dataclass

PIXEL_METRICS = ("pixcorr", "ssim", "ssim_columns")
NETWORK_METRICS = {
    "alexnet": ("alexnet_2", "alexnet_5"),
    "inception": ("inception",),
    "clip": ("clip",),
    "effnet": ("effnet",),
    "swav": ("swav",),
}
"""Published networks in the order in which they judge, and the scores that each gives."""
DISTANCES = frozenset({"effnet", "swav"})
"""Correlation distances; the others are two-way identification."""
PUBLISHED_METRICS = (*PIXEL_METRICS, *(metric for metrics in NETWORK_METRICS.values() for metric in metrics))


@dataclass(frozen=True)
class Protocol:
    """One definition of the published table's scores.

    Attributes
    ----------
    name, version : str, int
    saved_size : int or None
        Side to which pictures are brought first, bilinearly by Pillow (with antialias), as 8-bit pictures.
    common_size : int
        Side to which all pictures are brought next, bilinearly without antialias.
    pixel_size : int
        Side for PixCorr and SSIM, enlarged from `common_size` bilinearly.
    clip_resize : "bicubic" or "bilinear"
        How pictures are brought to CLIP's 224 pixels (without antialias).
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
"""Label of the project's own protocol: `measures.METRICS` and `FURTHER_METRICS` at the seen pictures' own size."""

PROTOCOLS = {
    # NeuroPictor, eval_metrics.py: pictures saved at 512; torchvision 0.16.2 resizes tensors without antialias.
    "neuropictor": Protocol("neuropictor", 1, 512, 256, 425, "bicubic"),
    # MindEye, Reconstruction_Metrics.py, which MindEye2 goes on using: as above without the step over 512.
    "mindeye2": Protocol("mindeye2", 1, None, 256, 425, "bilinear"),
}
