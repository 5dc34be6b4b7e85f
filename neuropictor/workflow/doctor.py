"""Will the plan work on this machine? Machine, versions, GPU, disk, agreement and weights, each with advice.

Nothing is changed, fetched or trained. Sizes are estimates from the settings, good enough to tell an hour from a week
and a laptop's disk from a server's.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from neuropictor.config import ConfigError, check_extra, check_imported
from neuropictor.fetching import agreement
from neuropictor.models.layout import check_backbone
from neuropictor.nsd import constants, experiments, keys
from neuropictor.records.record import versions

if TYPE_CHECKING:
    from neuropictor.config import Config

Verdict = Literal["ok", "warning", "problem"]
GB = 1e9
#: NSD's and COCO's files (README): images, annotations while unpacked, a session's betas, the part kept.
IMAGES, ANNOTATIONS, SESSION, KEPT = 39.6 * GB, 3.5 * GB, 0.983 * GB, 0.027 * GB
#: A person's file of MOSAIC: 30,000 trials of 91,282 numbers in double precision; most have fewer.
PERSON = 30_000 * 91_282 * 8
VERTICES = 8921
#: Share of its plain size that a rendered image takes in its file (measured on a default run: 0.21).
COMPRESSED = 0.25
#: Tensors of a weight's size in a checkpoint (weight, average, two moments) and checkpoints kept, plus the result.
CHECKPOINT_COPIES = 2 * 4 + 1
# Width from which networks count as large: the miniature and its encoder have 128, the paper's 1024 and 1280.
_LARGE = 512


class Finding(NamedTuple):
    """The state of one thing, and what to do if it is a problem."""

    verdict: Verdict
    about: str
    found: str
    do: str = ""

    def __str__(self) -> str:
        lines = f"{self.verdict:8}{self.about}: {self.found}"
        return f"{lines}\n{'':8}do: {self.do}" if self.do else lines


def examine(config: "Config") -> list[Finding]:
    """Check everything that `config` needs, in order of need.

    Returns
    -------
    list
        One finding or more for each thing; a ``problem`` will stop the workflow, a ``warning`` may.
    """
    checks: list[Callable[[Config], list[Finding]]] = [
        _python,
        _packages,
        _machine,
        _device,
        _data,
        _extra,
        _disk,
        _weights,
        _cluster,
    ]
    return [finding for check in checks for finding in check(config)]


def _python(config: "Config") -> list[Finding]:
    found = f"Python {platform.python_version()} on {platform.system()}"
    if sys.version_info < (3, 11):  # noqa: UP036 (this is the check)
        return [Finding("problem", "python", found, "install Python 3.11 or newer, and run make install with it")]
    return [Finding("ok", "python", found)]


def _packages(config: "Config") -> list[Finding]:
    """Compare the installed packages with the lock, if there is one (in a checkout)."""
    lock = Path(__file__).resolve().parents[2] / "requirements.lock"
    installed = versions()
    if not lock.is_file():
        return [Finding("ok", "packages", f"{len(installed)} (no requirements.lock here to compare with)")]
    locked: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE):
        locked.setdefault(name.lower(), set()).add(version)
    try:
        required = importlib.metadata.requires("neuropictor") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        required = []
    missing = []
    for requirement in required:
        name = re.split(r"[^\w.-]", requirement)[0].lower()
        if "extra ==" not in requirement and name not in {item.lower() for item in installed}:
            missing.append(name)
    if missing:
        return [Finding("problem", "packages", f"not installed: {', '.join(sorted(missing))}", "make install")]
    others = [
        f"{name} {version} (locked: {', '.join(sorted(locked[name.lower()]))})"
        for name, version in installed.items()
        if name.lower() in locked and version.partition("+")[0] not in locked[name.lower()]
    ]
    if others:
        return [Finding("warning", "packages", f"other versions than the lock's: {'; '.join(others)}", "make install")]
    return [Finding("ok", "packages", f"{len(installed)} as in requirements.lock")]


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _machine(config: "Config") -> list[Finding]:
    cores, memory = os.cpu_count() or 1, _memory()
    found = f"{cores} cores, {memory / 2**30:.0f} GiB of memory"
    needed = 64 * 2**30 if is_large(config) else 4 * 2**30
    if memory < needed:
        advice = "use a larger machine or a cluster (docs/cluster.md)"
        return [Finding("warning", "machine", f"{found}; jobs ask for up to {needed / 2**30:.0f} GiB", advice)]
    return [Finding("ok", "machine", found)]


def is_large(config: "Config") -> bool:
    """Tell whether networks have the paper's order of size, for which a CPU is too slow.

    The encoder's width decides, or that of the backbone's UNet (320 to 1280 in Stable Diffusion); a backbone
    still to be fetched is assumed to be large.
    """
    if config.encoder.width >= _LARGE:
        return True
    if config.backbone.source == "miniature":
        return False
    unet = Path(config.backbone_folder()) / "unet" / "config.json"
    return not unet.is_file() or max(json.loads(unet.read_text(encoding="utf-8"))["block_out_channels"]) >= _LARGE


def _device(config: "Config") -> list[Finding]:
    import torch

    from neuropictor.models.device import prepare_device

    try:
        device = prepare_device(config.runtime.model_copy(update={"threads": 0}))
    except RuntimeError as error:
        return [Finding("problem", "device", str(error), "on a cluster, run this in a job on a node with GPUs")]
    if device.type != "cuda":
        if is_large(config):
            advice = "use a GPU: a step of this size takes most of a minute on a CPU, and there are tens of thousands"
            return [Finding("problem", "device", f"{device.type}, for networks of the paper's size", advice)]
        return [Finding("ok", "device", f"{device.type} (enough for the miniature)")]
    count = torch.cuda.device_count()
    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 2**30
    found = f"{count} x {name}, {memory:.0f} GiB"
    local = config.runtime.processes // config.runtime.nodes
    if count < local:
        return [
            Finding("problem", "device", f"{found}; {local} processes a machine", f"runtime: {{processes: {count}}}")
        ]
    if is_large(config) and memory < 22:
        advice = "runtime: {precision: bf16, gradient_checkpointing: true, accumulation: 8}"
        return [Finding("warning", "device", f"{found}: little for networks of the paper's size", advice)]
    return [Finding("ok", "device", found)]


def _data(config: "Config") -> list[Finding]:
    """Agreement and files of the source of data."""
    root, source = Path(config.paths.nsd), config.nsd.source
    try:
        if source == "simulated":
            keys.check_free_for_simulation(root)
            return [Finding("ok", "data", "simulated; says nothing about brains")]
        if source == "fetch":
            agreement.check_terms(config.nsd.terms_accepted)
            return [Finding("ok", "data", f"NSD from {config.nsd.endpoint}, terms accepted")]
        if source == "prepared":
            check_imported(config)
            return [Finding("ok", "data", f"imported stores in {config.paths.prepared}")]
    except (FileExistsError, agreement.AgreementError, ConfigError) as error:
        return [Finding("problem", "data", str(error), "change the settings as said")]
    required = [keys.STIMULI, keys.STIMULUS_INFO, keys.EXPERIMENT_DESIGN]
    required += [
        keys.betas(int(subject), 1, side, config.nsd.beta_version)
        for subject in config.from_nsd()
        for side in constants.HEMISPHERES
    ]
    for name in config.nsd.test_sets:
        required += experiments.shared_keys(name)
        for subject in map(int, config.tested_further()):
            required += experiments.subject_keys(name, subject)
            required += experiments.beta_keys(name, subject, config.nsd.beta_version)
    missing = [key for key in required if not (root / key).is_file()]
    if missing:
        advice = "put NSD's files there in its own layout, or set nsd: {source: fetch}"
        shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        return [Finding("problem", "data", f"{len(missing)} files missing below {root}: {shown}", advice)]
    return [Finding("ok", "data", f"NSD in {root}")]


def _extra(config: "Config") -> list[Finding]:
    """What else the encoder learns from."""
    try:
        count = check_extra(config)
    except ConfigError as error:
        return [Finding("problem", "extra", str(error), "change the settings as said")]
    return [Finding("ok", "extra", f"{count:,} time series")] if count else []


def needed_bytes(config: "Config") -> dict[str, float]:
    """Estimate what each root will hold at most, from the settings; keys as in ``paths``.

    People of other data sets are taken to have as many trials as NSD's planned for each.
    """
    subjects, nsd = config.subjects.everyone(), config.from_nsd()
    simulated = config.nsd.source == "simulated"
    sessions = {
        subject: config.simulate.sessions
        if simulated
        else constants.counted_sessions(constants.SESSIONS[int(subject)], config.nsd.release, config.nsd.sessions)
        for subject in nsd
    }
    trials = sum(sessions.values()) * (config.simulate.trials_per_session if simulated else 750)
    trials += (len(subjects) - len(nsd)) * constants.PLANNED_SESSIONS * 750
    images = trials / 3
    raw, of_test_sets = 0.0, len(config.tested_further()) * sum(experiments.ROWS[name] for name in config.nsd.test_sets)
    if simulated:
        vertices = {"fsaverage5": 20484, "fsaverage6": 81924, "fsaverage": 327684}[config.simulate.mesh]
        raw = (trials + of_test_sets) * vertices * 4 + images * config.simulate.image_size**2 * 3 * COMPRESSED
    elif config.nsd.source == "fetch":
        every = (sum(sessions.values()) + of_test_sets / constants.TRIALS_PER_SESSION) * SESSION
        betas = every if config.nsd.keep_raw else 4 * SESSION
        raw = IMAGES + ANNOTATIONS + betas
    kept = 0 if simulated else sum(sessions.values()) * KEPT
    prepared = kept + (trials + of_test_sets) * VERTICES * 2 + images * config.preprocess.image_size**2 * 3
    with contextlib.suppress(ConfigError):  # which is told elsewhere
        # Frames lie twice while they are read: each run's, and their store.
        prepared += 2 * check_extra(config) * config.calibrate.extra_frames * VERTICES * 2
    # Of each image: mean and log variance of latents, and the captions' mean, in half precision.
    latent, context = (2 * 4 * 64 * 64, 77 * 1024) if is_large(config) else (2 * 8 * 8 * 8, 16 * 128)
    weights = _weights_bytes(config)
    results = images * (latent + context) * 2 + weights * (len(subjects) + 1) + weights * CHECKPOINT_COPIES
    of_mosaic = sum(bool(person.mosaic) for person in config.subjects.people.values())
    at_once = of_mosaic if config.mosaic.keep_raw else min(of_mosaic, 2)
    fetched = {"mosaic": PERSON * at_once} if of_mosaic else {}
    return {"nsd": raw, **fetched, "prepared": prepared, "results": results}


def _weights_bytes(config: "Config") -> float:
    """Estimate the trained networks: the encoder's blocks (12 width^2 each), and a ControlNet of 0.42 of the UNet."""
    encoder = 12 * config.encoder.depth * config.encoder.width**2 * 4
    unet = Path(config.backbone.source) / "unet"
    files = [path.stat().st_size for path in unet.glob("*.safetensors")] if unet.is_dir() else []
    backbone = max(files) if files else (866e6 * 4 if is_large(config) else 4.3e6 * 4)
    return 2 * encoder + 0.42 * backbone


def _existing(path: Path) -> Path:
    """Return the nearest existing folder above."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _disk(config: "Config") -> list[Finding]:
    """Compare free space with the estimate, for all roots on one disk together."""
    disks: dict[int, tuple[Path, list[str], float]] = {}
    findings = []
    for name, in_all in needed_bytes(config).items():
        path = Path(getattr(config.paths, name))
        place = _existing(path)
        if not os.access(place, os.W_OK) and not (name == "nsd" and config.nsd.source == "local"):
            advice = f"choose another folder, e.g. paths: {{{name}: /scratch/{os.environ.get('USER', 'you')}/{name}}}"
            findings.append(Finding("problem", "disk", f"paths.{name}: {place} cannot be written", advice))
        needed = max(0.0, in_all - sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
        device = place.stat().st_dev
        first, names, sum_ = disks.get(device, (place, [], 0.0))
        disks[device] = (first, [*names, f"{name} {needed / GB:.1f}"], sum_ + needed)
    for place, names, needed in disks.values():
        free = shutil.disk_usage(place).free
        found = f"{free / GB:.0f} GB free at {place}, about {needed / GB:.1f} GB more needed ({', '.join(names)})"
        if free < needed:
            findings.append(Finding("problem", "disk", found, "make room, or put some of paths on another disk"))
        else:
            findings.append(Finding("ok", "disk", found))
    return findings


def _weights(config: "Config") -> list[Finding]:
    from neuropictor.models.population import AUTOENCODER, population_file

    source = config.backbone.source
    if source != "miniature" and not config.backbone.revision:  # others are shipped, or fetched
        try:
            check_backbone(source)
        except FileNotFoundError as error:
            return [Finding("problem", "weights", str(error), "get the backbone, or change the settings as said")]
    findings = [Finding("ok", "weights", f"backbone {source}")]
    started = [stage for stage in ("calibrate", "pretrain") if getattr(config, stage).init == "population"]
    try:
        if started:
            population_file(source, AUTOENCODER)
    except FileNotFoundError:
        changes = ", ".join(f"{stage}: {{init: scratch}}" for stage in started)
        found = f"{source} has no start weights, which {' and '.join(started)} ask for (init: population)"
        findings.append(Finding("problem", "weights", found, changes))
    return findings


def _cluster(config: "Config") -> list[Finding]:
    if not shutil.which("sbatch"):
        return []
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        advice = "pip install snakemake-executor-plugin-slurm (in the environment that calls snakemake)"
        return [Finding("warning", "cluster", "Slurm is here, but not Snakemake's plugin for it", advice)]
    return [Finding("ok", "cluster", "Slurm: snakemake --workflow-profile profiles/slurm (docs/cluster.md)")]
