import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_backbone import make_tiny_backbone
from small_pipeline import make_pipeline, sample

from neuropictor.models import pipeline_folder
from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.backbone import Backbone
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.pipeline_folder import pipeline_paths, read_networks

PARTS = ["encoder", "guiding", "manipulation", "null_context"]


@pytest.fixture
def backbone(tmp_path):
    return make_tiny_backbone(tmp_path / "backbone")


@pytest.fixture
def pipeline(backbone):
    return make_pipeline(Backbone.load(backbone))


def load(*args, **options):
    pipe = NeuroPictorPipeline.from_pretrained(*args, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_same(one, other):
    maps = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(sample(one, maps), sample(other, maps), atol=1e-4, rtol=1e-4)
    for name, part in one.components.items():
        if isinstance(part, torch.nn.Module):
            state = other.components[name].state_dict()
            assert all(torch.equal(tensor, state[key]) for key, tensor in part.state_dict().items())


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_trained_parts_alone_name_their_backbone(pipeline, backbone, tmp_path):
    pipeline.save_trained(tmp_path / "refined", backbone)
    weights = [f"{part}/{name}" for part in PARTS for name in ("config.json", "diffusion_pytorch_model.safetensors")]
    assert set(files(tmp_path / "refined")) == {*weights, "model_index.json", "scheduler/scheduler_config.json"}
    assert_same(load(tmp_path / "refined"), pipeline)


def test_a_complete_folder_needs_no_backbone(pipeline, backbone, tmp_path):
    pipeline.save_trained(tmp_path / "refined", backbone)
    load(tmp_path / "refined").save_pretrained(tmp_path / "complete")
    shutil.rmtree(backbone)
    assert "_backbone" not in json.loads((tmp_path / "complete" / "model_index.json").read_text())
    assert_same(load(tmp_path / "complete"), pipeline)
    with pytest.raises(ValueError, match=r"is complete and names none; allowed: no backbone, for example"):
        load(tmp_path / "complete", backbone)


def test_folders_moved_together_find_each_other(pipeline, backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline.save_trained("here/refined", "backbone")
    (tmp_path / "there").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "there" / "here")
    shutil.move(backbone, tmp_path / "there" / "backbone")
    load(tmp_path / "there" / "here" / "refined")
    shutil.move(tmp_path / "there" / "backbone", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"unet/ is looked for in .* backbone='/data/backbone'"):
        load(tmp_path / "there" / "here" / "refined")
    assert_same(load(tmp_path / "there" / "here" / "refined", backbone=tmp_path / "elsewhere"), pipeline)


def test_a_changed_backbone_is_refused(pipeline, backbone, tmp_path):
    pipeline.save_trained(tmp_path / "refined", backbone)
    (backbone / "unet" / "diffusion_pytorch_model.fp16.safetensors").touch()  # another variant changes nothing
    load(tmp_path / "refined")
    path = backbone / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_in.bias"] += 1e-3
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"backbone: unet in .* is not the one .* for example backbone="):
        load(tmp_path / "refined")


def test_pickled_weights_are_not_read(pipeline, backbone, tmp_path):
    (backbone / "unet" / "diffusion_pytorch_model.safetensors").rename(
        backbone / "unet" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(FileNotFoundError, match="weights as safetensors"):
        pipeline.save_trained(tmp_path / "refined", backbone)


@pytest.mark.parametrize("part", ["encoder", "guiding", "null_context", "vae"])
def test_parts_of_a_complete_folder_hold_exactly_their_tensors(pipeline, part, tmp_path):
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({key: tensor for key, tensor in tensors.items() if key != name} or {"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"{part}/{path.name}: .* 1 missing, such as {name}"):
        load(tmp_path)
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match=rf"{part}/{path.name} is missing .*weights as safetensors"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"_backbone": {"source": "../../elsewhere", "checksums": {}}},  # compares nothing, and reads anything
        {"_backbone": {"source": 3, "checksums": {"unet": "", "vae": ""}}},
        {"_backbone": "miniature"},
        {"encoder": "evil"},
        {"encoder": ["evil"]},
    ],
)
def test_an_index_that_says_something_else_is_refused(pipeline, backbone, change, tmp_path):
    pipeline.save_trained(tmp_path / "refined", backbone)
    path = tmp_path / "refined" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        ValueError, match=r"model_index.json: not the index of a pipeline; allowed: .* checksums of unet"
    ):
        load(tmp_path / "refined")
    path.write_text("[" * 10**5)
    with pytest.raises(ValueError, match="not the index of a pipeline"):
        read_networks(tmp_path / "refined")


def test_written_whole_or_not_at_all(pipeline, backbone, tmp_path, monkeypatch):
    pipeline.save_trained(tmp_path, backbone)
    written = []
    original = pipeline_folder.atomic_path

    def fail_at_the_third(path):
        written.append(path)
        if len(written) == 3:
            raise OSError("disk full")
        return original(path)

    monkeypatch.setattr(pipeline_folder, "atomic_path", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        pipeline.save_trained(tmp_path, backbone)
    with pytest.raises(FileNotFoundError, match=r"holds no model_index.json; .* for example results/refine/sub-01"):
        load(tmp_path)
    monkeypatch.undo()
    pipeline.save_trained(tmp_path, backbone)
    load(tmp_path)
    assert not [name for name in files(tmp_path) if "partial" in name]


def test_parts_that_are_gone_leave_no_files(backbone, tmp_path):
    frozen = Backbone.load(backbone)
    make_pipeline(frozen, alignment=AlignmentNetwork(5, 2, 16)).save_trained(tmp_path, backbone)
    assert read_networks(tmp_path).alignment is not None
    assert {path.name for path in pipeline_paths(tmp_path)} == {*PARTS, "alignment", "scheduler", "model_index.json"}
    make_pipeline(frozen).save_trained(tmp_path, backbone)
    assert read_networks(tmp_path).alignment is None
    assert not (tmp_path / "alignment").exists()


def test_shipped_start_weights_are_a_pipeline():
    from neuropictor.models.population import population_pipeline

    pipe = load(population_pipeline("miniature"))
    # The shipped context was computed on another processor: its text tower's sums end in other last digits.
    torch.testing.assert_close(pipe.null_context(), Backbone.load().null_context(), atol=1e-5, rtol=1e-5)
    size = pipe.encoder.config.image_size
    components = torch.zeros(1, pipe.alignment.config.n_components)
    result = pipe(torch.zeros(1, 1, size, size), components=components, num_inference_steps=2)
    assert result.images[0].size == (64, 64)
