"""The miniature can be trained, stopped, resumed and loaded."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from small_backbone import TINY_ENCODER

from neuropictor.config import AlignConfig, EncoderConfig, RuntimeConfig, SimulateConfig
from neuropictor.data.alignment import ComponentSpace
from neuropictor.data.responses import ResponseStore
from neuropictor.miniature import backbone as training
from neuropictor.miniature import population
from neuropictor.miniature.card import write_card
from neuropictor.miniature.networks import CONTEXT_LENGTH, build, build_tokenizer, save
from neuropictor.miniature.population import VALIDATION_IMAGES, write_person
from neuropictor.miniature.settings import BackboneTraining, MiniatureSettings, Population
from neuropictor.models.backbone import Backbone
from neuropictor.models.networks import check_space
from neuropictor.models.pipeline_folder import pipeline_paths, read_networks
from neuropictor.records.checksums import checksum
from neuropictor.simulation.scenes.scene import captions, render, scene
from neuropictor.training import loop

CONFIG = BackboneTraining.model_construct(  # fewer scenes than anyone should train on
    scenes=80,
    towers_steps=1,
    towers_batch=4,
    vae_steps=1,
    vae_batch=2,
    decoder_steps=1,
    decoder_batch=2,
    unet_steps=3,
    unet_batch=2,
    judge_steps=1,
    judge_batch=2,
    seed=5,
)
POPULATION = Population(people=2, images=40, batch_size=4, calibrate_steps=1, semantic_steps=1, pretrain_steps=2)
RUNTIME = RuntimeConfig(device="cpu", threads=1, track_code=False)

SCENES = [scene(5, number) for number in range(60)]
IMAGES = np.stack([render(item, 64) for item in SCENES])


def test_the_text_tower_reads_the_whole_caption():
    tokenizer = build_tokenizer([line for number in range(300) for line in captions(scene(5, number))])
    backbone = build(tokenizer, CONFIG)
    for module in backbone.modules:
        module.eval().requires_grad_(False)
    assert tokenizer.eos_token_id != 2  # transformers would pool another token
    one, two = backbone.text_features(["a photo of a cat", "a photo of a mug"])
    assert (one - two).abs().max() > 1e-3
    assert backbone.encode_text(["a red cat"]).shape == (1, CONTEXT_LENGTH, backbone.context_shape[1])
    assert backbone.latent_shape == (8, 16, 16)
    assert backbone.image_size == 64


def test_a_missing_part_is_named(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(FileNotFoundError, match=r"backbone.source: .* has no .*vae.*Allowed: .*for example"):
        Backbone.load(tmp_path)


def settings(**sections):
    return MiniatureSettings.model_construct(backbone=CONFIG, runtime=RUNTIME, **sections)


def stop(*arguments, **named):
    raise KeyboardInterrupt


def test_training_is_resumed_within_a_part_and_after_finished_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "HELD_OUT", 40)
    with monkeypatch.context() as patch:
        patch.setattr(training, "PARTS", training.PARTS | {"unet": stop})
        with pytest.raises(KeyboardInterrupt):
            training.train_backbone(CONFIG, RUNTIME, tmp_path / "backbone")
    assert not (tmp_path / "backbone" / "run.json").exists()
    step, steps = loop.Trainer._step, []

    def terminated(trainer, number, batch):
        steps.append(number)
        if steps == [0, 1]:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, number, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "PARTS", dict.fromkeys(training.PARTS, stop) | {"unet": training.Unet})
        patch.setattr(loop.Trainer, "_step", terminated)
        with pytest.raises(SystemExit):
            training.train_backbone(CONFIG, RUNTIME, tmp_path / "backbone")
        training.train_backbone(CONFIG, RUNTIME, tmp_path / "backbone")
    assert steps == [0, 1, 2]
    record = json.loads((tmp_path / "backbone" / "run.json").read_text())
    assert record["results"]["unet_loss"] > 0
    assert not (tmp_path / "backbone" / "checkpoints").exists()
    backbone = Backbone.load(tmp_path / "backbone")
    assert backbone.vae.config.scaling_factor != 0.18215  # diffusers' default
    image = render(scene(5, 0), 64)[None]
    mean, logvar = backbone.encode_images(image)
    assert backbone.decode(mean * backbone.vae.config.scaling_factor).shape == image.shape
    assert logvar.shape == mean.shape == (1, *backbone.latent_shape)
    write_card(tmp_path / "backbone", settings(population=POPULATION), 8, 4)
    card = (tmp_path / "backbone" / "README.md").read_text()
    assert "Measured on 8 scenes each of two seeds" in card
    assert "(4 for images drawn from" in card
    assert "| VAE: PSNR, dB |" in card


def test_training_goes_on_from_weights_of_some_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "HELD_OUT", 40)
    lines = [line for number in range(CONFIG.scenes) for line in captions(scene(CONFIG.seed, number))]
    start = build(build_tokenizer(lines), CONFIG)
    for module in start.modules:
        torch.nn.init.constant_(next(iter(module.parameters())), 0.25)
    save(start, tmp_path / "start")
    shutil.rmtree(tmp_path / "start" / "unet")
    kept = CONFIG.model_copy(update={"towers_steps": 0, "vae_steps": 0, "decoder_steps": 0, "unet_steps": 1})
    training.train_backbone(kept, RUNTIME, tmp_path / "out", tmp_path / "start")
    backbone = Backbone.load(tmp_path / "out")
    assert (next(backbone.vae.parameters()) == 0.25).all()
    assert not (next(backbone.unet.parameters()) == 0.25).all()
    wider = kept.model_copy(update={"vae_channels": [16, 48, 64]})
    with pytest.raises(ValueError, match=r"/vae: .* is \(.*\), but \(.*\) by the settings; allowed: .*for example"):
        training.train_backbone(wider, RUNTIME, tmp_path / "other", tmp_path / "start")
    untrained = kept.model_copy(update={"unet_steps": 0})
    with pytest.raises(ValueError, match=r"backbone\.unet_steps is 0, and .* gives no unet; allowed: .*for example"):
        training.train_backbone(untrained, RUNTIME, tmp_path / "other", tmp_path / "start")


def test_each_epoch_shows_all_scenes_in_another_order_and_none_that_is_held_out():
    rows = training.Rows(12, 4, 5, seed=1)
    batches = [batch["rows"].tolist() for batch in rows.loader(0, 6, 0, False)]
    epochs = np.reshape(batches, (2, 12))
    assert (np.sort(epochs) == np.arange(12)).all()
    assert (epochs[0] != epochs[1]).any()
    assert [batch["rows"].tolist() for batch in rows.loader(4, 6, 0, False)] == batches[4:]
    assert [batch["rows"].tolist() for batch in rows.fixed()] == [[12, 13, 14, 15, 16]]


@pytest.mark.parametrize(
    ("name", "frozen"), [("towers", ()), ("vae", ()), ("decoder", ("encoder.", "quant_conv.")), ("unet", ())]
)
def test_a_part_trains_its_weights_alone(name, frozen):
    torch.manual_seed(0)
    backbone = build(build_tokenizer([line for item in SCENES for line in captions(item)]), CONFIG)
    for module in backbone.modules:
        module.eval().requires_grad_(False)
    task = training.PARTS[name](backbone, IMAGES, SCENES)
    trained = {key for key, parameter in task.module.named_parameters() if parameter.requires_grad}
    assert trained == {key for key, _ in task.module.named_parameters() if not key.startswith(frozen or "-")}
    batch = {"rows": torch.arange(4)}
    assert task.losses(task.module, batch, 3)["loss"].isfinite()
    with torch.no_grad():
        measured = [task.losses(task.module, batch, None) for _ in range(2)]
    assert measured[0] == measured[1]  # the same noise
    task.finish()
    assert not any(parameter.requires_grad for module in backbone.modules for parameter in module.parameters())


def test_population_start_is_made_and_work_stays_until_the_end(tmp_path, monkeypatch):
    """Tiny, but the real people, images and stages; stopped before pretraining, then finished."""
    monkeypatch.setattr(population, "render_scenes", lambda *_: (IMAGES, SCENES))
    align = AlignConfig(tokens=2, text_components=3, latent_components=4)
    sections = {"simulate": SimulateConfig(), "encoder": EncoderConfig(**TINY_ENCODER), "align": align}
    args = {"backbone": "miniature", "settings": settings(population=POPULATION, **sections)}
    out = tmp_path / "population"
    with monkeypatch.context() as patch:
        patch.setattr(population, "pretrain", stop)
        with pytest.raises(KeyboardInterrupt):
            population.train_population(**args, out=out)
    assert not (out / "run.json").exists()
    # stimuli, latents, two people's responses and components
    assert len(list((out / "work").rglob("*.h5"))) == 6
    monkeypatch.setattr(population, "render_scenes", stop)
    monkeypatch.setattr(population, "calibrate", stop)
    population.train_population(**args, out=out)
    parts = {path.name for path in pipeline_paths(out)}
    others = {"autoencoder.safetensors", "run.json", "space.safetensors"}
    assert {path.name for path in out.iterdir()} == parts | others
    networks = read_networks(out)
    check_space(networks.alignment, checksum(out / "space.safetensors"))
    assert ComponentSpace.load(out / "space.safetensors").sizes == {"text": 3, "latent": 4}


def test_other_people_have_responses_like_subjects(tmp_path):
    split = (np.arange(20) < VALIDATION_IMAGES).astype(int)
    write_person(101, np.arange(0, 40, 2), split, IMAGES, SCENES, SimulateConfig(), tmp_path / "person.h5")
    store = ResponseStore(tmp_path / "person.h5")
    assert store.shape == (60, 8921)
    assert len(store.images("validation")) == VALIDATION_IMAGES
    assert set(store.nsd_id) == set(range(0, 40, 2))
    assert sorted(store.repeat[store.nsd_id == 0]) == [0, 1, 2]
    responses = store.responses(np.arange(60))
    assert np.isfinite(responses).all()
    assert 0.5 < responses.std() < 1.5
