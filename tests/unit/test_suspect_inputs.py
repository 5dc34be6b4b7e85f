"""Damaged files are refused by name, by every stage that reads them, and nothing is unpickled."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_backbone import TINY_ENCODER
from small_stores import write_samples

from neuropictor.config import (
    AlignConfig,
    CalibrateConfig,
    EncoderConfig,
    EvaluateConfig,
    NsdConfig,
    PreprocessConfig,
    ReconstructConfig,
    RefineConfig,
    RuntimeConfig,
    SampleConfig,
    SimulateConfig,
)
from neuropictor.data.alignment import align_subject, make_space
from neuropictor.data.latents import cache_latents
from neuropictor.data.preprocess import preprocess_stimuli, preprocess_subject
from neuropictor.evaluation.baselines import fit_baselines
from neuropictor.evaluation.evaluate import evaluate
from neuropictor.evaluation.tables import FITTED
from neuropictor.fetching import manifest
from neuropictor.nsd import keys
from neuropictor.records.record import RunRecord, record_path
from neuropictor.report.figures import contact_sheet, response_map
from neuropictor.sampling import sample_subject
from neuropictor.simulation.writer.nsd import write_images, write_subject
from neuropictor.training.calibrate import calibrate
from neuropictor.training.reconstruct import pretrain, refine

BETAS = "betas_fithrf_GLMdenoise_RR"
SHORT = {"steps": 2, "batch_size": 4, "warmup": 1, "validation_interval": 2}
RUNTIME = RuntimeConfig(device="cpu", threads=1, track_code=False, tensorboard=False)
ALIGN = AlignConfig(tokens=2, text_components=3, latent_components=4, folds=2)
SAMPLES = ("refined", "pretrained", "ridge")


class Stages:
    """Each stage on the files of a folder; what they write goes where it is told."""

    def __init__(self, folder: Path, backbone: Path, out: Path):
        self.folder, self.backbone, self.out = folder, backbone, out
        self.responses, self.stimuli, self.latents, self.components = (
            [folder / f"sub-0{subject}" / f"{name}.h5" for subject in (1, 2)]
            for name in ("responses", "stimuli", "latents", "components")
        )
        self.samples = {model: folder / "sample" / f"{model}.h5" for model in SAMPLES}

    def preprocess_subject(self) -> None:
        config = PreprocessConfig(validation_images=2)
        preprocess_subject(self.folder / "nsd", 1, config, NsdConfig(), self.out / "responses.h5")

    def preprocess_stimuli(self) -> None:
        preprocess_stimuli(self.folder / "nsd", [1], PreprocessConfig(), NsdConfig(), self.out / "stimuli.h5")

    def cache_latents(self) -> None:
        cache_latents(self.stimuli[0], self.backbone, RUNTIME, self.out / "latents.h5")

    def calibrate(self) -> None:
        stage = (CalibrateConfig(init="scratch", **SHORT), EncoderConfig(**TINY_ENCODER), RUNTIME)
        calibrate(self.responses, self.backbone, *stage, self.out / "autoencoder.safetensors")

    def align_space(self) -> None:
        make_space(self.latents, self.responses, None, ALIGN, self.out / "space.safetensors")

    def align(self) -> None:
        align_subject(
            self.responses[0], self.latents[0], self.folder / "space.safetensors", ALIGN, self.out / "components.h5"
        )

    def pretrain(self) -> None:
        files = (self.responses, self.latents, self.backbone, self.folder / "calibrate/autoencoder.safetensors")
        config = ReconstructConfig(init="scratch", **SHORT)
        pretrain(*files, config, RUNTIME, self.out / "pretrain", self.components, 2)

    def refine(self) -> None:
        files = (self.responses[0], self.latents[0], self.backbone, self.folder / "pretrain")
        refine(*files, RefineConfig(**SHORT), RUNTIME, self.out / "refine", self.components[0])

    def sample(self) -> None:
        made = (SampleConfig(steps=1), RUNTIME, "refined", self.out / "refined.h5", self.components[0])
        sample_subject(self.folder / "pretrain", self.responses[0], *made)

    def baselines(self) -> None:
        out = {name: self.out / f"{name}.h5" for name in FITTED}
        files = (self.responses[0], self.stimuli[0], self.latents[0], self.backbone)
        fit_baselines(*files, EvaluateConfig(), SampleConfig(steps=1), RUNTIME, out)

    def evaluate(self) -> None:
        config = EvaluateConfig(bootstrap=20, permutations=99)
        evaluate({"01": self.samples}, self.stimuli, self.backbone, config, RUNTIME, self.out / "metrics.csv")

    def contact_sheet(self) -> None:
        contact_sheet(self.samples, self.stimuli[0], EvaluateConfig(), self.out / "sheet.png")

    def response_map(self) -> None:
        response_map(self.responses[0], self.out / "map.png")


PARTS = ("encoder", "guiding", "manipulation", "alignment")
PIPELINE = ["model_index.json", *(f"{part}/diffusion_pytorch_model.safetensors" for part in PARTS)]
#: Files by the stages that read them.
READ = {
    "sub-01/responses.h5": "calibrate align_space align pretrain refine sample baselines response_map",
    "sub-01/stimuli.h5": "cache_latents baselines evaluate contact_sheet",
    "sub-01/latents.h5": "align_space align pretrain refine baselines",
    "calibrate/autoencoder.safetensors": "pretrain",
    "space.safetensors": "align",
    "sub-01/components.h5": "pretrain refine sample",
    **{f"pretrain/{name}": "refine sample" for name in PIPELINE},
    **{f"sample/{name}.h5": "evaluate contact_sheet" for name in SAMPLES},
    f"nsd/{keys.betas(1, 1, 'lh', BETAS)}": "preprocess_subject",
    f"nsd/{keys.EXPERIMENT_DESIGN}": "preprocess_subject preprocess_stimuli",
    f"nsd/{keys.STIMULI}": "preprocess_stimuli",
    f"nsd/{keys.STIMULUS_INFO}": "preprocess_stimuli",
    f"nsd/{keys.annotations('captions', 'train2017')}": "preprocess_stimuli",
}


def arrays(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """Return a file of arrays with its largest floating (else largest) one changed; others are left as they are."""
    copy = path.with_name(f"changed{path.suffix}")
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        name = max(tensors, key=lambda name: tensors[name].size)
        save_file(tensors | {name: np.ascontiguousarray(change(tensors[name]))}, copy)
    elif path.suffix in (".h5", ".hdf5"):
        shutil.copy(path, copy)
        with h5py.File(copy, "r+") as file:
            kept = [name for name in file if file[name].dtype.kind in "fu" and not file[name].is_virtual]
            name = "components" if "components" in file else max(kept, key=lambda name: file[name].size)
            values = change(file[name][()])
            del file[name]
            file[name] = values
    else:
        copy.write_bytes(path.read_bytes()[1:])
    content = copy.read_bytes()
    copy.unlink()
    return content


def flipped(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    return bytes(content)


class Trap:
    """Unpickling it would leave a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


DAMAGES: dict[str, Callable[[Path], bytes]] = {
    "truncated": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "empty": lambda path: b"",
    "bit flipped": flipped,
    "wrong shape": lambda path: arrays(path, lambda values: values[..., :-1]),
    "wrong type": lambda path: arrays(path, lambda values: values.astype(np.int16)),
    "NaN": lambda path: arrays(path, lambda values: np.full(values.shape, np.nan, np.float32)),
    "pickle": lambda path: pickle.dumps(Trap(path.parents[-2] / "unpickled")),
}
#: What cannot be told from a file alone, without the record beside it: other numbers of the same kind, other sizes that
#: go together; and numbers that a stage does not read.
UNSEEN = {"bit flipped": "", "wrong shape": "latents components"}
UNREAD = {"sub-01/responses.h5": "align_space"}


@pytest.fixture(scope="module")
def folder(tiny_prepared, tiny_backbone, tmp_path_factory):
    """A folder with one file of each kind, and the records of the stages that wrote them."""
    folder = tmp_path_factory.mktemp("suspect")
    made = Stages(folder, tiny_backbone, folder)
    for subject, (responses, stimuli, latents) in enumerate(
        zip(made.responses, made.stimuli, made.latents, strict=True), start=1
    ):
        responses.parent.mkdir()
        shutil.copy(tiny_prepared / f"sub-0{subject}/responses.h5", responses)
        shutil.copy(tiny_prepared / "stimuli.h5", stimuli)
        for path in (responses, stimuli):
            with RunRecord(record_path(path), "preprocess", outputs=[path]):
                pass
        cache_latents(stimuli, tiny_backbone, RUNTIME, latents)
    made.align_space()
    for responses, latents, components in zip(made.responses, made.latents, made.components, strict=True):
        align_subject(responses, latents, folder / "space.safetensors", ALIGN, components)
    made.out = folder / "calibrate"
    made.calibrate()
    made.out = folder
    made.pretrain()
    seen = np.zeros((3, 1, 8, 8, 3), np.uint8)
    with h5py.File(made.responses[0]) as file:
        tested = np.unique(file["nsd_id"][:][file["split"][:] == 2])
    for model, path in made.samples.items():
        write_samples(path, model, "01", seen, tested.tolist())
        with RunRecord(record_path(path), "sample", outputs=[path]):
            pass
    simulate = SimulateConfig(sessions=1, trials_per_session=30, shared_images=3, image_size=64)
    write_images(folder / "nsd", simulate)
    write_subject(folder / "nsd", 1, simulate)
    return folder


@pytest.fixture
def stages(folder, tiny_backbone, tmp_path):
    return Stages(folder, tiny_backbone, tmp_path / "out")


def replaced(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def refusals(stages: Stages, name: str, damages: list[str], readers: list[str]) -> None:
    """Damage a file in all ways, and see every stage that reads it refuse it by name and write nothing."""
    path, mark = stages.folder / name, stages.folder / "unpickled"
    whole = path.read_bytes()
    for damage in damages:
        content = pickle.dumps(Trap(mark)) if damage == "pickle" else DAMAGES[damage](path)
        assert content != whole
        replaced(path, content)
        try:
            for stage in readers:
                with pytest.raises((ValueError, FileNotFoundError)) as refusal:
                    getattr(stages, stage)()
                assert str(path) in str(refusal.value), (damage, stage, refusal.value)
        finally:
            replaced(path, whole)
    assert not mark.exists()


@pytest.mark.parametrize("name", READ)
def test_damage_is_refused_by_name_by_every_stage_that_reads_it(stages, name):
    refusals(stages, name, list(DAMAGES), READ[name].split())
    assert not [file for file in stages.out.rglob("*") if file.is_file() and "checkpoints" not in file.parts]


@pytest.mark.parametrize("name", [name for name in READ if name.endswith(".h5")])
def test_stores_without_a_record_are_refused_where_shape_type_or_numbers_are_wrong(stages, name):
    path = stages.folder / name
    records = {file: file.read_bytes() for file in path.parent.glob("*run.json")}
    for file in records:
        file.unlink()
    unseen = {damage for damage, stores in UNSEEN.items() if not stores or path.stem in stores}
    readers = [stage for stage in READ[name].split() if stage != UNREAD.get(name)]
    try:
        refusals(stages, name, [damage for damage in DAMAGES if damage not in unseen], readers)
    finally:
        for file, content in records.items():
            file.write_bytes(content)


def test_simulated_files_are_listed_with_their_checksums(folder):
    listed = manifest.read(folder / "nsd")
    for key in (keys.STIMULI, keys.EXPERIMENT_DESIGN, keys.betas(1, 1, "rh", BETAS)):
        assert listed[key].size == (folder / "nsd" / key).stat().st_size


def test_a_damaged_record_is_named(stages):
    record = stages.folder / "sub-01/responses.run.json"
    whole = record.read_bytes()
    replaced(record, whole[:-30])
    try:
        with pytest.raises(ValueError, match=r"responses\.run\.json is damaged: .* run snakemake again"):
            stages.response_map()
    finally:
        replaced(record, whole)
