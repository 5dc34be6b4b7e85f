"""Tuning of one person's visual vertices: receptive field, low-level channels, scene meaning, nonlinearity."""

from dataclasses import dataclass

import numpy as np

from neuropictor.nsd.constants import IMAGE_DEGREES
from neuropictor.simulation.brain.areas import (
    CHANNEL_PROFILE,
    CHANNELS,
    GROUP_PROFILE,
    GROUPS,
    KINDS,
    PREFERRED_KIND,
    VISUAL_AREA_MODELS,
)
from neuropictor.simulation.brain.features import (
    MAP_SIZE,
    N_MIXED,
    N_PLACES,
    PLACES,
    ImageFeatures,
    reference_features,
)
from neuropictor.simulation.brain.layout import Layout, displaced_field, receptive_fields, smooth_fields
from neuropictor.simulation.scenes.scene import BACKGROUNDS, CATEGORIES, COLOURS, LIGHTS, VIEWS

# Displacement of a person's layout over cortex: standard deviation and correlation length, mm.
_SHIFT, _SHIFT_LENGTH = 5.0, 25.0
# Scatter of receptive field centres (degrees at the fovea, growing with size) and log-normal spread of sizes.
_CENTRE_SCATTER, _SIZE_SPREAD = 0.25, 0.2
# Weights of a receptive field (which sum to 1) below this are set to 0.
_FLANK = 1e-7
# Share of a tuning's variance that people have in common.
_SHARED = 0.7
# Correlation length of tunings in mm: low-level channels, scene meaning.
_CHANNEL_LENGTH, _MEANING_LENGTH = 6.0, 8.0
# Contrast and contours excite most vertices, the others may go either way: mean weight relative to the spread.
_EXCITATION = 1.5
_OPPONENT = CHANNELS.index("contrast")
# Category patches: weight of the kind of category beside the category itself, preference of an area, sharpness.
_KIND_WEIGHT, _PREFERENCE, _SHARPNESS = 0.6, 0.5, 1.5
# Range of coarse place preference of higher areas, in fractions of the image.
_PLACE_RANGE = 0.35
# Threshold of the nonlinearity in standard deviations below the mean drive: higher areas are silent more often.
_THRESHOLD_HIGH, _THRESHOLD_LOW = 0.7, 1.6
_WIDTHS = {
    "colour": len(COLOURS),
    "place": N_PLACES,
    "background": len(BACKGROUNDS),
    "light": len(LIGHTS),
    "view": len(VIEWS),
    "count": 3,
    "mixed": N_MIXED,
}
_STREAM_COMMON, _STREAM_OWN = 51, 52


@dataclass(frozen=True)
class Tuning:
    """Encoding model of v vertices.

    Attributes
    ----------
    fields
        float32 [MAP_SIZE**2, v], receptive fields over the channel maps.
    channels
        float32 [channels, v], weights of the channels.
    groups
        name -> float32 [width, v], weights of the scene features.
    low_mean, low_spread, high_mean, high_spread
        float32 [v], of the drives over the reference scenes.
    low_share, exponent
        float32 [v], share of low-level drive, exponent of the compression.
    """

    fields: np.ndarray
    channels: np.ndarray
    groups: dict[str, np.ndarray]
    low_mean: np.ndarray
    low_spread: np.ndarray
    high_mean: np.ndarray
    high_spread: np.ndarray
    low_share: np.ndarray
    exponent: np.ndarray

    def subset(self, chosen: np.ndarray) -> "Tuning":
        """Keep some vertices (bool [v])."""
        if chosen.all():
            return self
        parts = {
            name: np.ascontiguousarray(value[..., chosen]) for name, value in vars(self).items() if name != "groups"
        }
        return Tuning(
            **parts, groups={name: np.ascontiguousarray(value[:, chosen]) for name, value in self.groups.items()}
        )

    def response(self, features: ImageFeatures) -> np.ndarray:
        """Return the unscaled responses to images, float32 [n, v]: both drives, rectified and compressed."""
        drive = low_drive(features, self.fields, self.channels)
        drive -= self.low_mean
        drive *= np.sqrt(self.low_share) / self.low_spread
        meaning = high_drive(features, self.groups)
        meaning -= self.high_mean
        meaning *= np.sqrt(1 - self.low_share) / self.high_spread
        drive += meaning
        drive += _THRESHOLD_HIGH + (_THRESHOLD_LOW - _THRESHOLD_HIGH) * self.low_share
        np.maximum(drive, 0, out=drive)
        return np.power(drive, self.exponent, out=drive)


def make_tuning(layout: Layout, subject: int, seed: int) -> tuple[Tuning, np.ndarray]:
    """Draw a person's tuning.

    Returns
    -------
    tuning
        Of all visual vertices.
    coverage
        float32 [v], share of each receptive field that lies within the image.
    """
    common = np.random.default_rng([seed, _STREAM_COMMON])
    personal = np.random.default_rng([seed, subject, _STREAM_OWN])
    shift = _SHIFT * smooth_fields(layout.xy, 2, _SHIFT_LENGTH, personal)
    place = receptive_fields(layout, displaced_field(layout, shift))
    fields, coverage, place = _receptive_fields(layout, place, personal)
    channels = _channel_weights(layout, shift, common, personal)
    groups = _group_weights(layout, shift, place, common, personal)
    models = [VISUAL_AREA_MODELS[name] for name in layout.area]
    reference = reference_features(seed)
    low, high = low_drive(reference, fields, channels), high_drive(reference, groups)
    tuning = Tuning(
        fields,
        channels,
        groups,
        low.mean(axis=0),
        np.maximum(low.std(axis=0), 1e-6),
        high.mean(axis=0),
        np.maximum(high.std(axis=0), 1e-6),
        np.array([model.low_level for model in models], np.float32),
        np.array([model.exponent for model in models], np.float32),
    )
    return tuning, coverage


def low_drive(features: ImageFeatures, fields: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Weigh the channels within each vertex' receptive field; float32 [n, v]."""
    drive = np.zeros((len(features), fields.shape[1]), np.float32)
    for maps, weight in zip(features.maps, channels, strict=True):
        seen = maps @ fields
        seen *= weight
        drive += seen
    return drive


def high_drive(features: ImageFeatures, groups: dict[str, np.ndarray]) -> np.ndarray:
    """Weigh the features of the scene's meaning; float32 [n, v]."""
    values = np.concatenate([features.groups[name] for name in GROUPS], axis=1)
    return values @ np.concatenate([groups[name] for name in GROUPS])


def _receptive_fields(
    layout: Layout, place: np.ndarray, personal: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    models = [VISUAL_AREA_MODELS[name] for name in layout.area]
    eccentricity = np.hypot(*place.T)
    radius = np.array([model.radius for model in models]) + np.array([model.slope for model in models]) * eccentricity
    radius *= np.exp(_SIZE_SPREAD * personal.standard_normal(len(models)))
    place = place + personal.standard_normal(place.shape) * (_CENTRE_SCATTER + 0.2 * radius)[:, None]
    cell = IMAGE_DEGREES / MAP_SIZE
    centres = (np.arange(MAP_SIZE) + 0.5) * cell - IMAGE_DEGREES / 2
    # No field is smaller than the grid can show.
    radius = np.maximum(radius, 0.6 * cell)[:, None]
    across = np.exp(-np.square(centres - place[:, :1]) / (2 * radius**2))
    down = np.exp(-np.square(-centres - place[:, 1:]) / (2 * radius**2))
    norm = np.sqrt(2 * np.pi) * radius / cell
    coverage = (across / norm).sum(axis=1) * (down / norm).sum(axis=1)
    fields = (down[:, :, None] * across[:, None, :]).reshape(len(models), -1)
    fields /= np.maximum(fields.sum(axis=1, keepdims=True), 1e-12)
    # Nothing is seen from the far flanks; denormal numbers there would only slow the arithmetic down.
    fields[fields < _FLANK] = 0
    return np.ascontiguousarray(fields.T.astype(np.float32)), np.minimum(coverage, 1).astype(np.float32), place


def _mixed_fields(layout: Layout, shift: np.ndarray, count: int, length: float, common, personal) -> np.ndarray:
    """Draw tunings [v, count] that people partly share, misplaced by `shift`."""
    shared = smooth_fields(layout.xy + shift, count, length, common)
    private = smooth_fields(layout.xy, count, length, personal)
    return np.sqrt(np.float32(_SHARED)) * shared + np.sqrt(np.float32(1 - _SHARED)) * private


def _channel_weights(layout: Layout, shift: np.ndarray, common, personal) -> np.ndarray:
    weights = _mixed_fields(layout, shift, len(CHANNELS), _CHANNEL_LENGTH, common, personal)
    weights[:, _OPPONENT:] += _EXCITATION
    weights[:, _OPPONENT:] /= np.hypot(1, _EXCITATION)
    luminance, red_green, blue_yellow, contrast, energy = np.array(
        [CHANNEL_PROFILE[VISUAL_AREA_MODELS[name].family] for name in layout.area]
    ).T
    # The four orientations share the profile's amplitude.
    profile = np.stack([luminance, red_green, blue_yellow, contrast, *[energy / 2] * 4])
    return np.ascontiguousarray((weights.T * profile).astype(np.float32))


def _group_weights(layout: Layout, shift: np.ndarray, place: np.ndarray, common, personal) -> dict[str, np.ndarray]:
    families = np.array([VISUAL_AREA_MODELS[name].family for name in layout.area])
    profile = dict(zip(GROUPS, np.array([GROUP_PROFILE[name] for name in families]).T, strict=True))
    # Coarse places are in fractions of the image, y down.
    centre = np.clip(place * [1, -1] / IMAGE_DEGREES + 0.5, 0, 1)
    near = np.exp(-np.square(centre[:, None] - PLACES).sum(axis=2) / (2 * _PLACE_RANGE**2))
    near = np.concatenate([near, np.full((len(near), 1), 0.5)], axis=1)
    category = _category_weights(layout, families, shift, common, personal)
    weights = {"category": (category[:, :, None] * near[:, None, :]).reshape(len(near), -1)}
    for name, width in _WIDTHS.items():
        weights[name] = _mixed_fields(layout, shift, width, _MEANING_LENGTH, common, personal)
    # Object colours are preferred in patches; place weighs the nearer side.
    weights["colour"] = np.maximum(weights["colour"], 0)
    weights["place"] = near + 0.3 * weights["place"]
    return {name: np.ascontiguousarray((weights[name].T * profile[name]).astype(np.float32)) for name in GROUPS}


def _category_weights(layout: Layout, families: np.ndarray, shift: np.ndarray, common, personal) -> np.ndarray:
    """Draw category preferences in patches, kinds of category together; [v, categories]."""
    kinds = list(KINDS)
    category = _mixed_fields(layout, shift, len(CATEGORIES), _MEANING_LENGTH, common, personal)
    kind = _mixed_fields(layout, shift, len(kinds), _MEANING_LENGTH, common, personal)
    for number, name in enumerate(kinds):
        preferring = [family for family, preferred in PREFERRED_KIND.items() if preferred == name]
        kind[:, number] += np.where(np.isin(families, preferring), _PREFERENCE / _KIND_WEIGHT, 0)
        members = [CATEGORIES.index(member) for member in KINDS[name] if member in CATEGORIES]
        category[:, members] = np.sqrt(1 - _KIND_WEIGHT**2) * category[:, members] + _KIND_WEIGHT * kind[:, [number]]
    return np.maximum(category, 0) ** _SHARPNESS
