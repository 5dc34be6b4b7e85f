"""Writes one person's known responses in the formats of labs."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, ScalarAxis, SeriesAxis

from neuropictor.config.mosaic import DATA_SETS
from neuropictor.surface import load_geometry

HALF = 32_492


def cifti(path, values, left=None, right=None, turned=False, half=HALF, series=False):
    """Save [trials, 2 * half], with the chosen vertices of each hemisphere; `turned`: the right comes first."""
    every = np.arange(half)
    models = [
        (BrainModelAxis.from_surface(every if part is None else part, half, name), side * half)
        for side, (part, name) in enumerate(((left, "CortexLeft"), (right, "CortexRight")))
    ]
    models = models[::-1] if turned else models
    columns = np.concatenate([model.vertex + offset for model, offset in models])
    rows = SeriesAxis(0, 1, len(values)) if series else ScalarAxis([str(row) for row in range(len(values))])
    axis = models[0][0] + models[1][0]
    nibabel.save(nibabel.Cifti2Image(values[:, columns].astype(np.float32), (rows, axis)), path)


def without_wall(values):
    """Columns of the first 59,412 grayordinates."""
    return values[:, load_geometry().cortex.ravel()]


def glmsingle(path, values, matlab=False, **design):
    """Save an output of GLMsingle, and its DESIGNINFO where `design` is given; MATLAB's axes are turned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shaped = (values if matlab else values.T).reshape(*((len(values), 1, 1, -1) if matlab else (-1, 1, 1, len(values))))
    files = {path: {"modelmd" if matlab else "betasmd": shaped}}
    if design:
        files[path.with_name(f"DESIGNINFO{path.suffix}")] = design
    for name, datasets in files.items():
        with h5py.File(name, "w") as file:
            for key, numbers in datasets.items():
                file[key] = numbers
                if matlab:
                    file[key].attrs["MATLAB_class"] = np.bytes_("single")


def mosaic(path, values, names, missing=(), visual_angle=16, kind=np.float64):
    """Save one vector of grayordinates a trial with all that MOSAIC's files hold, some vertices undefined.

    Names are those of images with endings, and the split of each ("train" or "test"); missing are places among the
    grayordinates. Written as create_hdf5_pkl.py of github.com/blahner/mosaic-preprocessing does.
    """
    person, data_set = path.stem.split("_")
    seen = {}
    with h5py.File(path, "w") as file:
        facts = {"visual_angle": visual_angle, "sex": "F", "age": 24, "subjectID": person}
        facts |= {name: f"the {name}" for name in ("publication_url", "github_url", "owner_name", "owner_email")}
        facts |= {"preprocessing_pipeline": "fMRIPrepv23.2.0", "beta_pipeline": "GLMsinglev1.2"}
        file.attrs.update(facts, dataset_name=DATA_SETS[data_set].folder)
        ceilings = file.create_group("noiseceilings", track_order=True)
        for n in ("1", "avg"):
            ceilings[f"{path.stem}_phase-test_n-{n}"] = np.full(91_282, 20.0)
            ceilings[f"{path.stem}_phase-test_n-{n}"].attrs.update(n=n, phase="test", nan_indices=np.array([], int))
        betas = file.create_group("betas", track_order=True)
        for row, (image, split) in zip(without_wall(values), names, strict=True):
            seen[image] = repeat = seen.get(image, -1) + 1
            vector = np.pad(row.astype(kind), (0, 91_282 - 59_412))
            vector[list(missing)] = np.nan
            name = f"{path.stem}_stimulus-{Path(image).stem}_phase-{split}_rep-{repeat}"
            dataset = betas.create_dataset(name, data=vector, track_order=True)
            dataset.attrs.update(nan_indices=np.array(missing, int), phase=split, repetition=repeat)
            dataset.attrs["presented_stimulus_filename"] = image
        file["nan_indices_all"] = np.array(missing[::-1], int)


def algonauts(folder, left, right, masks, numbers):
    """Save [images, chosen vertices] of each hemisphere with its mask, and empty images with NSD's numbers."""
    for name in ("training_split/training_fmri", "training_split/training_images", "roi_masks"):
        (folder / name).mkdir(parents=True)
    for side, values, mask in zip(("lh", "rh"), (left, right), masks, strict=True):
        np.save(folder / f"training_split/training_fmri/{side}_training_fmri.npy", values[:, mask])
        np.save(folder / f"roi_masks/{side}.all-vertices_fsaverage_space.npy", mask.astype(int))
    for place, number in enumerate(numbers, start=1):
        (folder / f"training_split/training_images/train-{place:04d}_nsd-{number:05d}.png").touch()


def grayordinates(path, values):
    """Save [frames, 64984] as a time series of the HCP's 91,282 grayordinates, whose subcortical voxels hold 0."""
    sides = zip(load_geometry().cortex, ("CortexLeft", "CortexRight"), strict=True)
    left, right = (BrainModelAxis.from_surface(np.flatnonzero(cortex), HALF, name) for cortex, name in sides)
    voxels = np.ones((1, 1, 91_282 - 59_412), bool)
    axis = left + right + BrainModelAxis.from_mask(voxels, "thalamus_left", np.eye(4))
    full = np.pad(without_wall(values), ((0, 0), (0, voxels.size))).astype(np.float32)
    nibabel.save(nibabel.Cifti2Image(full, (SeriesAxis(0, 1, len(values)), axis)), path)
