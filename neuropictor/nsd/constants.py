"""Numbers of the Natural Scenes Dataset (Allen et al. 2022, doi 10.1038/s41593-021-00962-x).

Sources: NSD Data Manual, https://cvnlab.slite.page/p/ with "Technical notes" h_T_2Djeid, "Experiments" NKalgWd__F,
"Behavioral data" fRv4lz5V2F and "Functional data (NSD)" 6CusMRYfk0; and the code that wrote the release,
https://github.com/cvnlab/nsddatapaper.
"""

#: Subject numbers; written ``subj01`` in NSD's files and ``sub-01`` in ours.
SUBJECTS = (1, 2, 3, 4, 5, 6, 7, 8)

#: Sessions of each subject, all of which are readable since 2023-08-20 (Technical notes).
SESSIONS = {1: 40, 2: 40, 3: 32, 4: 30, 5: 40, 6: 32, 7: 40, 8: 30}

#: Planned number of sessions.
PLANNED_SESSIONS = 40

#: Releases, by the number of planned sessions they hold: until 2023-08-20 the last three sessions of every subject
#: were held out (github.com/cvnlab/nsddatapaper, issue 2); most published scores rest on that.
RELEASES = (37, 40)

#: Stimulus trials of a session: twelve runs, 63 trials in odd runs and 62 in even ones (Behavioral data).
TRIALS_PER_SESSION = 750
RUNS_PER_SESSION = 12

#: A run is 75 slots of 4 s; the first 3 and last 4 are blank (Experiments).
SLOTS_PER_RUN = 75
BLANK_SLOTS_START = 3
BLANK_SLOTS_END = 4

#: Times that each image is shown to a subject.
REPEATS = 3

#: Images in the bank, and the number planned for every subject to see.
IMAGES = 73_000
SHARED_IMAGES = 1_000

#: Side of an image in pixels, and the angle under which it was seen in degrees (Experiments).
IMAGE_SIZE = 425
IMAGE_DEGREES = 8.4

#: Grey around the images on the screen (Experiments).
SCREEN_GREY = 127

#: Captions of a COCO image that are used; some have six or seven.
CAPTIONS_PER_IMAGE = 5

#: As in file names; betas have the left hemisphere's vertices first.
HEMISPHERES = ("lh", "rh")

#: b1, b2 and b3 of the manual (Functional data).
BETA_VERSIONS = ("betas_assumehrf", "betas_fithrf", "betas_fithrf_GLMdenoise_RR")

#: Median single-trial noise ceiling signal-to-noise ratio of b3 in fsaverage's nsdgeneral, subjects 1 to 8: counted in
#: the executed notebooks of brain-score/vision, ``data/allen2022_fmri``.
NCSNR_MEDIAN = {1: 0.490, 2: 0.510, 3: 0.431, 4: 0.392, 5: 0.542, 6: 0.439, 7: 0.371, 8: 0.323}


def counted_sessions(held: int, release: int = PLANNED_SESSIONS, limit: int = PLANNED_SESSIONS) -> int:
    """Return how many sessions of a subject count: the first ones in a release.

    Parameters
    ----------
    held
        Sessions that the subject took part in.
    release
        One of `RELEASES`; 37 leaves out every subject's last three.
    limit
        Most sessions.

    Raises
    ------
    ValueError
        If there is no such release, or it leaves nothing.
    """
    if release not in RELEASES:
        raise ValueError(f"nsd.release is {release!r}; allowed: 37 or 40. Example: release: 37")
    counted = held - (PLANNED_SESSIONS - release)
    if counted < 1:
        raise ValueError(
            f"nsd.release is {release}, which leaves out a subject's last {PLANNED_SESSIONS - release} sessions, but "
            f"there are only {held}; allowed here: release: {PLANNED_SESSIONS}"
        )
    if limit < 1:
        raise ValueError(f"nsd.sessions is {limit}; allowed: 1 to {PLANNED_SESSIONS}. Example: sessions: 1")
    return min(counted, limit)


def describe_release(release: int, limit: int) -> str:
    """Describe `nsd.release` and `nsd.sessions` in a sentence for reports."""
    dropped = "all sessions" if release == PLANNED_SESSIONS else "without each subject's last three sessions"
    limits = [f"only the first {limit} count"] if limit < PLANNED_SESSIONS else []
    return f"Release {release}: {'; '.join([dropped, *limits])}."
