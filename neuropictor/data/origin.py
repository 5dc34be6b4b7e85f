"""Where results come from: the label ``data`` of stores, records and tables, and what titles say of it.

It is ``simulated``, ``nsd`` or ``own``, with ``+miniature`` after it where the miniature, or another backbone that was
trained on rendered scenes, drew the images.
"""

from collections.abc import Iterable

SIMULATED, NSD, OWN = "simulated", "nsd", "own"
_DRAWN = "+miniature"
_KNOWN_OBJECTS = 12  # categories of the rendered scenes
_PUBLISHED_WIDTH = 512  # Stable Diffusion's contexts have 768 or 1024 (CLIP ViT-L/14, OpenCLIP ViT-H/14), ours 128


def drawn_label(data: str, context_width: int) -> str:
    """Label what was drawn from responses of `data`, by a UNet whose contexts have this width."""
    return data + _DRAWN if context_width < _PUBLISHED_WIDTH else data


def origin_of(data: str) -> str:
    """Return where the responses come from: ``simulated``, ``nsd`` or ``own``."""
    return data.removesuffix(_DRAWN)


def joined_label(labels: Iterable[str]) -> str:
    """Return one label for all: simulated if any is, drawn by the miniature if any was; "" for none."""
    labels = set(labels)
    origins = {origin_of(label) for label in labels}
    origin = SIMULATED if SIMULATED in origins else max(origins, default="")  # own beside NSD's is own
    return origin + _DRAWN * any(label.endswith(_DRAWN) for label in labels)


def title_mark(data: str) -> str:
    """What titles add: " (SIMULATED data, drawn by a miniature that knows 12 cartoon objects)", or less."""
    facts = ["SIMULATED data"] if origin_of(data) == SIMULATED else []
    if data.endswith(_DRAWN):
        facts.append(f"drawn by a miniature that knows {_KNOWN_OBJECTS} cartoon objects")
    return f" ({', '.join(facts)})" if facts else ""
