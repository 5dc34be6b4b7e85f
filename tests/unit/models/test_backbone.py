import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from small_backbone import TINY_ENCODER, make_tiny_backbone
from stable_diffusion_folder import make_clip, make_stable_diffusion
from transformers import CLIPModel

from neuropictor.config import (
    CalibrateConfig,
    EncoderConfig,
    ReconstructConfig,
    RefineConfig,
    RuntimeConfig,
    SampleConfig,
)
from neuropictor.data.latents import LatentStore, cache_latents
from neuropictor.data.reconstructions import read_reconstructions
from neuropictor.models.backbone import Backbone, backbone_folder
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.schedules import READ
from neuropictor.official.parts import scheduler
from neuropictor.sampling import sample_subject
from neuropictor.training.calibrate import calibrate
from neuropictor.training.reconstruct import pretrain, refine

SHORT = {"steps": 2, "batch_size": 4, "warmup": 1, "validation_interval": 2, "ema": 0.5}
RUNTIME = RuntimeConfig(device="cpu", threads=1, track_code=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_stable_diffusion(tmp_path_factory.mktemp("weights") / "stable-diffusion-2-1-base")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("weights") / "CLIP-ViT-H-14")


@pytest.fixture(scope="module")
def latents(folder, clip, tiny_prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents") / "sub-01.h5"
    cache_latents(tiny_prepared / "stimuli.h5", folder, RUNTIME, out, target=clip)
    return out


@pytest.fixture(scope="module")
def autoencoder(folder, tiny_prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrate") / "autoencoder.safetensors"
    responses = [tiny_prepared / "sub-01" / "responses.h5"]
    config = CalibrateConfig(init="scratch", **SHORT)
    calibrate(responses, folder, config, EncoderConfig(**TINY_ENCODER), RUNTIME, out)
    return out


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_sizes_come_from_the_folder(folder):
    backbone = Backbone.load(folder)
    assert (backbone.latent_shape, backbone.context_shape, backbone.image_size) == ((4, 4, 4), (77, 16), 8)
    assert backbone.null_context().shape == (1, 77, 16)
    with pytest.raises(ValueError, match="text_encoder/ has no projection"):
        backbone.text_features(["a cat"])


def test_the_hubs_scheduler_becomes_the_official_sampler(folder):
    ours, official = Backbone.load(folder).scheduler, scheduler()
    assert isinstance(ours, DDIMScheduler)
    for each in (ours, official):
        each.set_timesteps(50)
    assert torch.equal(ours.timesteps, official.timesteps)
    assert ours.timesteps[-1] == 1
    torch.testing.assert_close(ours.alphas_cumprod, official.alphas_cumprod, atol=0, rtol=0)
    assert ours.final_alpha_cumprod == official.final_alpha_cumprod == ours.alphas_cumprod[0]
    assert not ours.config.clip_sample


def test_the_target_may_come_from_a_tower_of_its_own(folder, clip, latents):
    captions = ["a red ball", "the sky"]
    plain, official = Backbone.load(folder), Backbone.load(folder, clip)
    tokens = plain.tokens(captions)
    assert plain.target_tower is plain.text_encoder
    assert torch.equal(official.encode_text(captions), plain.encode_text(captions))
    assert torch.equal(official.null_context(), plain.null_context())
    whole = CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():  # all blocks and the final norm, not projected
        expected = whole.text_model(input_ids=tokens).last_hidden_state
        torch.testing.assert_close(official.target_tower(input_ids=tokens).last_hidden_state, expected)
    store = LatentStore(latents)
    assert store.target.shape == store.text.shape
    assert not np.array_equal(store.target[[0]], store.text[[0]])  # baselines draw with what the UNet reads
    assert (store.text.shape[1:], store.caption_tokens.shape[1:]) == ((77, 16), (5, 77))


@pytest.mark.parametrize("kind", ["1.5", "v-prediction"])  # 2.1-base: tests/workflow/test_paper_structure.py
def test_the_chain_runs_on_a_stable_diffusion_folder(kind, autoencoder, tiny_prepared, tmp_path, monkeypatch):
    if kind == "1.5":
        folder = make_stable_diffusion(tmp_path / "stable-diffusion-1-5", linear=False)
    if kind == "v-prediction":
        folder = make_stable_diffusion(tmp_path / "stable-diffusion-2-1", prediction_type="v_prediction")
    latents = tmp_path / "latents.h5"
    cache_latents(tiny_prepared / "stimuli.h5", folder, RUNTIME, latents)
    responses = tiny_prepared / "sub-01" / "responses.h5"
    start = ReconstructConfig(init="scratch", **SHORT)
    pretrain([responses], [latents], folder, autoencoder, start, RUNTIME, tmp_path / "pretrain")
    refine(responses, latents, folder, tmp_path / "pretrain", RefineConfig(**SHORT), RUNTIME, tmp_path / "refine")
    sample_subject(tmp_path / "refine", responses, SampleConfig(steps=2), RUNTIME, "refined", tmp_path / "refined.h5")
    assert read_reconstructions(tmp_path / "refined.h5").images.shape == (3, 1, 8, 8, 3)
    assert not list((tmp_path / "refine").rglob("unet"))
    pipeline = NeuroPictorPipeline.from_pretrained(tmp_path / "refine")
    assert pipeline.scheduler.config.prediction_type == ("v_prediction" if kind == "v-prediction" else "epsilon")
    # A changed prediction type is noticed before anything is trained.
    changed = shutil.copytree(folder, tmp_path / "changed")
    other = "epsilon" if kind == "v-prediction" else "v_prediction"
    edit(changed, "scheduler/scheduler_config.json", prediction_type=other)
    monkeypatch.setattr("neuropictor.training.reconstruct.Trainer", None)
    with pytest.raises(ValueError, match=f"backbone: prediction_type is {other} in backbone changed"):
        refine(responses, latents, changed, tmp_path / "pretrain", RefineConfig(**SHORT), RUNTIME, tmp_path / "again")


def test_networks_of_other_sizes_are_refused_before_training(
    folder, latents, autoencoder, tiny_prepared, tiny_latents, tmp_path, monkeypatch
):
    responses = tiny_prepared / "sub-01" / "responses.h5"
    start = ReconstructConfig(init="scratch", **SHORT)
    pretrain([responses], [latents], folder, autoencoder, start, RUNTIME, tmp_path / "pretrain")
    monkeypatch.setattr("neuropictor.training.reconstruct.Trainer", None)
    with pytest.raises(ValueError, match=r"texts \(tokens, width\) are \(6, 16\) in .* has \(77, 16\)"):
        pretrain([responses], [tiny_latents], folder, autoencoder, start, RUNTIME, tmp_path / "again")
    other = make_tiny_backbone(tmp_path / "other")
    args = (RefineConfig(**SHORT), RUNTIME, tmp_path / "again")
    with pytest.raises(ValueError, match=r"context \(tokens, width\) is \(6, 16\) in backbone other, and \(77, 16\)"):
        refine(responses, tiny_latents, other, tmp_path / "pretrain", *args)
    large = shutil.copytree(folder, tmp_path / "large")
    edit(large, "unet/config.json", sample_size=8)
    with pytest.raises(ValueError, match=r"latent size is \(8, 8\) in backbone large, and \(4, 4\) in the networks"):
        refine(responses, latents, large, tmp_path / "pretrain", *args)


def test_parts_that_do_not_belong_together_are_refused(folder, tmp_path):
    sample = shutil.copytree(folder, tmp_path / "sample")
    edit(sample, "scheduler/scheduler_config.json", prediction_type="sample")
    with pytest.raises(ValueError, match="prediction_type 'sample'; allowed: epsilon, v_prediction, for example"):
        Backbone.load(sample)
    wide = shutil.copytree(folder, tmp_path / "wide")
    shutil.rmtree(wide / "unet")
    shutil.copytree(make_stable_diffusion(tmp_path / "x") / "unet", wide / "unet")
    shutil.rmtree(wide / "text_encoder")
    shutil.copytree(make_tiny_backbone(tmp_path / "y") / "text_encoder", wide / "text_encoder")
    Backbone.load(wide)  # another length alone is a backbone of that length
    with pytest.raises(ValueError, match=r"the context has \(6, 16\) .* target text encoder makes \(77, 16\)"):
        Backbone.load(wide, folder / "text_encoder")
    with pytest.raises(FileNotFoundError, match=r"holds no text tower .* for example backbone: {target_text_encoder"):
        Backbone.load(folder, tmp_path / "nowhere")


def test_pickled_weights_are_not_read(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "pickled")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        Backbone.load(copy)


def renamed(tensors):
    return {f"cond_stage_model.{name}": tensor for name, tensor in tensors.items()}


def without_one(tensors):
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def with_another(tensors):
    return tensors | {"lora.up": torch.zeros(2)}


def of_another_shape(tensors):
    return tensors | {min(tensors): torch.zeros(7)}


@pytest.mark.parametrize("change", [renamed, without_one, with_another, of_another_shape])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "image_encoder"])
def test_a_file_that_does_not_hold_exactly_its_networks_tensors_is_refused(change, part, tmp_path):
    folder = shutil.copytree(make_tiny_backbone(tmp_path / "whole"), tmp_path / "backbone")
    if part == "image_encoder":
        shutil.copytree(backbone_folder("miniature") / part, folder / part)
        Backbone.load(folder)
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    changed = change(tensors)
    save_file(changed, file, metadata={"format": "pt"})
    one = min(changed.keys() ^ tensors.keys() or tensors)
    with pytest.raises(ValueError, match=rf"{part}/{file.name}: .*{one}.* allowed: "):
        Backbone.load(folder)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        (
            "model.fp16.safetensors",
            "found: model.fp16.safetensors.* after mv .*model.fp16.safetensors .*/model.safetensors",
        ),
        ("pytorch_model.bin", r"only if you trust .* import CLIPTextModel as M; M.from_pretrained\("),
        (None, "found: no weights"),
    ],
)
def test_weights_in_another_form_are_refused_with_the_way_to_make_them(folder, name, way, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "backbone")
    file = copy / "text_encoder" / "model.safetensors"
    file.rename(file.with_name(name)) if name else file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"text_encoder/model.safetensors is missing .*{way}"):
        Backbone.load(copy)


def test_one_file_is_no_folder(tmp_path):
    (tmp_path / "v1-5.ckpt").touch()
    with pytest.raises(
        ValueError, match=r"is one file; allowed: .* neuropictor import-official .*v1-5.ckpt --out FOLDER"
    ):
        Backbone.load(tmp_path / "v1-5.ckpt")


def test_a_text_tower_of_another_kind_is_refused_and_none_of_its_code_runs(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "backbone")
    (copy / "text_encoder" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edit(copy, "text_encoder/config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(ValueError, match=r"text_encoder/config.json: model_type is 'evil'; allowed: "):
        Backbone.load(copy)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", sorted({*READ} - {"DPMSolverSDEScheduler"}))  # which needs another library
def test_a_schedule_is_read_as_its_own_class_means_it(folder, kind, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "backbone")
    shutil.rmtree(copy / "scheduler")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    saved = getattr(diffusers, kind)(**betas, **({"clip_sample": False} if kind.startswith("DD") else {}))
    saved.save_pretrained(copy / "scheduler")
    read = Backbone.load(copy).scheduler
    assert torch.allclose(read.alphas_cumprod, scheduler().alphas_cumprod)
    assert not read.config["clip_sample"]  # Stable Diffusion's latents are not in -1..1
    read.set_timesteps(25)
    assert set(read.timesteps.diff().tolist()) == {-40}, "DDIM goes by whole steps"
    assert (read.timesteps[0] == 999) == (saved.config.get("timestep_spacing") in ("linspace", "trailing"))


def test_sizes_beyond_all_use_are_refused_before_they_take_memory(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "backbone")
    edit(copy, "scheduler/scheduler_config.json", num_train_timesteps=10**10)
    with pytest.raises(
        ValueError, match=r"scheduler_config.json: num_train_timesteps is 10000000000; allowed: 1 to 10000"
    ):
        Backbone.load(copy)
    edit(copy, "unet/config.json", block_out_channels=[2**20, 2**20], norm_num_groups=4)
    with pytest.raises(ValueError, match=r"unet/diffusion_pytorch_model.safetensors: "):
        Backbone.load(copy)


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "LCMScheduler", "EDMEulerScheduler"])
def test_what_ddim_cannot_sample_is_refused(folder, kind, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "backbone")
    getattr(diffusers, kind)().save_pretrained(copy / "scheduler")
    with pytest.raises(ValueError, match=rf"scheduler_config.json: _class_name is '{kind}'; allowed: .*PNDMScheduler"):
        Backbone.load(copy)


def test_a_missing_part_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no unet, .* or a repository of the Hugging Face hub"):
        Backbone.load(tmp_path)


def test_captions_are_cut_to_the_towers_length(folder):
    backbone = Backbone.load(folder)
    long = backbone.encode_text(["a cat " * 100, "a cat"])
    assert long.shape == (2, 77, 16)
    assert np.isfinite(long.numpy()).all()
