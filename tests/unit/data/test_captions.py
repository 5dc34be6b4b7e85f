"""Images without captions, and captions that a model writes."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from small_task import batch, make_task
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from neuropictor.config import PreprocessConfig, RuntimeConfig
from neuropictor.data.alignment import ComponentSpace
from neuropictor.data.datasets import ImageResponses, TrainingBatches
from neuropictor.data.latents import LatentStore
from neuropictor.data.own_data import import_images
from neuropictor.data.stimuli import StimulusStore
from neuropictor.fetching.hub import needed_files
from neuropictor.models.backbone import Backbone

RUNTIME = RuntimeConfig(device="cpu", threads=1)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "a", "red", "blue", "dog", "cat", "sea"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A BLIP of random weights."""
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    text |= {"bos_token_id": 4, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    torch.manual_seed(5)
    config = BlipConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 16}, projection_dim=8)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def seen(tmp_path):
    folder = tmp_path / "seen"
    folder.mkdir()
    for name, colour in (("dog", "red"), ("sea", "blue"), ("cat", "white")):
        Image.new("RGB", (40, 32), colour).save(folder / f"{name}.png")
    return folder


def test_a_model_writes_missing_captions_always_the_same(model, seen, tmp_path):
    (seen / "images.csv").write_text("file,captions\ndog.png,a red dog\nsea.png,\ncat.png,\n")
    written = []
    for name in ("once.h5", "again.h5"):
        config = PreprocessConfig(image_size=16)
        import_images(seen / "images.csv", config, tmp_path / name, captions=str(model), runtime=RUNTIME)
        store = StimulusStore(tmp_path / name)
        numbers = {str(image): number for number, image in zip(store.nsd_id, store.names(store.nsd_id), strict=True)}
        written.append({image: store.captions([number])[0] for image, number in numbers.items()})
    assert written[0] == written[1] and written[0]["dog.png"] == ["a red dog"]
    for (caption,) in (written[0]["sea.png"], written[0]["cat.png"]):
        assert set(caption.split()) <= set(WORDS)
    results = json.loads((tmp_path / "once.run.json").read_text())["results"]
    assert (results["captions_model"], results["captions_made"], results["without_captions"]) == (str(model), 2, 0)


def test_the_files_that_are_fetched_of_a_model_suffice(model, seen, tmp_path):
    names = needed_files([path.name for path in model.iterdir()] + ["README.md", "pytorch_model.bin"])
    (tmp_path / "fetched").mkdir()
    for name in names:
        shutil.copy(model / name, tmp_path / "fetched" / name)
    given = {"table": None, "images": seen, "config": PreprocessConfig(image_size=16), "runtime": RUNTIME}
    texts = []
    for folder in (model, tmp_path / "fetched"):
        import_images(**given, captions=str(folder), out=tmp_path / "s.h5")
        store = StimulusStore(tmp_path / "s.h5")
        texts.append(store.captions(store.nsd_id))
    assert texts[0] == texts[1] and len(texts[0]) == 3


def test_what_is_no_captioning_model_is_refused(model, seen, tmp_path):
    given = {"table": None, "images": seen, "config": PreprocessConfig(image_size=16), "out": tmp_path / "s.h5"}
    with pytest.raises(FileNotFoundError, match=r"--captions owner/name: no folder, .* fetched by: hf download"):
        import_images(**given, captions="owner/name")
    with pytest.raises(ValueError, match=r"seen: not read as a model .*; allowed: a captioning model such as"):
        import_images(**given, captions=str(seen))
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "other").mkdir()
    for path in model.iterdir():
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "other/config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"config\.json: model_type is 'bert'; allowed: a captioning model such as"):
        import_images(**given, captions=str(tmp_path / "other"))
    assert not (tmp_path / "s.h5").exists()


@pytest.fixture
def undescribed(tiny_latents, tmp_path):
    """The tiny latents, every second image without captions."""
    path = tmp_path / "latents.h5"
    path.write_bytes(tiny_latents.read_bytes())
    with h5py.File(path, "r+") as file:
        file["described"] = np.arange(len(file["nsd_id"])) % 2 == 0
    return path


def test_images_without_captions_have_no_semantic_loss(tiny_backbone):
    task = make_task(Backbone.load(str(tiny_backbone)))
    task.module.eval()
    plain, half, none = (
        task.losses(task.module, batch() | described, None)["semantic"].item()
        for described in ({}, {"described": torch.tensor([1.0, 0, 1, 0])}, {"described": torch.zeros(4)})
    )
    assert 0 == none < half < plain


def test_batches_tell_which_images_have_captions(undescribed, tiny_latents, tiny_prepared):
    responses = ImageResponses([tiny_prepared / "sub-01/responses.h5"], "train")
    assert "described" not in TrainingBatches(responses, 4, "mean", 0, LatentStore(tiny_latents))[0]
    batches = TrainingBatches(responses, len(responses), "mean", 0, LatentStore(undescribed))
    even = (responses.nsd_id[batches._items(0)] % 2 == 0).astype(np.float32)  # images are numbered from 100 on
    assert batches[0]["described"].tolist() == even.tolist()
    assert "described" not in TrainingBatches(responses, 4, "mean", 0, LatentStore(undescribed), captions=None)[0]


def test_text_components_of_images_without_captions_are_the_mean(undescribed):
    latents, ids = LatentStore(undescribed), np.arange(100, 126)
    space = ComponentSpace.fit(latents, ids, {"text": 3, "latent": 4}, seed=0)
    components = space.components(latents, ids)
    assert (components[1::2, :3] == 0).all() and (components[::2, :3] != 0).any() and (components[1::2, 3:] != 0).any()
    of_described = ComponentSpace.fit(latents, ids[::2], {"text": 3, "latent": 4}, seed=0)
    np.testing.assert_array_equal(space.mean["text"], of_described.mean["text"])
    with h5py.File(undescribed, "r+") as file:
        file["described"][:] = False
    with pytest.raises(ValueError, match=r"align\.text_components: 3, but no training image has captions; allowed"):
        ComponentSpace.fit(LatentStore(undescribed), ids, {"text": 3, "latent": 4}, seed=0)
