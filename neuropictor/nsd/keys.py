"""Where each of NSD's files lies, relative to the root of a local copy and to the public bucket alike.

Every function returns a key with forward slashes; join it to a root with ``root / key``.
"""

from pathlib import Path

from neuropictor.nsd.constants import BETA_VERSIONS, HEMISPHERES, SUBJECTS

STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
EXPERIMENT_DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIMULUS_INFO = "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
#: Not in NSD's bucket: COCO's annotations of 2017, unpacked.
ANNOTATION_FOLDER = "annotations"
ANNOTATION_KINDS = ("captions", "instances", "stuff")
COCO_SPLITS = ("train2017", "val2017")
#: NSD-synthetic, the same for everybody: order of trials, table of images, and the images without colour.
SYNTHETIC_DESIGN = "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
SYNTHETIC_IMAGES = "nsddata/experiments/nsdsynthetic/nsdsyntheticimageinformation.csv"
SYNTHETIC_STIMULI = "nsddata_stimuli/stimuli/nsdsynthetic/nsdsynthetic_stimuli.hdf5"
#: Only a simulated root has this file.
SIMULATED = "SIMULATED.json"
#: Subjects whose images a simulated root keeps in `STIMULI`; the others' are in files of their own, so that another
#: subject changes no existing file. They are those of config.yaml, with the image numbers of the shipped results.
NUMBERED_FIRST = (1, 2, 5)


def subject_name(subject: int) -> str:
    """Return NSD's name of a subject: 1 -> ``subj01``.

    Raises
    ------
    ValueError
        If NSD has no such subject.
    """
    if subject not in SUBJECTS:
        raise ValueError(
            f"subject {subject!r} is not one of NSD's; allowed: {', '.join(map(str, SUBJECTS))} (e.g. 1 for subj01)"
        )
    return f"subj{subject:02d}"


def beta_folder(subject: int, beta_version: str) -> str:
    """Return the folder of a subject's betas on fsaverage.

    Raises
    ------
    ValueError
        If NSD has no such subject or beta version.
    """
    if beta_version not in BETA_VERSIONS:
        raise ValueError(
            f"beta_version {beta_version!r} is none of NSD's; allowed: {', '.join(BETA_VERSIONS)} (e.g. "
            f"{BETA_VERSIONS[-1]})"
        )
    return f"nsddata_betas/ppdata/{subject_name(subject)}/fsaverage/{beta_version}"


def betas(subject: int, session: int, hemisphere: str, beta_version: str) -> str:
    """Return the key of one hemisphere's betas of one session (1-based)."""
    if session < 1:
        raise ValueError(f"session {session!r} does not exist; sessions count from 1 (e.g. 1 for session01)")
    return f"{beta_folder(subject, beta_version)}/{_hemisphere(hemisphere)}.betas_session{session:02d}.mgh"


def experiment_betas(experiment: str, subject: int, hemisphere: str, beta_version: str) -> str:
    """Return the key of one hemisphere's betas of an experiment beside NSD's core, ``imagery`` or ``synthetic``."""
    folder = beta_folder(subject, beta_version).replace(beta_version, f"nsd{experiment}{beta_version}")
    return f"{folder}/{_hemisphere(hemisphere)}.betas_nsd{experiment}.mgh"


def imagery_trials(subject: int, run: str) -> str:
    """Return the key of the table of one run's trials of NSD-Imagery, e.g. ``(1, "visA")``."""
    return f"nsddata/bdata/nsdimagery/nsdimagery_{subject_name(subject)}_{run}.tsv"


def imagery_target(stimulus_set: str, name: str) -> str:
    """Return the key of a target image of NSD-Imagery, e.g. ``("A", "bar_000.0deg_450L_43W.png")``."""
    return f"nsddata/experiments/nsdimagery/rawtargetimages/set{stimulus_set}/{name}"


def synthetic_colours(subject: int) -> str:
    """Return the key of the coloured images of NSD-synthetic, which are each person's own."""
    return SYNTHETIC_STIMULI.replace("stimuli.hdf5", f"colorstimuli_{subject_name(subject)}.hdf5")


def kept_session(subject: int, session: int, beta_version: str) -> str:
    """Return the name of the file kept of one session's betas; not in NSD's bucket."""
    beta_folder(subject, beta_version)
    return f"visual_cortex/{subject_name(subject)}/{beta_version}/session{session:02d}.h5"


def annotations(kind: str, coco_split: str) -> str:
    """Return the key of a COCO annotation file, e.g. ``("captions", "train2017")``."""
    return f"{ANNOTATION_FOLDER}/{kind}_{coco_split}.json"


def own_stimuli(subject: int) -> str:
    """Return the key of a subject's own images, which only a simulated root keeps apart from `STIMULI`."""
    return STIMULI.replace(".hdf5", f"_{subject_name(subject)}.hdf5")


def is_simulated(root: str | Path) -> bool:
    """Tell whether an NSD root was written by the simulation."""
    return (Path(root) / SIMULATED).is_file()


def check_free_for_simulation(root: str | Path) -> None:
    """Make sure that simulated files would not replace real ones.

    Raises
    ------
    FileExistsError
        If the folder holds NSD's files and no ``SIMULATED.json``.
    """
    held = [name for name in (STIMULI, "nsddata_betas") if (Path(root) / name).exists()]
    if held and not is_simulated(root):
        raise FileExistsError(
            f"{root} holds {held[0]} but no {SIMULATED}: it may be the real NSD, and a simulation would overwrite it."
            " Allowed: a new, empty or simulated folder, e.g. paths: {nsd: data/simulated}; or nsd.source: local."
        )


def _hemisphere(name: str) -> str:
    if name not in HEMISPHERES:
        raise ValueError(f"hemisphere {name!r} does not exist; allowed: lh, rh (e.g. lh)")
    return name
