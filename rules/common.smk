# Functions: inputs of rules, and paths.
import contextlib
import functools
import os
import shutil
import socket
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

import neuropictor
from neuropictor import config as configuration
from neuropictor.config import extra, mosaic
from neuropictor.config.test_sets import TEST_SETS
from neuropictor.config.types import SUBJECT
from neuropictor.workflow import doctor
from neuropictor.records import files, fingerprint
from neuropictor.records.checksums import checksum
from neuropictor.controls.conditions import CONTROLS
from neuropictor.evaluation.networks import WEIGHT_FILES
from neuropictor.workflow import jobs_table
from neuropictor.fetching import agreement
from neuropictor.models import layout
from neuropictor.nsd import constants, experiments, keys

NEEDS = yaml.safe_load(Path(workflow.source_path("needs.yaml")).read_text())
PACKAGE = Path(neuropictor.__file__).parent
SHIPPED = PACKAGE / "assets" / "miniature"
TEMPLATES = PACKAGE / "report" / "templates"
PUBLISHED_RESULTS = PACKAGE / "report" / "published_results.csv"
# Raw sessions on disk at most, fetched or in preprocessing: the profiles' resource sessions.
SESSIONS_AT_ONCE = 4
# Raw files of people of MOSAIC, alike: the resource people.
PEOPLE_AT_ONCE = 2
MODELS = ["refined", "pretrained"]
HELD = []  # locked files
BASELINES = ["ridge_diffusion", "ridge", "nearest", "mean_image"]
FITTED = [*BASELINES, "true_features"]  # with a ceiling
# A cluster without `sacct`: the executor plugin needs some such program.
if shutil.which("sbatch") and not shutil.which("sacct"):
    places = [*os.get_exec_path(), f"{workflow.basedir}/profiles/slurm/bin"]
    os.environ.update(PATH=os.pathsep.join(places))


def checked(values):
    """Check settings, agreement, and that nothing real would be overwritten; on a mistake show its message alone."""
    try:
        for file in workflow.configfiles:
            configuration.read_file(file)
        loaded = configuration.load(values)
        if loaded.nsd.source == "simulated":
            keys.check_free_for_simulation(loaded.paths.nsd)
        if loaded.nsd.source == "fetch":
            agreement.check_terms(loaded.nsd.terms_accepted)
        configuration.check_imported(loaded)
        configuration.check_judge(loaded)
        configuration.check_extra(loaded)
    except (configuration.ConfigError, FileExistsError, agreement.AgreementError) as error:
        raise WorkflowError(str(error)) from None
    return loaded


def work_alone(folder):
    """Keep other workflows from a folder of results as long as this process lives, however it ends."""
    path = Path(folder) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        HELD.append(open(path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)))
        files.lock(HELD[-1])
    except BlockingIOError:
        HELD[-1].seek(0)
        raise WorkflowError(
            f"Another workflow is writing to {folder}; wait until it has ended, or keep results apart, e.g."
            f" --config experiment=second. It is {HELD[-1].read() or 'unknown'}; if that has ended, whoever may read"
            f" {path} may hold it: fuser {path} tells"
        ) from None
    except OSError as error:
        raise WorkflowError(
            f"{error.filename} cannot be written ({error.strerror}), and results lie there. Allowed: a folder that you may"
            " write to, e.g. paths: {results: results}; others' results after chmod g+w of it and of its .lock"
        ) from None
    with contextlib.suppress(OSError):  # a full disk: the stage that lacks room says so
        os.ftruncate(HELD[-1].fileno(), 0)
        os.write(HELD[-1].fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())


def tracked(name, section, *only):
    """Give a script a section of the settings, or named keys of it, as its parameter `name`: `params: **tracked(...)`."""
    values = getattr(settings, section).model_dump()

    def same_for_all(wildcards):
        return values

    return fingerprint.named_keys(name, section, same_for_all, only or values)


def preprocessing(*further):
    """Settings that one subject's responses depend on; presets may make them differ between subjects."""

    def of_subject(wildcards):
        return settings.preprocess_of(wildcards.subject).model_dump()

    names = ("clip", "z_score", "statistics", "training_sessions", *further)
    return fingerprint.named_keys("config", "preprocess", of_subject, names)


def tracked_preprocessing():
    """How responses were z-scored, for pages; unknown for imported ones."""
    return (
        {}
        if settings.nsd.source == "prepared"
        else tracked("preprocess", "preprocess", "z_score", "statistics", "clip")
    )


def code(script):
    """Hash a workflow script and all modules behind it; a stage runs again when their code changes."""
    if not settings.runtime.track_code:
        return "code: not tracked"
    digest = fingerprint.fingerprint(Path("workflow_scripts") / f"{script}.py")
    return f"code behind workflow_scripts/{script}.py: {digest}"


def runtime(wildcards, threads):
    """How to run; as it takes `threads`, Snakemake ignores it when comparing parameters."""
    return {**settings.runtime.model_dump(), "threads": threads}


def growing(amount):
    """Give a job this much memory (MB) or time (minutes), and as much more with each retry, where the profile has retries."""

    def amount_of_attempt(wildcards, attempt):
        return amount * attempt

    return amount_of_attempt


def need(rule, what):
    """Memory of a node, time or memory of a GPU of a job at the networks' size, see needs.yaml; only time grows with retries."""
    paper = doctor.is_large(settings)
    judged = rule.startswith("evaluate") or rule == "score_controls"
    paper |= judged and settings.evaluate.networks != "miniature"
    amount = NEEDS[rule]["paper" if paper else "miniature"][what]
    spread = rule in ("calibrate", "pretrain", "refine", "sample")
    if what == "mem_mb" and spread:
        amount *= settings.runtime.processes // settings.runtime.nodes
    return growing(amount) if what == "runtime" else amount


def process_resources():
    """GPUs of a job of several processes and, where it spans machines, these: Slurm runs one launcher on each, no MPI."""
    runtime = settings.runtime
    if runtime.nodes == 1:
        return {"gpu": runtime.gpus}
    return {"gpu": runtime.gpus, "nodes": runtime.nodes, "tasks": runtime.nodes, "tasks_per_gpu": 0, "mpi": "srun"}


def cores():
    """Most cores that a job with many threads takes."""
    return max(1, settings.runtime.threads)


def everyone():
    """All subjects."""
    return settings.subjects.everyone()


def pretraining():
    """Subjects of pretraining."""
    return settings.subjects.pretrain


def training_responses():
    """The folder of responses that stages train on and draw from: without clusters that are held out, if some are."""
    held_out = settings.preprocess.hold_out == "clusters"
    return f"{settings.results_folder()}/hold_out" if held_out else settings.paths.prepared


def refined():
    """Subjects that are refined, sampled and scored."""
    return settings.subjects.refine


def backbone():
    """The backbone that stages load: a name or a folder."""
    return settings.backbone_folder()


def target_files():
    """Files that change with the semantic loss's own text tower, if it has one."""
    folder = settings.target_folder()
    if not folder:
        return []
    return f"{folder}/{'fetched' if settings.backbone.target_revision else 'config'}.json"


def backbone_content():
    """Hash the shipped backbone where it is used, so that a new one is noticed; others are inputs."""
    if settings.backbone.source != "miniature":
        return "see inputs"
    return [checksum(SHIPPED / part) for part in (*layout.BACKBONE_PARTS, "image_encoder")]


def start_weights(stage, *names):
    """Hash the weights that a training stage starts from, if it does."""
    if getattr(settings, stage).init == "scratch":
        return "scratch"
    source = settings.backbone.source
    folder = (SHIPPED if source == "miniature" else Path(backbone())) / "population"
    return [checksum(folder / name) if (folder / name).is_file() else f"no {name}" for name in names]


def start_space(wildcards, threads):
    """The space of the pretraining's start weights; its content is compared, not its path."""
    if settings.pretrain.init == "scratch":
        return None
    return (SHIPPED if settings.backbone.source == "miniature" else Path(backbone())) / "population/space.safetensors"


def pipeline_files():
    """Files of a pipeline's trained parts, below its folder."""
    return layout.trained_files(bool(settings.align.tokens))


def pipeline_parts(folder):
    """Files of a pipeline's trained parts in a folder."""
    return [f"{folder}/{file}" for file in pipeline_files()]


def component_files(subjects):
    """Aligned components of subjects, if the networks take any."""
    return expand("<results>/align/sub-{subject}/components.h5", subject=subjects) if settings.align.tokens else []


def own_components(wildcards):
    """Aligned components of one subject, if the networks take any."""
    return component_files([wildcards.subject])


@functools.cache
def warn(message):
    """Tell something once."""
    logger.warning(message)


def backbone_files(wildcards):
    """Files that change with the backbone."""
    if settings.backbone.source == "miniature":
        return []
    if settings.backbone.revision:
        return f"{backbone()}/fetched.json"
    try:
        layout.check_backbone(backbone())
    except FileNotFoundError as error:
        if not workflow.dryrun:
            raise WorkflowError(str(error)) from None
        warn(str(error))  # what would run can be planned without it
        return []
    return [f"{settings.backbone.source}/{part}" for part in layout.BACKBONE_PARTS]


def scored_experiments():
    """Scores of this experiment, and of all others that have some."""
    named = Path(settings.paths.results).glob("experiments/*/metrics.csv")
    unnamed = Path(settings.paths.results) / "metrics.csv"
    others = {str(path) for path in [*named, unnamed] if path.is_file()}
    this = str(Path(settings.results_folder()) / "metrics.csv")
    return ["<results>/metrics.csv", *sorted(others - {this})]


def list_jobs():
    """Write runs.csv, one line for each job so far."""
    results = Path(settings.results_folder())
    if results.is_dir():
        out, prepared = results / "runs.csv", settings.paths.prepared
        jobs_table.write_runs(results, out, prepared, settings.logs_folder())


def weight_files():
    """A file that exists once the published networks are fetched, where they judge."""
    return f"{settings.paths.weights}/weights.json" if settings.evaluate.networks == "published" else []


def model_folder(wildcards):
    """The pipeline behind a model's reconstructions."""
    if wildcards.model == "pretrained":
        return "<results>/pretrain"
    return f"<results>/refine/sub-{wildcards.subject}"


def samples():
    """All models' reconstructions of all subjects."""
    return expand(
        "<results>/sample/sub-{subject}/{model}.h5",
        subject=refined(),
        model=[*MODELS, *FITTED],
    )


def sheet_samples(wildcards):
    """One subject's reconstructions, in the order of a contact sheet's columns."""
    models = [*MODELS, "ridge_diffusion", "ridge"]
    return expand(
        "<results>/sample/sub-{subject}/{model}.h5",
        subject=wildcards.subject,
        model=models,
    )


include: "common_nsd.smk"
include: "common_import.smk"
include: "common_controls.smk"
include: "common_generalise.smk"
