"""The miniature backbone can be trained, stopped between its parts, and loaded."""

import json

import numpy as np
import pytest
from small_backbone import TINY_ENCODER

from neuropictor.config import (
    AlignConfig,
    BackboneConfig,
    BackboneTrainingConfig,
    EncoderConfig,
    PopulationConfig,
    RuntimeConfig,
    SimulateConfig,
)
from neuropictor.data.alignment import ComponentSpace
from neuropictor.data.responses import ResponseStore
from neuropictor.miniature import backbone as training
from neuropictor.miniature import population
from neuropictor.miniature.card import write_card
from neuropictor.miniature.networks import CONTEXT_LENGTH, build, build_tokenizer
from neuropictor.miniature.population import VALIDATION_PICTURES, write_person
from neuropictor.models.backbone import Backbone
from neuropictor.models.networks import check_space
from neuropictor.models.pipeline_folder import pipeline_paths, read_networks
from neuropictor.records.checksums import checksum
from neuropictor.simulation.scenes.scene import captions, render, scene

CONFIG = BackboneTrainingConfig.model_construct(  # fewer scenes than anyone should train on
    scenes=80,
    towers_steps=1,
    towers_batch=4,
    vae_steps=1,
    vae_batch=2,
    decoder_steps=1,
    decoder_batch=2,
    unet_steps=1,
    unet_batch=2,
    seed=5,
)

SCENES = [scene(5, number) for number in range(60)]
PICTURES = np.stack([render(item, 64) for item in SCENES])


def test_the_text_tower_reads_the_whole_caption():
    tokenizer = build_tokenizer([line for number in range(300) for line in captions(scene(5, number))])
    backbone = build(tokenizer)
    for module in backbone.modules:
        module.eval().requires_grad_(False)
    assert tokenizer.eos_token_id != 2  # transformers would pool another token
    one, two = backbone.text_features(["a photo of a cat", "a photo of a mug"])
    assert (one - two).abs().max() > 1e-3
    assert backbone.encode_text(["a red cat"]).shape == (1, CONTEXT_LENGTH, backbone.context_shape[1])
    assert backbone.latent_shape == (8, 8, 8)
    assert backbone.image_size == 64


def test_a_missing_part_is_named(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(FileNotFoundError, match=r"backbone.source: .* has no folder vae/.*Allowed: .*for example"):
        Backbone.load(tmp_path)


def test_training_goes_on_after_the_last_finished_part(tmp_path, monkeypatch):
    runtime = RuntimeConfig(device="cpu", threads=1)
    monkeypatch.setattr(training, "HELD_OUT", 40)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_unet", stop)
        with pytest.raises(KeyboardInterrupt):
            training.train_backbone(CONFIG, runtime, tmp_path / "backbone")
    assert not (tmp_path / "backbone" / "run.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_towers", stop)
        patch.setattr(training, "train_vae", stop)
        training.train_backbone(CONFIG, runtime, tmp_path / "backbone")
    record = json.loads((tmp_path / "backbone" / "run.json").read_text())
    assert "unet_validation" in record["results"]
    assert not (tmp_path / "backbone" / "checkpoints").exists()
    backbone = Backbone.load(tmp_path / "backbone")
    picture = render(scene(5, 0), 64)[None]
    mean, logvar = backbone.encode_pictures(picture)
    assert backbone.decode(mean * backbone.vae.config.scaling_factor).shape == picture.shape
    assert logvar.shape == mean.shape == (1, *backbone.latent_shape)
    write_card(tmp_path / "backbone", BackboneConfig.model_construct(training=CONFIG), runtime, 8, 4)
    card = (tmp_path / "backbone" / "README.md").read_text()
    assert "Measured on 8 scenes" in card
    assert "read off 4 pictures" in card


def test_population_start_is_made_and_work_is_kept_until_the_end(tmp_path, monkeypatch):
    """Tiny, but the real people, pictures and stages; stopped before pretraining, then finished."""
    monkeypatch.setattr(population, "render_scenes", lambda *_: (PICTURES, SCENES))
    runtime = RuntimeConfig(device="cpu", threads=1, track_code=False)
    config = PopulationConfig(
        people=2, pictures=40, batch_size=4, calibrate_steps=1, semantic_steps=1, pretrain_steps=2, folds=2
    )
    align = AlignConfig(tokens=2, text_components=3, latent_components=4)
    sections = {"simulate": SimulateConfig(), "encoder": EncoderConfig(**TINY_ENCODER), "align": align}
    args = {"backbone": "miniature", "training": CONFIG, "config": config, **sections, "runtime": runtime}
    out = tmp_path / "population"

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(population, "pretrain", stop)
        with pytest.raises(KeyboardInterrupt):
            population.train_population(**args, out=out)
    assert not (out / "run.json").exists()
    made = {path: path.stat().st_mtime_ns for path in (out / "work").rglob("*.h5")}
    assert len(made) == 6  # stimuli, latents, two people's responses and components
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
    write_person(101, np.arange(0, 40, 2), PICTURES, SCENES, SimulateConfig(), tmp_path / "person.h5")
    store = ResponseStore(tmp_path / "person.h5")
    assert store.shape == (60, 8921)
    assert len(store.pictures("validation")) == VALIDATION_PICTURES
    assert set(store.nsd_id) == set(range(0, 40, 2))
    assert sorted(store.repeat[store.nsd_id == 0]) == [0, 1, 2]
    responses = store.responses(np.arange(60))
    assert np.isfinite(responses).all()
    assert 0.5 < responses.std() < 1.5
