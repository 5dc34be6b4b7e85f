"""Tuning of each visual area of the simulated brain. One line an area; sources beside the columns.

Sizes of population receptive fields follow Dumoulin & Wandell 2008 (V1-V3, V3A, LO) and Amano et al. 2009 (hV4, LO,
TO): radius = base + slope x eccentricity, in degrees. Compression follows Kay et al. 2013: strong in higher areas.
Reliability (relative to the median) follows the maps of Allen et al. 2022. Shares of low-level drive
and the groups' profiles are the author's reading of that literature: early areas see contrast and colour, lateral
occipital cortex objects, ventral cortex categories and colours, parahippocampal cortex and VMV scenes, dorsal cortex
places.
"""

from dataclasses import dataclass

#: Low-level channels: luminance, red-green, blue-yellow, local contrast, energy of contours at 0, 45, 90, 135 degrees.
CHANNELS = ("luminance", "red_green", "blue_yellow", "contrast", "energy_0", "energy_45", "energy_90", "energy_135")
#: Groups of scene features, in the order of the profiles below; ``mixed`` are random nonlinear mixtures of the
#: image's low-level maps.
GROUPS = ("category", "colour", "place", "background", "light", "view", "count", "mixed")


@dataclass(frozen=True)
class VisualArea:
    """Tuning of one area.

    Attributes
    ----------
    family
        Key of `CHANNEL_PROFILE` and `GROUP_PROFILE`.
    low_level
        Share of the drive's variance from low-level channels seen through receptive fields.
    radius, slope
        Receptive field radius (degrees) at the fovea, and its growth per degree of eccentricity.
    exponent
        Of the compressive nonlinearity.
    reliability
        ncsnr relative to other areas.
    """

    family: str
    low_level: float
    radius: float
    slope: float
    exponent: float
    reliability: float


VISUAL_AREA_MODELS = {
    "V1": VisualArea("early", 1.0, 0.25, 0.12, 0.75, 1.20),
    "V2": VisualArea("early", 1.0, 0.35, 0.16, 0.70, 1.20),
    "V3": VisualArea("early", 0.95, 0.50, 0.22, 0.65, 1.15),
    "V4": VisualArea("colour", 0.75, 0.80, 0.32, 0.60, 1.15),
    "V8": VisualArea("colour", 0.50, 1.20, 0.45, 0.55, 1.00),
    "V3A": VisualArea("dorsal", 0.85, 0.90, 0.32, 0.60, 0.95),
    "V3B": VisualArea("dorsal", 0.75, 1.00, 0.35, 0.60, 0.95),
    "V3CD": VisualArea("dorsal", 0.75, 1.00, 0.35, 0.60, 1.00),
    "V6": VisualArea("dorsal", 0.70, 1.50, 0.45, 0.60, 0.60),
    "V6A": VisualArea("dorsal", 0.60, 2.00, 0.50, 0.60, 0.55),
    "V7": VisualArea("dorsal", 0.60, 1.40, 0.40, 0.60, 0.80),
    "IPS1": VisualArea("dorsal", 0.45, 1.80, 0.45, 0.60, 0.80),
    "IP0": VisualArea("dorsal", 0.40, 1.80, 0.45, 0.60, 0.85),
    "V4t": VisualArea("motion", 0.60, 1.30, 0.45, 0.55, 0.95),
    "MT": VisualArea("motion", 0.60, 1.30, 0.50, 0.55, 0.90),
    "MST": VisualArea("motion", 0.50, 2.00, 0.60, 0.55, 0.70),
    "FST": VisualArea("motion", 0.45, 2.00, 0.60, 0.55, 0.80),
    "LO1": VisualArea("objects", 0.65, 1.00, 0.40, 0.60, 1.10),
    "LO2": VisualArea("objects", 0.50, 1.20, 0.45, 0.55, 1.10),
    "LO3": VisualArea("objects", 0.45, 1.40, 0.50, 0.55, 1.05),
    "PIT": VisualArea("objects", 0.40, 1.30, 0.45, 0.55, 1.10),
    "PH": VisualArea("objects", 0.25, 2.20, 0.50, 0.55, 0.90),
    "TE2p": VisualArea("objects", 0.15, 2.50, 0.50, 0.55, 0.60),
    "FFC": VisualArea("ventral", 0.25, 2.00, 0.50, 0.50, 1.05),
    "VVC": VisualArea("ventral", 0.30, 1.80, 0.50, 0.50, 0.95),
    "VMV1": VisualArea("scenes", 0.45, 1.60, 0.45, 0.55, 0.80),
    "VMV2": VisualArea("scenes", 0.40, 1.60, 0.45, 0.55, 0.85),
    "VMV3": VisualArea("scenes", 0.35, 1.60, 0.45, 0.55, 0.95),
    "PHA1": VisualArea("scenes", 0.25, 2.20, 0.50, 0.55, 0.65),
    "PHA2": VisualArea("scenes", 0.25, 2.20, 0.50, 0.55, 0.75),
    "PHA3": VisualArea("scenes", 0.25, 2.20, 0.50, 0.55, 0.80),
}

#: Amplitude of the weights of luminance, red-green, blue-yellow, contrast, contour energy.
CHANNEL_PROFILE = {
    "early": (0.7, 0.6, 0.5, 0.7, 0.65),
    "colour": (0.5, 0.9, 0.8, 0.6, 0.4),
    "dorsal": (0.5, 0.2, 0.2, 1.0, 0.5),
    "motion": (0.5, 0.1, 0.1, 1.0, 0.5),
    "objects": (0.4, 0.4, 0.4, 0.9, 0.5),
    "ventral": (0.5, 0.6, 0.6, 0.7, 0.3),
    "scenes": (0.5, 0.4, 0.4, 0.8, 0.6),
}

#: Amplitude of the weights of each of `GROUPS`.
GROUP_PROFILE = {
    "early": (0.2, 0.4, 1.0, 0.2, 0.3, 0.2, 0.2, 0.8),
    "colour": (0.4, 0.9, 0.6, 0.3, 0.3, 0.2, 0.2, 0.5),
    "dorsal": (0.3, 0.1, 1.0, 0.4, 0.2, 0.4, 0.6, 0.6),
    "motion": (0.4, 0.1, 0.9, 0.3, 0.2, 0.3, 0.4, 0.7),
    "objects": (1.0, 0.4, 0.6, 0.2, 0.1, 0.3, 0.3, 0.6),
    "ventral": (1.1, 0.6, 0.3, 0.4, 0.1, 0.3, 0.2, 0.6),
    "scenes": (0.4, 0.2, 0.3, 1.1, 0.5, 0.5, 0.2, 0.5),
}

#: Imagined images evoke this share of what seen ones do: in vertices driven by the scene's meaning alone, and in those
#: driven by low-level channels alone; others lie between. A choice; its direction is that of Breedlove et al. 2020 (doi
#: 10.1016/j.cub.2020.04.014), who found imagery weakest, compared with vision, in early areas.
IMAGINED_HIGH, IMAGINED_LOW = 0.5, 0.1

#: Kinds of categories that neighbouring cortex prefers together; any other category stands alone.
KINDS = {
    "animal": ("butterfly", "cat", "fish"),
    "landmark": ("house", "tree"),
    "vehicle": ("balloon", "boat", "car"),
    "thing": ("clock", "mug", "umbrella", "flower"),
}
#: Families of areas in which a kind is preferred over the others (Grill-Spector & Weiner 2014; Bracci & Op de Beeck
#: 2016).
PREFERRED_KIND = {"ventral": "animal", "scenes": "landmark", "objects": "thing", "motion": "vehicle"}
