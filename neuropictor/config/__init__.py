"""The configuration: one model a section, checked as a whole before anything runs.

The models (in ``config_sections`` and ``config_evaluation``) are the only place where a setting's type, range and
default are written;
``config.schema.json`` and ``docs/config.md`` are made from them (``neuropictor config --write``), and ``config.yaml``
is tested against them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from neuropictor.config import extra
from neuropictor.config import text as config_text
from neuropictor.config.drawing import ControlsConfig, SampleConfig
from neuropictor.config.evaluation import EvaluateConfig, WeightsConfig
from neuropictor.config.generalise import GeneraliseConfig
from neuropictor.config.runtime import RuntimeConfig
from neuropictor.config.sections import (
    AlignConfig,
    BackboneConfig,
    CalibrateConfig,
    EncoderConfig,
    GuidanceAdaptationConfig,
    MosaicConfig,
    NsdConfig,
    PathsConfig,
    PreprocessConfig,
    ReconstructConfig,
    RefineConfig,
    Section,
    SimulateConfig,
    SubjectsConfig,
)
from neuropictor.config.test_sets import FEWEST_SHARED, check_betas
from neuropictor.config.types import Subject

__all__ = [
    "AlignConfig",
    "BackboneConfig",
    "CalibrateConfig",
    "Config",
    "ConfigError",
    "ControlsConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "GeneraliseConfig",
    "GuidanceAdaptationConfig",
    "MosaicConfig",
    "NsdConfig",
    "PathsConfig",
    "PreprocessConfig",
    "ReconstructConfig",
    "RefineConfig",
    "RuntimeConfig",
    "SampleConfig",
    "Section",
    "SimulateConfig",
    "Subject",
    "SubjectsConfig",
    "WeightsConfig",
    "load",
    "read",
]


class ConfigError(ValueError):
    """The configuration cannot be used; the message has the key, the value found, what is allowed and an example."""


Settings = TypeVar("Settings", bound=Section)
ExperimentName = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")]


class Config(Section):
    """All sections."""

    experiment: ExperimentName = Field(
        default="",
        description="name of this experiment: its results lie in paths.results/experiments, in a folder of that name,"
        " beside those of others; empty: none, results lie in paths.results itself",
        examples=["no-alignment"],
    )
    subjects: SubjectsConfig = Field(default=SubjectsConfig(), description="who takes part")
    paths: PathsConfig = Field(default=PathsConfig(), description="where files lie")
    nsd: NsdConfig = Field(default=NsdConfig(), description="which data are used")
    mosaic: MosaicConfig = Field(
        default=MosaicConfig(), description="where people of MOSAIC come from (subjects.table)"
    )
    simulate: SimulateConfig = Field(
        default=SimulateConfig(), description="the stand-in for NSD (nsd.source: simulated)"
    )
    preprocess: PreprocessConfig = Field(default=PreprocessConfig(), description="from betas to responses")
    backbone: BackboneConfig = Field(default=BackboneConfig(), description="the frozen latent diffusion model")
    encoder: EncoderConfig = Field(default=EncoderConfig(), description="sizes of the calibrated encoder")
    calibrate: CalibrateConfig = Field(default=CalibrateConfig(), description="stage 1: the encoder as an autoencoder")
    align: AlignConfig = Field(default=AlignConfig(), description="a linear map of each subject, for the networks")
    pretrain: ReconstructConfig = Field(default=ReconstructConfig(), description="stage 2: all networks, many subjects")
    refine: RefineConfig = Field(default=RefineConfig(), description="stage 3: all networks, one subject")
    sample: SampleConfig = Field(default=SampleConfig(), description="reconstruction of the test images")
    evaluate: EvaluateConfig = Field(default=EvaluateConfig(), description="scores, baselines and figures")
    controls: ControlsConfig = Field(default=ControlsConfig(), description="controls, and images steered on purpose")
    generalise: GeneraliseConfig = Field(default=GeneraliseConfig(), description="further test sets, and new people")
    weights: WeightsConfig = Field(default=WeightsConfig(), description="where published networks come from")
    runtime: RuntimeConfig = Field(default=RuntimeConfig(), description="how it runs")

    def results_folder(self) -> str:
        """Return the folder of this experiment's results."""
        return f"{self.paths.results}/experiments/{self.experiment}" if self.experiment else self.paths.results

    def logs_folder(self) -> str:
        """Return the folder of its logs, relative to the working directory."""
        return f"logs/experiments/{self.experiment}" if self.experiment else "logs"

    def backbone_folder(self) -> str:
        """Return the backbone that stages load: ``miniature`` or a folder."""
        return self._fetched(self.backbone.source, self.backbone.revision)

    def target_folder(self) -> str:
        """Return the folder of the semantic loss's text tower; empty for the backbone's own."""
        return self._fetched(self.backbone.target_text_encoder, self.backbone.target_revision)

    def captions_of(self, subject: str) -> str:
        """Return what is done for a subject's images without captions: nothing, ``none``, or a model's folder."""
        repository, _, revision = self.subjects.people[subject].captions.partition("@")
        return self._fetched(repository, revision)

    def _fetched(self, source: str, revision: str) -> str:
        """Return the folder of a repository's fetched files, or the source itself."""
        return f"{self.paths.weights}/{source.replace('/', '--')}/{revision}" if revision else source

    @model_validator(mode="after")
    def _check_shares(self) -> "Config":
        for name in ("calibrate", "pretrain", "refine"):
            size, processes = getattr(self, name).batch_size, self.runtime.processes
            if size % processes:
                raise ValueError(
                    f"{name}.batch_size is {size}, of which {processes} processes (runtime.processes) cannot take equal"
                    f" shares; allowed: a multiple, e.g. batch_size: {processes * max(1, round(size / processes))}"
                )
        return self

    @model_validator(mode="after")
    def _check_folders(self) -> "Config":
        nsd = Path(self.paths.nsd).absolute()
        for name in ("mosaic", "prepared", "results"):
            if Path(getattr(self.paths, name)).absolute().is_relative_to(nsd):
                raise ValueError(
                    f"paths.{name} is {getattr(self.paths, name)}, in paths.nsd, {self.paths.nsd}, whose files are"
                    f" NSD's own; allowed: a folder elsewhere, e.g. {name}: {PathsConfig.model_fields[name].default}"
                )
        return self

    @model_validator(mode="after")
    def _check_simulation(self) -> "Config":
        if self.nsd.source == "simulated":
            if self.nsd.beta_version != "betas_fithrf_GLMdenoise_RR":
                raise ValueError(
                    f"nsd.beta_version is {self.nsd.beta_version}, but nsd.source: simulated makes only one; allowed:"
                    " beta_version: betas_fithrf_GLMdenoise_RR, or source: local"
                )
            training = self.simulate.sessions * self.simulate.trials_per_session // 3 - self.simulate.shared_images
            if self.preprocess.validation_images >= training:
                raise ValueError(
                    f"preprocess.validation_images is {self.preprocess.validation_images}, but a simulated subject"
                    f" has {training} images besides those of the test; allowed: fewer, e.g. {max(1, training // 20)}"
                )
        return self

    @model_validator(mode="after")
    def _check_test_sets(self) -> "Config":
        check_betas(self.nsd.test_sets, self.nsd.beta_version)
        few = self.nsd.source == "simulated" and self.simulate.shared_images < FEWEST_SHARED
        if few and "imagery" in self.nsd.test_sets:
            raise ValueError(
                f"simulate.shared_images is {self.simulate.shared_images}, but nsd.test_sets has imagery, whose set B"
                f" is of {FEWEST_SHARED} of them; allowed: at least as many, e.g. shared_images: 12"
            )
        return self

    @model_validator(mode="after")
    def _check_people(self) -> "Config":
        for label in self.from_nsd():
            if not re.fullmatch("0[1-8]", label):
                raise ValueError(
                    f"subjects has {label}, who is none of NSD's, and nsd.source is {self.nsd.source}; allowed: 1 to 8,"
                    " or people of other data sets in subjects.table, or nsd: {source: prepared} for imported stores"
                )
        return self

    @model_validator(mode="after")
    def _check_balance(self) -> "Config":
        for name in ("calibrate", "pretrain"):
            known = self.subjects.table or (name == "calibrate" and self.calibrate.extra)
            if getattr(self, name).balance == "data_sets" and not known:
                raise ValueError(
                    f"{name}.balance is data_sets, but without subjects.table nothing says of which data set people"
                    f" are; allowed: such a table (docs/own_data.md), or {name}: {{balance: people}}"
                )
        return self

    def data_sets(self, stage: str) -> dict[str, str] | None:
        """Return the data set of each subject who pretrains, where a training stage balances by it, else None."""
        if getattr(self, stage).balance != "data_sets":
            return None
        return {label: self.subjects.people[label].dataset for label in self.subjects.pretrain}

    def from_nsd(self) -> list[str]:
        """Return the labels of those whose stores are made from NSD's files, real or simulated, ascending."""
        return self.subjects.of_nsd() if self.nsd.source != "prepared" else []

    def tested_further(self) -> list[str]:
        """Return the labels of those whom further test sets test (nsd.test_sets)."""
        of_nsd = self.from_nsd()
        return [label for label in self.subjects.refine if label in of_nsd][: self.generalise.subjects]

    def preprocess_of(self, subject: str) -> PreprocessConfig:
        """Return the settings of one subject's preprocessing, with its own number of `training_sessions`.

        Of people of MOSAIC, whose responses are z-scores without sessions, what has no effect has its default, so that
        it is no reason to fetch them again.
        """
        sessions = [self.preprocess.training_sessions]
        if subject not in self.subjects.pretrain:
            sessions.append(self.preprocess.refine_sessions)
        person = self.subjects.people.get(subject)
        if person and person.mosaic:
            return PreprocessConfig(clip=self.preprocess.clip, image_size=self.preprocess.image_size)
        if person and person.sessions:
            sessions.append(person.sessions)
        fewer = min(sessions)
        return self.preprocess.model_copy(update={"training_sessions": fewer})


def load(settings: Mapping[str, Any], model: type[Settings] = Config) -> Settings:
    """Check settings as read from YAML and return them typed.

    Parameters
    ----------
    settings
        Nested mapping with the sections of the model; missing keys have their defaults.
    model
        Their model.

    Raises
    ------
    ConfigError
        If anything is wrong: all problems at once, each with key, value found, what is allowed, and an example.
    """
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        problems = [config_text.explain(problem, model) for problem in error.errors(include_url=False)]
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    raise ConfigError(
        "\n".join([f"The configuration has {count}:", *(f"  - {problem}" for problem in dict.fromkeys(problems))])
    )


def check_imported(settings: Config) -> None:
    """Make sure that stores which no stage makes exist: with nsd.source: prepared, and of people without a path.

    Raises
    ------
    ConfigError
        If a subject lacks one; the message says how to import it.
    """
    for subject, person in settings.subjects.people.items():
        if person.path or subject in settings.from_nsd():
            continue
        for name, command in (("responses.h5", "import-betas"), ("stimuli.h5", "import-images")):
            path = Path(settings.paths.prepared) / f"sub-{subject}" / name
            if not path.is_file():
                raise ConfigError(
                    f"no stage makes the stores of subject {subject}, and {path} is missing. Allowed: both stores of"
                    f" every subject, imported or made from NSD before, e.g. neuropictor {command} --out {path};"
                    " docs/own_data.md tells how. With nsd.source: simulated, local or fetch those of NSD are made."
                )


def check_extra(settings: Config) -> int:
    """Make sure that there are files of all that calibrate.extra names, and return how many time series.

    Raises
    ------
    ConfigError
        If an entry names none, or files that it cannot take.
    """
    try:
        series = [extra.series_files(entry) for entry in settings.calibrate.extra if not extra.response_stores(entry)]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return sum(map(len, series))


def check_judge(settings: Config) -> None:
    """Make sure that there is a judge of images, before days of training: Stable Diffusion has no image tower.

    Raises
    ------
    ConfigError
        If the backbone's own image tower is to judge and its folder, if it exists, has none.
    """
    folder = Path(settings.backbone_folder())
    if (
        settings.evaluate.networks == "miniature"
        and (folder / "unet").is_dir()
        and not (folder / "image_encoder").is_dir()
    ):
        raise ConfigError(
            f"evaluate.networks is miniature, but the backbone in {folder} has no image_encoder/ that could judge."
            " Allowed: evaluate: {networks: published}, where CLIP judges, or a backbone with an image tower"
        )


def read(*paths: str | Path, model: type[Settings] = Config) -> Settings:
    """Read and check YAML files, merged in order; missing keys have their defaults.

    Raises
    ------
    ConfigError
        As `load`; also for a file that is not a YAML mapping.
    """
    settings: dict[str, Any] = {}
    for path in paths:
        _lay_over(settings, read_file(path))
    return load(settings, model)


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises
    ------
    ConfigError
        If it is no YAML mapping, has a key twice, of which the first would be lost, or holds code for Snakemake.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            lines: dict[tuple[str, str], int] = {}
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                line, first = key.start_mark.line + 1, lines.get((key.tag, key.value))
                if first:
                    raise ConfigError(
                        f"{path} has {key.value} in line {first} and again in line {line}, and the first would be lost."
                        f" Allowed: each key once, e.g. all of {key.value} below line {first}"
                    )
                lines[key.tag, key.value] = line
            return super().construct_mapping(node, deep)

    try:
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.load(text.expandtabs() if text.startswith("{") else text, Loader)  # JSON may have tabs
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}; allowed: text, e.g. sample: {{steps: 25}}") from None
    if not isinstance(content, dict):
        shown = config_text.show(content)
        raise ConfigError(f"{path} holds {shown}; a mapping of sections is expected, e.g. sample: {{steps: 25}}")
    if "__use_yte__" in content:
        raise ConfigError(
            f"{path} has __use_yte__, by which Snakemake runs what the file holds as a program, with your rights, even"
            " in a dry run. Allowed: settings alone, e.g. sample: {steps: 25}; if Snakemake has read this file, look at"
            " what it did (docs/security.md)"
        )
    return content


def _lay_over(settings: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    """Merge as Snakemake merges its --configfile: mappings key by key, all else replaced."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(settings.get(key), dict):
            _lay_over(settings[key], value)
        else:
            settings[key] = value
