import csv
import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from small_backbone import TINY_ENCODER, make_tiny_backbone
from small_task import SHORT, batch, make_task

from neuropictor.config import CalibrateConfig, EncoderConfig, GuidanceAdaptationConfig, ReconstructConfig, RefineConfig
from neuropictor.data.responses import ResponseStore
from neuropictor.data.rows import Rows
from neuropictor.models.backbone import Backbone
from neuropictor.models.networks import autoencoder_start, load_autoencoder, save_autoencoder
from neuropictor.models.pipeline_folder import read_networks
from neuropictor.training import reconstruct
from neuropictor.training.calibrate import calibrate
from neuropictor.training.loop import Recipe
from neuropictor.training.reconstruct import _check_tests, pretrain, refine


@pytest.fixture(scope="module")
def responses(tiny_prepared):
    return [tiny_prepared / f"sub-0{subject}" / "responses.h5" for subject in (1, 2)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory, responses, tiny_components, tiny_latents, tiny_backbone):
    """Calibrate, pretrain and refine once."""
    from neuropictor.config import RuntimeConfig

    runtime = RuntimeConfig(device="cpu", threads=1, checkpoint_interval=4, log_interval=2, track_code=True)
    out = tmp_path_factory.mktemp("results")
    files = {
        "autoencoder": out / "calibrate" / "autoencoder.safetensors",
        "pretrained": out / "pretrain",
        "refined": out / "refine" / "sub-01",
    }
    config = CalibrateConfig(init="scratch", **SHORT)
    calibrate(responses, tiny_backbone, config, EncoderConfig(**TINY_ENCODER), runtime, files["autoencoder"])
    config = ReconstructConfig(init="scratch", mapper_rate=2.0, semantic_steps=3, **SHORT)
    aligned = {"components": tiny_components, "aligned_tokens": 2}
    files_in = (responses, [tiny_latents], tiny_backbone)
    pretrain(*files_in, files["autoencoder"], config, runtime, files["pretrained"], **aligned)
    adaptation = GuidanceAdaptationConfig(steps=2)
    config = RefineConfig(guidance_adaptation=adaptation, **SHORT)
    start, out = files["pretrained"], files["refined"]
    refine(responses[0], tiny_latents, tiny_backbone, start, config, runtime, out, tiny_components[0])
    return files


@pytest.mark.parametrize(("name", "steps"), [("autoencoder", 6), ("pretrained", 6), ("refined", 8)])
def test_every_stage_leaves_weights_history_and_record(chain, name, steps):
    folder = chain[name] if chain[name].is_dir() else chain[name].parent
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert int(rows[-1]["step"]) == steps
    names = {"loss"} if name == "autoencoder" else {"loss", "diffusion", "semantic"}
    assert {row["name"] for row in rows} == names
    record = json.loads((folder / "run.json").read_text())
    assert record["results"]["images"] > 0
    assert record["results"]["validation_loss"] == pytest.approx(
        float(next(row["value"] for row in reversed(rows) if row["name"] == "loss")), rel=1e-4
    )
    assert not (folder / "checkpoints").exists()


def test_weights_pass_from_stage_to_stage(chain):
    autoencoder = load_autoencoder(chain["autoencoder"])
    pretrained, refined = read_networks(chain["pretrained"]), read_networks(chain["refined"])
    assert autoencoder.encoder.config.width == pretrained.encoder.config.width == 16
    assert pretrained.alignment.config.n_components == refined.alignment.config.n_components == 7
    assert pretrained.guiding.config.n_tokens == pretrained.encoder.n_tokens + 2
    assert pretrained.guiding.config.variant == "pretrain"
    assert refined.guiding.config.variant == "refine"
    # Pretraining leaves the extra branch at its zero start, refining moves it.
    assert not pretrained.guiding.extra_out.weight.any()
    assert refined.guiding.extra_out.weight.any()
    assert refined.manipulation.hint_mapper.out.weight.any()


@pytest.fixture
def task(tiny_backbone):
    torch.manual_seed(0)
    backbone = Backbone.load(tiny_backbone)
    return make_task(backbone)


def test_loss_is_the_mean_squared_error_of_the_noise_plus_the_weighted_semantic_loss(task):
    values = task.losses(task.module, batch(), None)
    data = batch()
    abar = task.scheduler.alphas_cumprod[data["timesteps"]][:, None, None, None]
    noisy = abar.sqrt() * data["latents"] + (1 - abar).sqrt() * data["noise"]
    context, _ = task.module.guiding(task.module.encoder(task.maps(data["responses"])))
    predicted = task.unet(noisy, data["timesteps"], context).sample  # new networks: zero residuals
    torch.testing.assert_close(values["diffusion"], (predicted - data["noise"]).square().mean())
    torch.testing.assert_close(values["semantic"], (context - data["text"]).square().mean())
    torch.testing.assert_close(values["loss"], values["diffusion"] + task.config.semantic_weight * values["semantic"])


def test_velocity_backbones_are_trained_on_velocity(tmp_path):
    backbone = Backbone.load(make_tiny_backbone(tmp_path, "v_prediction"))
    task, data = make_task(backbone), batch()
    abar = task.scheduler.alphas_cumprod[data["timesteps"]][:, None, None, None]
    expected = abar.sqrt() * data["noise"] - (1 - abar).sqrt() * data["latents"]
    torch.testing.assert_close(task._target(data["latents"], data["noise"], data["timesteps"]), expected)


def test_first_steps_may_leave_the_unet_out(tiny_backbone):
    task = make_task(Backbone.load(tiny_backbone), semantic_steps=2)
    values = task.losses(task.module, batch(), 1)
    assert set(values) == {"loss", "semantic"}
    assert values["loss"] == values["semantic"] == task.losses(task.module, batch(), 2)["semantic"]
    assert "diffusion" in task.losses(task.module, batch(), None)
    values["loss"].backward()
    assert all(parameter.grad is None for parameter in task.module.manipulation.parameters())


def test_only_networks_get_gradients(task):
    for part in task.module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not parameter.any() and name == "weight":
                torch.nn.init.normal_(parameter, std=0.1)
    task.losses(task.module, batch(), 3)["loss"].backward()
    assert all(parameter.grad is None for parameter in task.unet.parameters())
    missing = [name for name, parameter in task.module.named_parameters() if parameter.grad is None]
    assert missing == []


def test_unused_branch_is_left_out_in_pretraining(tiny_backbone):
    task = make_task(Backbone.load(tiny_backbone), "pretrain")
    frozen = {name.split(".")[1] for name, p in task.module.named_parameters() if not p.requires_grad}
    assert frozen == {"extra", "extra_out"}


def test_guidance_adaptation_follows_the_main_part(tiny_backbone):
    adaptation = GuidanceAdaptationConfig(steps=3, learning_rate=1e-5, dropout=0.6)
    task = make_task(Backbone.load(tiny_backbone), guidance_adaptation=adaptation, guidance_dropout=0.0)
    recipe = Recipe.of(task.config)
    assert (recipe.steps, recipe.all_steps, recipe.adaptation_rate) == (6, 9, 1e-5)
    assert task._dropped(batch(), 5) is None
    assert task._dropped(batch(), 6).tolist() == [True, True, False, False]
    assert task._dropped(batch(), None) is None


def test_population_start_is_used_and_must_fit(chain, responses, tiny_components, tiny_latents, tiny_runtime, tmp_path):
    backbone = make_tiny_backbone(tmp_path / "backbone")
    (backbone / "population").mkdir()
    shutil.copytree(chain["pretrained"], backbone / "population", dirs_exist_ok=True)
    shutil.copy(chain["autoencoder"], backbone / "population")
    still = {**SHORT, "steps": 1, "learning_rate": 1e-12}
    out = tmp_path / "a" / "autoencoder.safetensors"
    config = CalibrateConfig(init="population", **still)
    calibrate(responses, backbone, config, EncoderConfig(**TINY_ENCODER), tiny_runtime, out)
    torch.testing.assert_close(load_autoencoder(out).mask_token, load_autoencoder(chain["autoencoder"]).mask_token)
    networks, files = tmp_path / "b", (responses, [tiny_latents], backbone)
    config = ReconstructConfig(init="population", **still)
    pretrain(*files, out, config, tiny_runtime, networks, tiny_components)
    started, original = read_networks(networks), read_networks(chain["pretrained"])
    for one, other in zip(started.parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    # What calibration changes is added to the population's encoder.
    moved = load_autoencoder(out)
    with torch.no_grad():
        moved.encoder.cls_token += 1.0
    (out.parent / "run.json").unlink()  # else it would be refused as damaged
    save_autoencoder(moved, out, autoencoder_start(out))
    pretrain(*files, out, config, tiny_runtime, networks, tiny_components)
    torch.testing.assert_close(read_networks(networks).encoder.cls_token, original.encoder.cls_token + 1.0)
    # An encoder from elsewhere replaces it.
    save_autoencoder(moved, out)
    pretrain(*files, out, config, tiny_runtime, networks, tiny_components)
    torch.testing.assert_close(read_networks(networks).encoder.cls_token, moved.encoder.cls_token)
    wide = EncoderConfig(**{**TINY_ENCODER, "width": 32})
    with pytest.raises(ValueError, match=r"encoder\.width: 32 does not fit .* init: scratch"):
        calibrate(responses, backbone, CalibrateConfig(init="population", **still), wide, tiny_runtime, out)


def test_what_pretraining_trained_on_tests_no_subject_that_is_refined(
    chain, responses, tiny_latents, tiny_backbone, tiny_runtime, tmp_path
):
    tested = ResponseStore(responses[0]).images("test")[0]
    files = (responses[0], tiny_latents, tiny_backbone, chain["pretrained"])
    for split in ("train", "validation"):
        shutil.copy(responses[1], tmp_path / "responses.h5")
        with h5py.File(tmp_path / "responses.h5", "r+") as file:
            trained = ResponseStore(responses[1]).images(split)[0]
            file["nsd_id"][:] = np.where(file["nsd_id"][:] == trained, tested, file["nsd_id"][:])
        others = [tmp_path / "responses.h5"]
        message = rf"image {tested} tests subject 01, but was in split '{split}' of subject 02 .* 0 more of its"
        with pytest.raises(ValueError, match=message):
            refine(*files, RefineConfig(**SHORT), tiny_runtime, tmp_path / "out", others=others)
        _check_tests(ResponseStore(responses[0]), [*others, responses[0]])  # pretraining has left the image out


def test_images_that_are_nowhere_are_told_before_training(
    chain, responses, tiny_latents, tiny_backbone, tiny_runtime, tmp_path
):
    path = tmp_path / "latents.h5"
    shutil.copy(tiny_latents, path)
    config = ReconstructConfig(init="scratch", **SHORT)
    files = (responses[:1], [path], tiny_backbone, chain["autoencoder"])
    with h5py.File(path, "r+") as file:
        numbers = file["nsd_id"][:]
        numbers[numbers >= ResponseStore(responses[0]).images("test")[-1]] += 1000
        file["nsd_id"][:] = numbers
    with pytest.raises(
        ValueError, match=r"sub-01/responses\.h5 has responses to images that are nowhere: .*is not among its 26"
    ):
        pretrain(*files, config, tiny_runtime, tmp_path / "out")
    shutil.copy(tiny_latents, path)
    with h5py.File(path, "r+") as file:
        file["described"] = np.zeros(len(file["nsd_id"]), bool)
    config = config.model_copy(update={"semantic_steps": 1})
    with pytest.raises(ValueError, match=r"pretrain\.semantic_steps is 1, but no training image has captions"):
        pretrain(*files, config, tiny_runtime, tmp_path / "out")


def test_refining_in_little_memory_and_low_precision(
    chain, responses, tiny_components, tiny_latents, tiny_backbone, tiny_runtime, tmp_path, monkeypatch
):
    frozen, load = [], Backbone.load
    monkeypatch.setattr(Backbone, "load", lambda *given: frozen.append(load(*given)) or frozen[-1])
    assert reconstruct.training_layout(torch.device("cuda")) == torch.channels_last
    monkeypatch.setattr(reconstruct, "training_layout", lambda device: torch.channels_last)
    small = {"precision": "bf16", "accumulation": 3, "gradient_checkpointing": True}
    config = RefineConfig(guidance_adaptation=GuidanceAdaptationConfig(steps=2), **SHORT)
    files = (responses[0], tiny_latents, tiny_backbone, chain["pretrained"])
    out = tmp_path / "refined"
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate takes one precision a process
    try:
        refine(*files, config, tiny_runtime.model_copy(update=small), out, tiny_components[0])
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert frozen[0].unet.dtype == torch.bfloat16
    assert frozen[0].unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert frozen[0].text_encoder is None
    losses = []
    for folder in (chain["refined"], out):
        results = json.loads((folder / "run.json").read_text())["results"]
        assert results["steps_per_second"] > 0
        losses.append(results["validation_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_target_tower_is_an_input_where_random_captions_have_a_weight(
    chain, responses, tiny_components, tiny_latents, tiny_backbone, tiny_runtime, tmp_path, monkeypatch
):
    """And the backbone is read once, without the target where nothing asks for it, and no text without need."""
    names, rows = set(), Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda self, places: names.add(self.name) or rows(self, places))
    target, read, load = tiny_backbone / "text_encoder", [], Backbone.load
    monkeypatch.setattr(Backbone, "load", lambda source, target=None: read.append(target) or load(source, target))
    files = (responses[0], tiny_latents, tiny_backbone, chain["pretrained"])
    settings = SHORT | {"steps": 1, "captions": "random"}
    for weight, wanted in ((0.1, target), (0.0, None)):
        out, config = tmp_path / str(weight), RefineConfig(semantic_weight=weight, **settings)
        refine(*files, config, tiny_runtime, out, tiny_components[0], target)
        assert read.pop() == wanted and not read
        assert names & {"text", "caption_tokens"} == ({"caption_tokens"} if weight else set())
        names.clear()
        record = json.loads((out / "run.json").read_text())
        assert (str(target) in record["inputs"]) is (weight > 0)
        assert record["results"]["precision"] == "fp32"
        with open(out / "history.csv", newline="") as file:
            assert ("semantic" in {row["name"] for row in csv.DictReader(file)}) is (weight > 0)
