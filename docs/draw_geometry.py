"""Draw the images of docs/geometry.md from prepared responses.

python docs/draw_geometry.py data/prepared/sub-01/responses.h5
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from neuropictor.data.responses import ResponseStore
from neuropictor.evaluation.tables import title_mark
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import AREA_GROUPS
from neuropictor.surface.inverse import inverse_operator, on_mesh

HERE = Path(__file__).parent
SIZE = 256


def draw_groups(out: Path) -> None:
    """The eight groups of areas, each area named."""
    geometry = load_geometry()
    group = np.empty(geometry.n_vertices)
    for number, name in enumerate(AREA_GROUPS):
        group[geometry.region(name)] = number
    axes = Figure(figsize=(9.5, 6.6), dpi=110, layout="constrained").subplots()
    colours = colormaps["Set2"]
    names = geometry.visual_areas.values()
    geometry.paint(group, axes, limits=(0, colours.N - 1), colours="Set2", names=names, colorbar=False)
    shown = [Patch(color=colours(number), label=name) for number, name in enumerate(AREA_GROUPS)]
    axes.legend(handles=shown, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.set_title("31 areas of visual cortex in eight groups")
    axes.figure.savefig(out, metadata={"Software": None})


def draw_ways(responses: Path, out: Path) -> None:
    """One response on the cortex, as a map, back from the map, and on fsaverage."""
    geometry, store = load_geometry(), ResponseStore(responses)
    nsd_id = int(store.images("test")[0])
    values = store.mean_response([nsd_id])[0]
    top = float(np.quantile(np.abs(values), 0.99))
    look = {"limits": (-top, top), "colorbar": False}
    figure = Figure(figsize=(11, 10.6), dpi=90, layout="constrained")
    painted, mapped, returned, meshed = figure.subplots(2, 2).ravel()
    geometry.paint(values, painted, title=f"Response of {len(values):,} vertices, painted on the flat cortex", **look)
    image = (geometry.map_operator(SIZE) @ values).reshape(SIZE, SIZE)
    mapped.imshow(image, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
    mapped.set_title(f"Its map of {SIZE} x {SIZE} pixels, as the encoder sees it")
    back = inverse_operator(geometry, SIZE) @ image.ravel()
    alike = np.corrcoef(back, values)[0, 1]
    geometry.paint(back, returned, title=f"Back from the map to vertices (correlation {alike:.3f})", names=(), **look)
    overlay, xy = on_mesh(geometry, values, "fsaverage"), geometry.source_xy("fsaverage")
    there = np.isfinite(overlay)
    meshed.scatter(*xy[there].T, c=overlay[there], s=2.5, cmap="RdBu_r", vmin=-top, vmax=top, linewidths=0)
    meshed.set_title(f"On {there.sum():,} vertices of fsaverage, at their flat coordinates")
    meshed.set_aspect("equal")
    for axes in (mapped, meshed):
        axes.set_axis_off()
    title = f"Subject {store.subject}, test image {nsd_id}, mean of {len(store.trials(nsd_id))} trials"
    figure.suptitle(title + title_mark(store.data), size=14)
    figure.savefig(out, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("responses", type=Path)
    given = parser.parse_args()
    draw_groups(HERE / "geometry_groups.png")
    draw_ways(given.responses, HERE / "geometry_response.png")
