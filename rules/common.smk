# Functions only: what each rule depends on, and where things lie.
from pathlib import Path

from snakemake.exceptions import WorkflowError

from neuropictor import config as configuration
from neuropictor import provenance, runlog
from neuropictor.nsd import agreement, constants, keys

SHIPPED = Path(configuration.__file__).parent / "assets" / "miniature"
GALLERY = Path(configuration.__file__).parent / "evaluation" / "gallery.html"
BACKBONE_PARTS = [
    "unet",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "image_encoder",
]
# Raw sessions on disk: two being fetched (resource network), two waiting for or in preprocessing, which goes first.
SESSIONS_AT_ONCE = 4
MODELS = ["refined", "pretrained"]
BASELINES = ["ridge_diffusion", "ridge", "mean_picture"]


def checked(found):
    """Check settings, agreement, and that nothing real would be overwritten; on a mistake show its message alone."""
    try:
        loaded = configuration.load(found)
        if loaded.nsd.source == "simulated":
            keys.check_free_for_simulation(loaded.paths.nsd)
        if loaded.nsd.source == "fetch":
            agreement.check_terms(loaded.nsd.terms_accepted)
        if loaded.nsd.source == "prepared":
            configuration.check_imported(loaded)
    except (
        configuration.ConfigError,
        FileExistsError,
        agreement.AgreementError,
    ) as error:
        raise WorkflowError(str(error)) from None
    return loaded


def section(name, *only):
    """Give one section of the settings, or named keys of it; a stage runs again when these change."""
    values = provenance.canonical(getattr(settings, name).model_dump())
    return {key: value for key, value in values.items() if not only or key in only}


def preprocessing(wildcards):
    """What the responses of one subject depend on."""
    values = settings.preprocess_of(int(wildcards.subject)).model_dump()
    names = "clip z_score statistics validation_pictures training_sessions".split()
    return provenance.canonical({name: values[name] for name in names})


def code(script):
    """Hash a workflow script and all modules behind it; a stage runs again when what they do changes."""
    if not settings.runtime.track_code:
        return "not tracked"
    return provenance.fingerprint(Path("workflow_scripts") / f"{script}.py")


def runtime(wildcards, threads):
    """Say how to run; as it takes `threads`, Snakemake leaves it out when it asks whether parameters changed."""
    return {**settings.runtime.model_dump(), "threads": threads}


def growing(amount):
    """Give a job this much memory (MB) or time (minutes), and as much more with each retry, where the profile has retries."""

    def amount_of_attempt(wildcards, attempt):
        return amount * attempt

    return amount_of_attempt


def training_resources():
    """GPUs of a training job and, where it spans machines, these: Slurm runs one launcher on each (no MPI is used)."""
    wanted = settings.runtime
    if wanted.nodes == 1:
        return {"gpu": wanted.gpus}
    return {
        "gpu": wanted.gpus,
        "nodes": wanted.nodes,
        "tasks": wanted.nodes,
        "tasks_per_gpu": 0,
        "mpi": "srun",
    }


def cores():
    """Most cores that a job with many threads takes."""
    return max(1, settings.runtime.threads)


def sub(subject):
    """Write a subject's number as in file names: 1 -> 01."""
    return f"{subject:02d}"


def everyone():
    """All subjects, as in file names."""
    return [sub(subject) for subject in settings.subjects.everyone()]


def pretraining():
    """Subjects of pretraining, as in file names."""
    return [sub(subject) for subject in settings.subjects.pretrain]


def refined():
    """Subjects that are refined, sampled and scored, as in file names."""
    return [sub(subject) for subject in settings.subjects.refine]


def backbone():
    """What the stages load as their backbone: a name or a folder."""
    return (
        f"{settings.results_folder()}/backbone"
        if settings.backbone.source == "train"
        else settings.backbone.source
    )


def backbone_content():
    """Hash the shipped backbone where it is used, so that a new one is noticed; others are inputs."""
    if settings.backbone.source != "miniature":
        return "see inputs"
    return [
        runlog.checksum(SHIPPED / part)
        for part in BACKBONE_PARTS
        if (SHIPPED / part).is_dir()
    ]


def start_weights(stage, *names):
    """Hash the weights that a training stage starts from, if it does."""
    if getattr(settings, stage).init == "scratch":
        return "scratch"
    source = settings.backbone.source
    if source == "train":
        return "see inputs"
    folder = (SHIPPED if source == "miniature" else Path(source)) / "population"
    return [
        runlog.checksum(folder / name) if (folder / name).is_file() else f"no {name}"
        for name in names
    ]


def start_files(stage):
    """Start weights of a training stage that are made here (backbone.source: train)."""
    trained = settings.backbone.source == "train"
    return (
        "<results>/backbone/population/run.json"
        if trained and getattr(settings, stage).init == "population"
        else []
    )


def pipeline_files():
    """Files of a pipeline's trained parts, below its folder."""
    parts = ["encoder", "guiding", "manipulation", "null_context"]
    if settings.align.tokens:
        parts.append("alignment")
    files = ("config.json", "diffusion_pytorch_model.safetensors")
    return [
        *(f"{part}/{file}" for part in parts for file in files),
        "scheduler/scheduler_config.json",
    ]


def pipeline_parts(folder):
    """The same in a folder."""
    return [f"{folder}/{file}" for file in pipeline_files()]


def population_files():
    """Start weights that are made with a backbone."""
    space = ["space.safetensors"] if settings.align.tokens else []
    return ["autoencoder.safetensors", "model_index.json", *space, *pipeline_files()]


def component_files(subjects):
    """Aligned components of subjects, if the networks take any."""
    return (
        expand("<results>/align/sub-{subject}/components.h5", subject=subjects)
        if settings.align.tokens
        else []
    )


def own_components(wildcards):
    """Aligned components of one subject, if the networks take any."""
    return component_files([wildcards.subject])


def backbone_files(wildcards):
    """Files that tell when the backbone has changed."""
    if settings.backbone.source == "miniature":
        return []
    if settings.backbone.source == "train":
        return "<results>/backbone/run.json"
    return [
        f"{settings.backbone.source}/{part}"
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    ]


def nsd_folder(wildcards, threads):
    """The NSD root; what lies there is known from the input files, so it is no reason to run again."""
    return settings.paths.nsd


def annotation_files():
    """COCO's annotations, unpacked."""
    return [
        f"<nsd>/{keys.annotations(kind, split)}"
        for kind in keys.ANNOTATION_KINDS
        for split in keys.COCO_SPLITS
    ]


def picture_files():
    """What is the same for all subjects: pictures, order of trials, annotations."""
    shared = (keys.STIMULI, keys.STIMULUS_INFO, keys.EXPERIMENT_DESIGN)
    return [*(f"<nsd>/{key}" for key in shared), *annotation_files()]


def own_pictures(wildcards):
    """A simulated subject's own pictures, where they are not among those that all subjects share."""
    subject = int(wildcards.subject)
    own = settings.nsd.source == "simulated" and subject not in keys.NUMBERED_FIRST
    return f"<nsd>/{keys.own_stimuli(subject)}" if own else []


def simulated_pictures():
    """One subject's own pictures in a simulated NSD, with the subject as a wildcard."""
    return f"<nsd>/{keys.own_stimuli(1)}".replace("subj01", "subj{subject}")


def simulated_subject():
    """One subject's folder of betas and file of behaviour in a simulated NSD, with the subject as a wildcard."""
    names = [keys.beta_folder(1, settings.nsd.beta_version), keys.behaviour(1)]
    return [f"<nsd>/{name}".replace("subj01", "subj{subject}") for name in names]


def counted_sessions(subject):
    """Number of a subject's sessions that the settings let count."""
    return constants.counted_sessions(
        constants.SESSIONS[subject], settings.nsd.release, settings.nsd.sessions
    )


def beta_keys(subject, sessions=None):
    """Keys of a subject's betas; of all sessions that count if none are given."""
    return [
        keys.betas(subject, session, side, settings.nsd.beta_version)
        for session in sessions or range(1, counted_sessions(subject) + 1)
        for side in constants.HEMISPHERES
    ]


def subject_keys(subject):
    """Keys of a subject's noise ceilings and behaviour."""
    version = settings.nsd.beta_version
    ceilings = [keys.ncsnr(subject, side, version) for side in constants.HEMISPHERES]
    return [*ceilings, keys.behaviour(subject)]


def fetched(found):
    """Outputs of these keys, with subject and session as wildcards where they are the first."""
    names = {"subj01": "subj{subject}", "session01": "session{session}"}
    for name, wildcard in names.items():
        found = [key.replace(name, wildcard) for key in found]
    return [f"<nsd>/{key}" for key in found]


def raw(files):
    """Betas, which are removed after use unless nsd.keep_raw."""
    return files if settings.nsd.keep_raw else [temp(file) for file in files]


def fetch_source(wildcards, threads):
    """Where and how to fetch; the bytes are checked, so that it is no reason to fetch them again."""
    return settings.nsd.model_dump()


def weights_source(wildcards, threads):
    """Where to fetch weights from; their checksums are compared, so that it is no reason to fetch them again."""
    return settings.weights.model_dump()


def weight_files():
    """What tells that the published networks are there, where they judge."""
    return "<weights>/weights.json" if settings.evaluate.networks == "published" else []


def planned_files():
    """Keys of all files that stay, and of those that are removed after use."""
    subjects = settings.subjects.everyone()
    kept = [keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO, keys.STIMULI]
    kept += [key for subject in subjects for key in subject_keys(subject)]
    betas = [key for subject in subjects for key in beta_keys(subject)]
    if settings.nsd.keep_raw:
        return {"kept": [*kept, *betas], "passing": [], "at_once": 0}
    return {"kept": kept, "passing": betas, "at_once": 2 * SESSIONS_AT_ONCE}


def response_files(wildcards):
    """One subject's NSD files: those that are simulated or fetched, or those of all sessions found in the folder."""
    if settings.nsd.source == "simulated":
        return expand(simulated_subject(), subject=wildcards.subject)
    subject, version = int(wildcards.subject), settings.nsd.beta_version
    if settings.nsd.source == "fetch":
        return [f"<nsd>/{key}" for key in subject_keys(subject)]
    folder = Path(settings.paths.nsd) / keys.beta_folder(subject, version)
    found = (
        int(path.stem[-2:]) for path in folder.glob("lh.betas_session[0-9][0-9].mgh")
    )
    sessions = sorted(
        session for session in found if session <= counted_sessions(subject)
    )
    if not sessions:
        raise WorkflowError(
            f"No betas of subject {subject} in {folder}. With nsd.source: local, NSD's files must lie below paths.nsd as in"
            f" its bucket, e.g. {settings.paths.nsd}/{keys.betas(subject, 1, 'lh', version)}."
            " With nsd.source: simulated they are made."
        )
    return [
        f"<nsd>/{key}"
        for key in (*beta_keys(subject, sessions), *subject_keys(subject))
    ]


def session_files(wildcards):
    """What is kept of each session of one subject, where betas are fetched and removed."""
    if settings.nsd.source != "fetch":
        return []
    sessions = range(1, counted_sessions(int(wildcards.subject)) + 1)
    subject, version = int(wildcards.subject), settings.nsd.beta_version
    return [
        f"<nsd>/{keys.kept_session(subject, session, version)}" for session in sessions
    ]


def session_betas(wildcards):
    """Both beta files of one session."""
    found = beta_keys(int(wildcards.subject), [int(wildcards.session)])
    return [f"<nsd>/{key}" for key in found]


def model_folder(wildcards):
    """The pipeline behind a model's reconstructions."""
    if wildcards.model == "pretrained":
        return "<results>/pretrain"
    return f"<results>/refine/sub-{wildcards.subject}"


def model_index(wildcards):
    """Its index."""
    return f"{model_folder(wildcards)}/model_index.json"


def model_parts(wildcards):
    """And its parts."""
    return pipeline_parts(model_folder(wildcards))


def samples():
    """All models' reconstructions of all subjects."""
    return expand(
        "<results>/sample/sub-{subject}/{model}.h5",
        subject=refined(),
        model=[*MODELS, *BASELINES],
    )


def sheet_samples(wildcards):
    """One subject's reconstructions, in the order of a contact sheet's columns."""
    models = [*MODELS, "ridge_diffusion", "ridge"]
    return expand(
        "<results>/sample/sub-{subject}/{model}.h5",
        subject=wildcards.subject,
        model=models,
    )
