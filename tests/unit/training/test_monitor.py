"""Curves and sample images for TensorBoard: complete, and without any influence on the training."""

import time

import numpy as np
import pytest
from small_backbone import TINY_ENCODER
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from neuropictor.config import EncoderConfig, ReconstructConfig, RuntimeConfig
from neuropictor.models.encoder import FMRIAutoencoder
from neuropictor.models.networks import save_autoencoder
from neuropictor.training.monitor import MONITOR_FOLDER, Monitor
from neuropictor.training.reconstruct import pretrain

STEPS = 6


@pytest.fixture(scope="module")
def train(tiny_prepared, tiny_latents, tiny_backbone, tmp_path_factory):
    """Function that trains a little and returns the folder of the result; the encoder draws dropout."""
    start = tmp_path_factory.mktemp("start") / "autoencoder.safetensors"
    save_autoencoder(FMRIAutoencoder(**EncoderConfig(**TINY_ENCODER, dropout=0.2).model_dump()), start)
    config = ReconstructConfig(init="scratch", steps=STEPS, batch_size=4, warmup=1, validation_interval=3)

    def trained(**runtime):
        out = tmp_path_factory.mktemp("trained")
        pretrain(
            [tiny_prepared / "sub-01" / "responses.h5"],
            [tiny_latents],
            str(tiny_backbone),
            start,
            config,
            RuntimeConfig(device="cpu", threads=1, log_interval=2, track_code=False, **runtime),
            out,
        )
        return out

    return trained


def test_curves_and_images_are_written_and_weights_do_not_know(train):
    shown, hidden = train(), train(tensorboard=False)
    events = EventAccumulator(str(shown / MONITOR_FOLDER)).Reload()
    losses = {f"{name}/{split}" for name in ("loss", "diffusion", "semantic") for split in ("train", "validation")}
    assert set(events.Tags()["scalars"]) == losses
    assert [event.step for event in events.Scalars("loss/train")] == [2, 4, 6]
    assert [event.step for event in events.Scalars("loss/validation")] == [3, 6]
    (title,) = events.Tags()["images"]
    assert title == "reconstructions (SIMULATED data, drawn by a miniature that knows 12 cartoon objects)"
    images = events.Images(title)
    assert [image.step for image in images] == [3, 6]
    assert (images[0].height, images[0].width) == (2 * 8, 2 * 8)  # two validation images of 8 pixels
    assert not (hidden / MONITOR_FOLDER).exists()
    weights = sorted(path.relative_to(shown) for path in shown.rglob("*.safetensors"))
    assert weights
    for path in weights:
        assert (shown / path).read_bytes() == (hidden / path).read_bytes(), path
    assert (shown / "history.csv").read_bytes() == (hidden / "history.csv").read_bytes()


def test_a_continued_training_writes_on_and_another_one_anew(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # stopped after step 3, continued after step 2
        monitor = Monitor(tmp_path / "monitor", "nsd", lambda: np.zeros((4, 4, 3), np.uint8))
        monitor.open(start)
        for step in steps:
            monitor.scalars(step, "train", {"loss": float(10 * start + step)})
        monitor.close()
        time.sleep(1)  # event files are read in the order of their names, which tell the second they were begun in
    events = EventAccumulator(str(tmp_path / "monitor")).Reload().Scalars("loss/train")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]
    monitor = Monitor(tmp_path / "monitor", "nsd", lambda: np.zeros((4, 4, 3), np.uint8))
    monitor.open(0)
    monitor.images(1)
    monitor.close()
    tags = EventAccumulator(str(tmp_path / "monitor")).Reload().Tags()
    assert (tags["images"], tags["scalars"]) == (["reconstructions"], [])


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monitor = Monitor(tmp_path / "monitor", "nsd")
    monitor.open(0)
    monitor.scalars(1, "train", {"loss": 1.0})
    monitor.close()
    assert not (tmp_path / "monitor").exists()
