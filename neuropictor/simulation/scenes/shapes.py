"""Outlines of the twelve object categories, as filled polygons in a unit box.

Every shape is a list of ``(role, points)`` painted in order; points are ``[n, 2]`` in the box [-1, 1] x [-1, 1] with y
down. Roles name colours relative to the object's own colour: ``body``, ``dark``, ``light``, ``accent``, or fixed ones
(``white``, ``black``, ``glass``, ``wood``, ``skin``).
"""

from collections.abc import Callable

import numpy as np

Part = tuple[str, np.ndarray]


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    angle = np.radians(np.linspace(start, end, 40))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _points(*xy: float) -> np.ndarray:
    return np.array(xy, dtype=float).reshape(-1, 2)


def _balloon() -> list[Part]:
    envelope = np.concatenate([_ellipse(0, -0.3, 0.72, 0.7, 160, 380), _points(0.2, 0.52, -0.2, 0.52)])
    return [
        ("wood", _points(-0.2, 0.5, -0.15, 0.75, 0.15, 0.75, 0.2, 0.5)),
        ("body", envelope),
        ("light", np.concatenate([_ellipse(0, -0.3, 0.42, 0.7, 160, 380), _points(0.1, 0.52, -0.1, 0.52)])),
        ("accent", np.concatenate([_ellipse(0, -0.3, 0.16, 0.7, 160, 380), _points(0.04, 0.52, -0.04, 0.52)])),
        ("wood", _box(-0.2, 0.72, 0.2, 1.0)),
    ]


def _boat() -> list[Part]:
    return [
        ("wood", _box(-0.07, -0.95, 0.03, 0.45)),
        ("white", _points(0.07, -0.92, 0.85, 0.34, 0.07, 0.34)),
        ("light", _points(-0.12, -0.7, -0.12, 0.34, -0.72, 0.34)),
        ("body", _points(-1.0, 0.42, 1.0, 0.42, 0.66, 0.95, -0.66, 0.95)),
        ("dark", _points(-0.79, 0.75, 0.79, 0.75, 0.66, 0.95, -0.66, 0.95)),
    ]


def _butterfly() -> list[Part]:
    parts: list[Part] = []
    for side in (-1, 1):
        flip = np.array([side, 1])
        parts += [
            ("body", _points(0.04, -0.1, 0.45, -0.85, 0.95, -0.8, 0.95, -0.25, 0.6, 0.12, 0.06, 0.12) * flip),
            ("dark", _points(0.05, 0.1, 0.6, 0.15, 0.8, 0.5, 0.55, 0.85, 0.28, 0.75) * flip),
            ("accent", _ellipse(0.62, -0.48, 0.2, 0.2) * flip),
            ("light", _ellipse(0.5, 0.46, 0.14, 0.16) * flip),
            ("black", _points(0.0, -0.5, 0.22, -0.9, 0.27, -0.86, 0.05, -0.45) * flip),
        ]
    return [*parts, ("black", _ellipse(0, 0.05, 0.1, 0.62))]


def _car() -> list[Part]:
    return [
        ("body", _points(-0.62, 0.0, -0.4, -0.52, 0.34, -0.52, 0.66, 0.0)),
        ("glass", _points(-0.47, -0.03, -0.32, -0.4, -0.04, -0.4, -0.04, -0.03)),
        ("glass", _points(0.06, -0.03, 0.06, -0.4, 0.28, -0.4, 0.5, -0.03)),
        ("body", _points(-1.0, 0.08, -0.9, -0.04, 0.78, -0.04, 1.0, 0.12, 1.0, 0.45, -1.0, 0.45)),
        ("dark", _box(-1.0, 0.32, 1.0, 0.48)),
        ("accent", _ellipse(0.9, 0.16, 0.09, 0.09)),
        ("black", _ellipse(-0.55, 0.45, 0.27, 0.27)),
        ("white", _ellipse(-0.55, 0.45, 0.12, 0.12)),
        ("black", _ellipse(0.55, 0.45, 0.27, 0.27)),
        ("white", _ellipse(0.55, 0.45, 0.12, 0.12)),
    ]


def _cat() -> list[Part]:
    parts: list[Part] = [
        ("dark", _points(0.4, 0.9, 0.82, 0.7, 0.85, 0.2, 0.98, 0.25, 0.98, 0.8, 0.6, 1.0)),
        ("body", _ellipse(0, 0.55, 0.55, 0.48)),
        ("light", _ellipse(0, 0.66, 0.28, 0.33)),
    ]
    for side in (-1, 1):
        flip = np.array([side, 1])
        parts += [
            ("body", _points(0.16, -0.6, 0.56, -1.0, 0.62, -0.3) * flip),
            ("skin", _points(0.3, -0.62, 0.5, -0.84, 0.53, -0.48) * flip),
        ]
    parts += [("body", _ellipse(0, -0.3, 0.62, 0.5)), ("light", _ellipse(0, -0.1, 0.28, 0.2))]
    for side in (-1, 1):
        parts += [
            ("white", _ellipse(0.26 * side, -0.38, 0.15, 0.15)),
            ("black", _ellipse(0.26 * side, -0.38, 0.07, 0.13)),
        ]
    return [*parts, ("skin", _points(-0.09, -0.2, 0.09, -0.2, 0, -0.08))]


def _clock() -> list[Part]:
    parts: list[Part] = [
        ("body", _ellipse(0, 0, 0.95, 0.95)),
        ("dark", _ellipse(0, 0, 0.8, 0.8)),
        ("white", _ellipse(0, 0, 0.74, 0.74)),
    ]
    for hour in range(0, 360, 30):
        direction = np.array([np.cos(np.radians(hour)), np.sin(np.radians(hour))])
        across = np.array([-direction[1], direction[0]]) * (0.06 if hour % 90 == 0 else 0.035)
        inner, outer = direction * (0.5 if hour % 90 == 0 else 0.58), direction * 0.68
        parts.append(("black", np.stack([inner - across, outer - across, outer + across, inner + across])))
    return [
        *parts,
        ("black", _points(-0.06, 0.1, -0.04, -0.5, 0.04, -0.5, 0.06, 0.1)),
        ("black", _points(-0.1, -0.07, 0.36, 0.14, 0.33, 0.23, -0.1, 0.07)),
        ("accent", _ellipse(0, 0, 0.1, 0.1)),
    ]


def _fish() -> list[Part]:
    return [
        ("dark", _points(0.45, 0.0, 1.0, -0.5, 0.85, 0.0, 1.0, 0.5)),
        ("dark", _points(-0.25, -0.4, 0.2, -0.8, 0.35, -0.3)),
        ("dark", _points(-0.1, 0.4, 0.2, 0.7, 0.25, 0.3)),
        ("body", _ellipse(-0.15, 0, 0.82, 0.5)),
        ("accent", np.concatenate([_ellipse(-0.25, 0, 0.72, 0.47, -35, 35), _ellipse(-0.45, 0, 0.72, 0.47, 33, -33)])),
        ("light", _ellipse(-0.3, 0.2, 0.5, 0.2)),
        ("white", _ellipse(-0.62, -0.12, 0.15, 0.15)),
        ("black", _ellipse(-0.65, -0.12, 0.08, 0.08)),
    ]


def _flower() -> list[Part]:
    parts: list[Part] = [
        ("leaf", _points(-0.07, 0.0, 0.07, 0.0, 0.09, 1.0, -0.05, 1.0)),
        ("leaf", _points(0.03, 0.85, 0.45, 0.42, 0.7, 0.45, 0.4, 0.8)),
        ("leaf", _points(-0.01, 0.95, -0.4, 0.55, -0.65, 0.6, -0.35, 0.92)),
    ]
    for petal in range(6):
        angle = np.radians(60 * petal + 30)
        along = np.array([np.cos(angle), np.sin(angle)])
        rotate = np.array([[along[0], along[1]], [-along[1], along[0]]])
        parts.append(("body" if petal % 2 else "light", _ellipse(0.4, 0, 0.33, 0.23) @ rotate + [0, -0.32]))
    return [*parts, ("accent", _ellipse(0, -0.32, 0.23, 0.23))]


def _house() -> list[Part]:
    return [
        ("dark", _box(0.38, -0.9, 0.6, -0.3)),
        ("light", _box(-0.72, -0.1, 0.72, 0.95)),
        ("body", _points(-1.0, -0.05, 0.0, -0.95, 1.0, -0.05)),
        ("wood", _box(-0.16, 0.35, 0.18, 0.95)),
        ("glass", _box(-0.58, 0.15, -0.28, 0.5)),
        ("glass", _box(0.3, 0.15, 0.6, 0.5)),
        ("accent", _ellipse(0, -0.4, 0.15, 0.15)),
    ]


def _mug() -> list[Part]:
    handle = np.concatenate([_ellipse(0.5, 0.1, 0.48, 0.45, -90, 90), _ellipse(0.5, 0.1, 0.26, 0.24, 90, -90)])
    return [
        ("dark", handle),
        (
            "body",
            np.concatenate([_points(-0.75, -0.65), _points(0.55, -0.65), _ellipse(-0.1, 0.72, 0.58, 0.2, 0, 180)]),
        ),
        ("light", _points(-0.62, -0.5, -0.4, -0.5, -0.4, 0.75, -0.54, 0.7)),
        ("dark", _ellipse(-0.1, -0.65, 0.65, 0.2)),
        ("wood", _ellipse(-0.1, -0.63, 0.53, 0.14)),
        ("accent", _ellipse(0.12, 0.12, 0.2, 0.22)),
    ]


def _tree() -> list[Part]:
    return [
        ("wood", _points(-0.13, 0.1, 0.13, 0.1, 0.22, 1.0, -0.22, 1.0)),
        ("dark", _ellipse(-0.42, 0.08, 0.42, 0.36)),
        ("dark", _ellipse(0.42, 0.08, 0.42, 0.36)),
        ("body", _ellipse(0, -0.1, 0.62, 0.42)),
        ("body", _ellipse(-0.3, -0.4, 0.42, 0.4)),
        ("body", _ellipse(0.32, -0.38, 0.42, 0.4)),
        ("light", _ellipse(0.0, -0.62, 0.4, 0.34)),
        ("accent", _ellipse(-0.35, -0.1, 0.09, 0.09)),
        ("accent", _ellipse(0.3, -0.2, 0.09, 0.09)),
        ("accent", _ellipse(0.02, -0.42, 0.09, 0.09)),
    ]


def _umbrella() -> list[Part]:
    scallops = np.concatenate([_ellipse(x, 0.02, 0.31, 0.16, 0, -180) for x in (0.62, 0.0, -0.62)])
    hook = np.concatenate([_ellipse(0.17, 0.76, 0.2, 0.22, 0, 180), _ellipse(0.17, 0.76, 0.09, 0.1, 180, 0)])
    return [
        ("wood", _box(-0.06, -0.1, 0.05, 0.78)),
        ("wood", hook),
        ("body", np.concatenate([_ellipse(0, 0.02, 0.95, 0.9, 180, 360), scallops])),
        ("light", np.concatenate([_ellipse(0, 0.02, 0.34, 0.9, 180, 360), _ellipse(0, 0.02, 0.31, 0.16, 0, -180)])),
        ("dark", np.concatenate([_points(0, -0.88), _ellipse(-0.62, 0.02, 0.32, 0.16, 180, 270)])),
        ("wood", _box(-0.04, -1.0, 0.04, -0.85)),
    ]


SHAPES: dict[str, Callable[[], list[Part]]] = {
    "balloon": _balloon,
    "boat": _boat,
    "butterfly": _butterfly,
    "car": _car,
    "cat": _cat,
    "clock": _clock,
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "mug": _mug,
    "tree": _tree,
    "umbrella": _umbrella,
}
