import json
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from official_checkpoint import LENGTH, official_state, small_parts
from safetensors import safe_open
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from neuropictor.config import RefineConfig, SampleConfig
from neuropictor.data.latents import cache_latents
from neuropictor.data.reconstructions import read_reconstructions
from neuropictor.data.stimuli import StimulusWriter
from neuropictor.models.backbone import Backbone
from neuropictor.models.networks import load_autoencoder
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.official.checkpoint import import_official, make_plan
from neuropictor.official.parts import Options, write_clip_tokenizer
from neuropictor.sampling import sample_subject
from neuropictor.training.reconstruct import refine

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = Options(heads=4, head_width=8)


@pytest.fixture(scope="module")
def small():
    return small_parts()


@pytest.fixture(scope="module")
def manifest():
    shapes = json.loads((GOLDEN / "f_full_key_manifest.json").read_text())["keys"]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def sample(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    maps = torch.randn(2, 1, 16, 32, generator=torch.Generator().manual_seed(5))
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "pt"}
    return pipeline(maps, generator=generators, **options).images


def written(state, path):
    torch.save(state, path)
    return path


def test_every_key_of_the_full_size_model_is_used_or_left_out_knowingly(manifest):
    plan = make_plan(manifest)
    assert (len(plan.mapped), len(plan.ignored), len(plan.unexpected), len(plan.missing)) == (1577, 33, 0, 0)
    assert len(manifest) == 1577 + 33
    targets = [(part, name) for part, own in plan.mapped.values() for name in own]
    assert len(set(targets)) == len(targets) == sum(len(part.state_dict()) for part in plan.parts.values())
    for key, (part, (own,)) in plan.mapped.items():
        found, wanted = manifest[key].shape, plan.parts[part].state_dict()[own].shape
        assert found == wanted or (part == "vae" and found == (*wanted, 1, 1)), key


def test_parameters_of_the_papers_size(manifest):
    parts = make_plan(manifest).parts
    count = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    assert count["unet"] == 865_910_724
    assert count["guiding"] == 2_207_074
    hint = sum(parameter.numel() for parameter in parts["manipulation"].hint_mapper.parameters())
    assert hint == 4_803_332
    unused = sum(tensor.numel() for key, tensor in manifest.items() if "input_hint_block" in key)
    assert round((count["manipulation"] + unused) / 1e6, 2) == 369.03
    assert parts["encoder"].config.depth == 24
    assert parts["unet"].config.attention_head_dim == [5, 10, 20, 20]


@pytest.mark.parametrize("nested", [None, "state_dict"])
def test_round_trip(small, tmp_path, nested):
    pipeline, text = small
    state = official_state(pipeline, text)
    checkpoint = written({nested: state, "epoch": 15} if nested else state, tmp_path / "epoch_015.pth")
    import_official(checkpoint, tmp_path / "out", SMALL)
    imported = NeuroPictorPipeline.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(imported.null_context(), pipeline.null_context(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sample(imported), sample(pipeline), atol=1e-5, rtol=0)
    for name in ("encoder", "guiding", "manipulation", "unet", "vae"):
        ours, theirs = getattr(imported, name).state_dict(), getattr(pipeline, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    target = CLIPTextModelWithProjection.from_pretrained(tmp_path / "out" / "target_text_encoder").eval()
    tokens = torch.tensor([[48, 3, 4, 49, 0, 0, 0]])
    assert tokens.shape[1] == LENGTH
    with torch.no_grad():  # all blocks, as the semantic loss wants
        torch.testing.assert_close(target(tokens).last_hidden_state, text(tokens).last_hidden_state)
    record = json.loads((tmp_path / "out" / "run.json").read_text())["results"]
    assert (record["kind"], record["unmapped"]) == ("neuropictor", 0)
    assert record["mapped"] + record["ignored"] == len(state)


def test_released_networks_reconstruct_and_are_refined(tiny_prepared, tiny_runtime, tmp_path):
    """The way of docs/official.md, from a released checkpoint to images."""
    released, responses = tmp_path / "official", tiny_prepared / "sub-01" / "responses.h5"
    import_official(written(official_state(*small_parts(maps=(32, 32))), tmp_path / "epoch_015.pth"), released, SMALL)
    shutil.copytree(tiny_tokenizer(tmp_path), released / "tokenizer")
    stimuli, latents = tmp_path / "stimuli.h5", tmp_path / "latents.h5"
    with h5py.File(stimuli, "w") as file:
        writer = StimulusWriter(file, np.arange(100, 126), 16, "simulated")
        writer.append(np.random.default_rng(0).integers(0, 256, (26, 16, 16, 3), dtype=np.uint8))
        writer.finish([["a red ball"]] * 26, ["ball"] * 26, ["sky"] * 26)
    cache_latents(stimuli, released, tiny_runtime, latents)
    short = RefineConfig(steps=2, batch_size=4, validation_interval=2)
    refine(responses, latents, released, released, short, tiny_runtime, tmp_path / "refined")
    drawn = {}
    for folder in (released, tmp_path / "refined"):
        out = tmp_path / f"{folder.name}.h5"
        sample_subject(folder, responses, SampleConfig(steps=2), tiny_runtime, folder.name, out)
        drawn[folder.name] = read_reconstructions(out).images
    assert drawn["official"].shape == drawn["refined"].shape == (3, 1, 16, 16, 3)
    assert (drawn["official"] != drawn["refined"]).any()


def test_frozen_parts_are_named_where_the_backbone_is_at_hand(small, tmp_path):
    pipeline, text = small
    checkpoint = written(official_state(pipeline), tmp_path / "without_text.pth")
    with pytest.raises(ValueError, match=r"has no text tower .* for example --backbone"):
        import_official(checkpoint, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()
    full = written(official_state(pipeline, text), tmp_path / "control_sd21_ini.ckpt")
    import_official(full, tmp_path / "backbone", SMALL)
    shutil.copytree(tiny_tokenizer(tmp_path), tmp_path / "backbone" / "tokenizer")
    import_official(checkpoint, tmp_path / "out", SMALL, tmp_path / "backbone")
    assert not (tmp_path / "out" / "unet").exists()
    imported = NeuroPictorPipeline.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(sample(imported), sample(pipeline), atol=1e-5, rtol=0)
    state = official_state(pipeline)
    state["model.diffusion_model.out.2.bias"] = state["model.diffusion_model.out.2.bias"] + 1
    with pytest.raises(ValueError, match=r"backbone: unet in .* differs .* in 1 tensors, such as conv_out.bias"):
        import_official(written(state, tmp_path / "other.pth"), tmp_path / "again", SMALL, tmp_path / "backbone")


@pytest.mark.parametrize("form", ["plain", "float16", "moving averages"])
def test_stable_diffusion_alone_becomes_a_backbone(small, tmp_path, form):
    pipeline, text = small
    state = official_state(pipeline, text)
    state = {
        key: value for key, value in state.items() if not key.startswith(("cond_stage.", "fmri_", "control_model.fmri"))
    }
    unet = pipeline.unet.state_dict()
    if form == "float16":
        state, unet = ({key: value.half() for key, value in values.items()} for values in (state, unet))
    if form == "moving averages":
        averages = {key.replace(".", ""): value + 1 for key, value in state.items() if ".diffusion_model." in key}
        state |= {f"model_ema.{key}": value for key, value in averages.items()}
    options = Options(head_width=8, latent_size=8)
    import_official(written({"state_dict": state}, tmp_path / "control_sd21_ini.ckpt"), tmp_path / "out", options)
    shutil.copytree(tiny_tokenizer(tmp_path), tmp_path / "out" / "tokenizer")
    backbone = Backbone.load(tmp_path / "out")
    assert backbone.latent_shape == (4, 8, 8)
    assert all(torch.equal(value.float(), backbone.unet.state_dict()[key]) for key, value in unet.items())
    assert backbone.text_encoder.config.num_hidden_layers == 2
    reasons = json.loads((tmp_path / "out" / "run.json").read_text())["results"]["reasons"]
    assert any("moving average" in reason for reason in reasons) == (form == "moving averages")


def test_the_autoencoders_own_file(tmp_path):
    with safe_open(GOLDEN / "b_fmri_autoencoder_small.safetensors", framework="pt") as file:
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {f"module.{key.removeprefix('w.')}": value for key, value in golden.items() if key.startswith("w.")}
    checkpoint = written({"model": state, "epoch": 3}, tmp_path / "checkpoint_120000.pth")
    import_official(checkpoint, tmp_path / "out", Options(heads=4))
    autoencoder = load_autoencoder(tmp_path / "out" / "autoencoder.safetensors")
    assert autoencoder.config.image_size == [32, 48]  # read off the position table
    with torch.no_grad():
        torch.testing.assert_close(autoencoder.encoder(golden["in.x"]), golden["out.encode_feats"], atol=2e-5, rtol=0)
        torch.testing.assert_close(autoencoder(golden["in.x"]), golden["out.rec_image"], atol=2e-5, rtol=0)


def test_missing_and_unexpected_keys_are_listed(small, tmp_path):
    state = official_state(*small)
    gone = {
        "cond_stage.norm.bias": "guiding: text.norm.bias",
        "model.diffusion_model.input_blocks.4.1.proj_in.bias": "unet: down_blocks.1.attentions.0.proj_in.bias",
        "first_stage_model.decoder.up.0.block.1.conv1.weight": "vae: decoder.up_blocks.1.resnets.1.conv1.weight",
        "fmri_encoder.transformer.blocks.1.mlp.fc2.bias": "encoder: blocks.1.mlp.fc2.bias",
        "cond_stage_model.model.transformer.resblocks.1.ln_1.bias": "text: text_model.encoder.layers.1.layer_norm1",
        "control_model.zero_convs.3.0.bias": "manipulation: control.controlnet_down_blocks.3.bias",
    }
    for key in gone:
        del state[key]
    state |= {"cond_stage.surprise": torch.zeros(1), "optimizer.decay": torch.zeros(1)}
    state["cond_stage_model.model.transformer.surprise"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"6 missing: .* 3 unexpected: ") as error:
        import_official(written(state, tmp_path / "cut.pth"), tmp_path / "out", SMALL)
    for words in (*gone.values(), "cond_stage.surprise", "optimizer.decay", "transformer.surprise", "for example"):
        assert words in str(error.value), words
    assert not (tmp_path / "out").exists()


def test_sizes_that_cannot_be_read_off(small, tmp_path):
    state = official_state(*small)
    for key in ("cond_stage.dim_mapper.weight", "model.diffusion_model.output_blocks.5.2.conv.bias"):
        cut = {name: value for name, value in state.items() if name != key}
        with pytest.raises(ValueError, match=rf"sizes: cannot be read off .*{key.split('.', 2)[-1]}.* is missing"):
            import_official(written(cut, tmp_path / "cut.pth"), tmp_path / "out", SMALL)


def test_another_noise_schedule_is_refused(small, tmp_path):
    state = official_state(*small) | {"alphas_cumprod": torch.linspace(1, 0, 1000)}
    with pytest.raises(ValueError, match="stored noise schedule is not Stable Diffusion's"):
        import_official(written(state, tmp_path / "other.pth"), tmp_path / "out", SMALL)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_code_in_a_checkpoint_is_refused_and_not_run(small, tmp_path):
    state = official_state(*small)
    evil = written(state | {"evil": Malicious(str(tmp_path / "ran"))}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"evil": Malicious(str(tmp_path / "ran"))}))
    for path in (evil, tmp_path / "plain.pth"):
        with pytest.raises(ValueError, match=r"could run any code, .* for example epoch_015.pth") as error:
            import_official(path, tmp_path / "out", SMALL)
        assert "weights_only" not in str(error.value)  # torch's advice to run it all the same
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds no state dict"),
        ({"state_dict": {"a": torch.zeros(1)}}, r"keys: none of an official checkpoint among 1, such as \['a'\]"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        import_official(written(content, tmp_path / "other.pth"), tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"abc", b"PK\x03\x04", b"version https://git-lfs.github.com/spec/v1\n"])
def test_what_is_no_checkpoint_is_refused_by_name(content, tmp_path):
    (tmp_path / "cut.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"cut.pth: not read, .* or is damaged .* for example epoch_015.pth"):
        import_official(tmp_path / "cut.pth", tmp_path / "out")


def test_files_of_old_torch_are_read_too(small, tmp_path):
    torch.save(official_state(*small), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    import_official(tmp_path / "old.pth", tmp_path / "out", SMALL)
    with pytest.raises(FileExistsError, match="allowed: a new folder"):
        import_official(tmp_path / "old.pth", tmp_path / "out", SMALL)


def test_clip_tokenizer_is_that_of_open_clip(tmp_path):
    import open_clip

    write_clip_tokenizer(tmp_path / "tokenizer", 77)
    captions = ["", "a photo of a cat", "Two dogs, running; it's 3 o'clock."]
    tokens = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")(captions, padding="max_length", return_tensors="pt")
    assert torch.equal(tokens["input_ids"], open_clip.tokenize(captions))


def tiny_tokenizer(folder):
    from small_backbone import make_tiny_backbone

    return make_tiny_backbone(folder / "tiny") / "tokenizer"


def test_every_tensor_differs_so_that_none_is_mistaken(small):
    """The round trip proves names only if no two tensors of a shape are the same."""
    pipeline, _ = small
    values = [value for part in (pipeline.unet, pipeline.manipulation) for value in part.state_dict().values()]
    assert len({value.numpy().tobytes() for value in values}) == len(values)
