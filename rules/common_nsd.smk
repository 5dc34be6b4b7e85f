# Functions only: NSD's files, and those that the stages need.


def nsd_folder(wildcards, threads):
    """The NSD root; its content is known from the input files, so it is no reason to run again."""
    return settings.paths.nsd


def release():
    """Which sessions of NSD count, for pages; "" if nobody is made from NSD."""
    nsd = settings.nsd
    return constants.describe_release(nsd.release, nsd.sessions) if settings.from_nsd() else ""


def annotation_files():
    """COCO's annotations, unpacked."""
    return [f"<nsd>/{keys.annotations(kind, split)}" for kind in keys.ANNOTATION_KINDS for split in keys.COCO_SPLITS]


def image_files():
    """Files shared by all subjects: images, order of trials, annotations."""
    shared = (keys.STIMULI, keys.STIMULUS_INFO, keys.EXPERIMENT_DESIGN)
    return [*(f"<nsd>/{key}" for key in shared), *annotation_files()]


def own_images(wildcards):
    """A simulated subject's own images, if they are not in the file that all subjects share."""
    subject = int(wildcards.subject)
    separate = settings.nsd.source == "simulated" and subject not in keys.NUMBERED_FIRST
    return f"<nsd>/{keys.own_stimuli(subject)}" if separate else []


def simulated_images():
    """One subject's own images in a simulated NSD, with the subject as a wildcard."""
    return f"<nsd>/{keys.own_stimuli(1)}".replace("subj01", "subj{subject}")


def simulated_subject():
    """One subject's folder of betas in a simulated NSD, with the subject as a wildcard."""
    folder = keys.beta_folder(1, settings.nsd.beta_version)
    return f"<nsd>/{folder}".replace("subj01", "subj{subject}")


def counted_sessions(subject):
    """Number of a subject's sessions that the settings let count."""
    return constants.counted_sessions(constants.SESSIONS[subject], settings.nsd.release, settings.nsd.sessions)


def beta_keys(subject, sessions=None):
    """Keys of a subject's betas; default: of all sessions that count."""
    return [
        keys.betas(subject, session, side, settings.nsd.beta_version)
        for session in sessions or range(1, counted_sessions(subject) + 1)
        for side in constants.HEMISPHERES
    ]


def experiment_betas(experiment, subject=1):
    """Keys of a subject's betas of an experiment of nsd.test_sets."""
    return experiments.beta_keys(experiment, subject, settings.nsd.beta_version)


def test_set_files(wildcards):
    """What one test set of one subject is prepared from."""
    experiment = next(name for name, names in TEST_SETS.items() if wildcards.test_set in names)
    subject = int(wildcards.subject)
    names = [keys.EXPERIMENT_DESIGN, keys.STIMULI] if experiment == "imagery" else []
    names += experiments.shared_keys(experiment) + experiments.subject_keys(experiment, subject)
    return [f"<nsd>/{key}" for key in (*names, *experiment_betas(experiment, subject))]


def test_set_stores():
    """Prepared stores of all test sets of nsd.test_sets."""
    names = [name for experiment in settings.nsd.test_sets for name in TEST_SETS[experiment]]
    stores = "<prepared>/sub-{subject}/{test_set}/{store}.h5"
    return expand(stores, subject=settings.tested_further(), test_set=names, store=["responses", "stimuli"])


def fetched(file_keys):
    """Outputs for the keys, with subject and session as wildcards where they are the first, and any experiment."""
    names = {"subj01": "subj{subject}", "session01": "session{session}", "nsdany": "nsd{experiment}"}
    for name, wildcard in names.items():
        file_keys = [key.replace(name, wildcard) for key in file_keys]
    return [f"<nsd>/{key}" for key in file_keys]


def raw(files):
    """Betas, which are removed after use unless nsd.keep_raw."""
    return files if settings.nsd.keep_raw else [temp(file) for file in files]


def fetch_source(wildcards, threads):
    """Where and how to fetch; the bytes are checked, so that it is no reason to fetch them again."""
    return settings.nsd.model_dump()


def planned_files():
    """Keys of all files that stay, and of those that are removed after use; more of them are no reason to plan anew."""
    subjects = [int(subject) for subject in settings.from_nsd()]
    kept = [keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO, keys.STIMULI]
    betas = [key for subject in subjects for key in beta_keys(subject)]
    for experiment in settings.nsd.test_sets:
        kept += experiments.shared_keys(experiment)
        for subject in map(int, settings.tested_further()):
            kept += experiments.subject_keys(experiment, subject)
            betas += experiment_betas(experiment, subject)
    if settings.nsd.keep_raw:
        return {"kept": [*kept, *betas], "passing": [], "at_once": 0}
    return {"kept": kept, "passing": betas, "at_once": 2 * SESSIONS_AT_ONCE}


def response_files(wildcards):
    """One subject's betas: those that are simulated, or those of all sessions in the folder; if fetched see session_files."""
    if settings.nsd.source == "simulated":
        return expand(simulated_subject(), subject=wildcards.subject)
    if settings.nsd.source == "fetch":
        return []
    subject, version = int(wildcards.subject), settings.nsd.beta_version
    folder = Path(settings.paths.nsd) / keys.beta_folder(subject, version)
    numbers = (int(path.stem[-2:]) for path in folder.glob("lh.betas_session[0-9][0-9].mgh"))
    sessions = sorted(session for session in numbers if session <= counted_sessions(subject))
    if not sessions:
        raise WorkflowError(
            f"No betas of subject {subject} in {folder}. With nsd.source: local, NSD's files must lie below paths.nsd as in"
            f" its bucket, e.g. {settings.paths.nsd}/{keys.betas(subject, 1, 'lh', version)}."
            " With nsd.source: simulated they are made."
        )
    return [f"<nsd>/{key}" for key in beta_keys(subject, sessions)]


def session_files(wildcards):
    """Files kept of each session of one subject, where betas are fetched and removed."""
    if settings.nsd.source != "fetch":
        return []
    sessions = range(1, counted_sessions(int(wildcards.subject)) + 1)
    subject, version = int(wildcards.subject), settings.nsd.beta_version
    return [f"<nsd>/{keys.kept_session(subject, session, version)}" for session in sessions]


def session_betas(wildcards):
    """Both beta files of one session."""
    return [f"<nsd>/{key}" for key in beta_keys(int(wildcards.subject), [int(wildcards.session)])]
