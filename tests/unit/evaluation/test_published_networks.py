"""The networks of published evaluations, with random weights in files of the published formats."""

import hashlib
import json

import numpy as np
import pytest
import torch
from published_weights import CLIP
from stand_in_bucket import Stored, serving
from torch.nn.functional import interpolate

from neuropictor.config import EvaluateConfig, WeightsConfig
from neuropictor.evaluation import judging, networks
from neuropictor.evaluation.evaluate import Scorer
from neuropictor.evaluation.judges import Held, Judge, load_describer
from neuropictor.evaluation.judging import LoadedNetwork, load_network
from neuropictor.evaluation.metrics import METRICS, shown_in
from neuropictor.evaluation.networks import NETWORKS, WEIGHT_FILES
from neuropictor.evaluation.protocols import OURS, PROTOCOLS
from neuropictor.evaluation.statistics import Pairings
from neuropictor.fetching import download
from neuropictor.fetching.weights import NOTES, WeightsError, fetch_weights, locate

CPU = torch.device("cpu")


def note(folder):
    files = {file.name: folder / file.name for file in WEIGHT_FILES.values()}
    notes = {name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for name, path in files.items()}
    (folder / NOTES).write_text(json.dumps(notes))


def features(network, images, protocol):
    """What a network sees in images under a protocol."""
    chosen = PROTOCOLS[protocol]
    return network.features(judging.common_images(images, chosen, CPU), chosen)


@pytest.fixture(scope="module")
def folder(published_weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("weights")
    for file in WEIGHT_FILES.values():
        (out / file.name).symlink_to(published_weights / file.name)
    note(out)
    return out


@pytest.fixture(autouse=True)
def _small_clip(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(networks, "CLIP_ARCHITECTURE", CLIP)
    monkeypatch.setattr(download, "FIRST_WAIT", 0.001)


@pytest.fixture(scope="module")
def images():
    coarse = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 3))
    return coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)


LENGTHS = {"alexnet_2": 192 * 31 * 31, "alexnet_5": 256 * 15 * 15, "inception": 2048, "clip": 24}
LENGTHS |= {"effnet": 1280, "swav": 2048}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_have_the_published_sizes(folder, images, name):
    network = LoadedNetwork(NETWORKS[name], folder, CPU)
    found = features(network, images, "neuropictor")
    assert {metric: values.shape for metric, values in found.items()} == {
        metric: (5, LENGTHS[metric]) for metric in METRICS if METRICS[metric].needs == name
    }
    assert all(np.isfinite(values).all() and values.std() > 0 for values in found.values())
    again = features(network, images[3:4], "neuropictor")
    for metric, values in found.items():
        # The others' images do not matter; without training, EfficientNet makes a lot of rounding errors.
        assert np.corrcoef(again[metric][0], values[3])[0, 1] > (0.5 if name == "effnet" else 0.999)


def test_alexnet_is_what_its_definition_says(folder, images):
    """The rectified second convolution of the image at 256 pixels, enlarged without antialias, normalised."""
    state = torch.load(folder / WEIGHT_FILES["alexnet"].name, weights_only=True)
    x = torch.from_numpy(images[:2]).permute(0, 3, 1, 2).float() / 255
    x = interpolate(x, (256, 256), mode="bilinear", align_corners=False)
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = torch.conv2d(x, state["features.0.weight"], state["features.0.bias"], stride=4, padding=2).relu()
    x = torch.max_pool2d(x, 3, 2)
    x = torch.conv2d(x, state["features.3.weight"], state["features.3.bias"], padding=2).relu()
    found = features(LoadedNetwork(NETWORKS["alexnet"], folder, CPU), images[:2], "mindeye2")
    assert np.allclose(found["alexnet_2"], x.flatten(1).numpy(), atol=1e-4)


def test_protocols_differ_in_how_images_come(images):
    """NeuroPictor saves at 512 by Pillow and reduces without antialias; MindEye goes to 256 at once."""
    from PIL import Image

    ours, theirs = (judging.common_images(images, PROTOCOLS[name], CPU) for name in ("neuropictor", "mindeye2"))
    saved = np.asarray(Image.fromarray(images[0]).resize((512, 512), Image.Resampling.BILINEAR)) / np.float32(255)
    # Halving without antialias takes the mean of the two middle pixels of each axis.
    halved = (saved[::2, ::2] + saved[1::2, ::2] + saved[::2, 1::2] + saved[1::2, 1::2]) / 4
    assert np.allclose(ours[0].permute(1, 2, 0), halved, atol=1e-6)
    assert not torch.allclose(ours, theirs, atol=1e-3)
    pixels = judging.pixel_images(ours, PROTOCOLS["neuropictor"])
    assert pixels.shape == (5, 425, 425, 3)
    assert (pixels >= 0).all()
    assert (pixels <= 1).all()


def test_clip_is_resized_as_the_protocol_says(folder, images):
    network = LoadedNetwork(NETWORKS["clip"], folder, CPU)
    bicubic, bilinear = (features(network, images, name)["clip"] for name in ("neuropictor", "mindeye2"))
    assert not np.allclose(bicubic, bilinear, atol=1e-3)


class Counted(Held):
    """Images that count how often each is read."""

    def __init__(self, images):
        super().__init__(images)
        self.reads = np.zeros(images.shape[:2], int)

    def read(self, rows, sample=0):
        self.reads[rows, sample] += 1
        return super().read(rows, sample)


def test_each_network_is_loaded_once_and_each_image_read_once_for_all_protocols(folder, images, monkeypatch):
    loaded = []
    monkeypatch.setattr(judging, "load_network", lambda one, *rest: loaded.append(one.name) or load_network(one, *rest))
    generator = np.random.default_rng(4)
    seen, everything = images[:3], np.arange(3)
    noisy = (0.7 * seen[:, None] + 0.3 * generator.integers(0, 256, (3, 2, 64, 64, 3))).astype(np.uint8)
    drawn = {
        "good": (noisy[:2], everything[:2]),
        "part": (noisy[1:, :1], everything[1:]),
        "same": (
            seen[:, None],
            everything,
        ),  # in a batch as large: other sizes may round otherwise, processor by processor
    }
    protocols, none = list(PROTOCOLS.values()), np.full(3, "")
    judge = Judge(load_describer("published", None, folder, CPU), Held(seen[:, None]), none, none, [])
    scorer, pairings = Scorer(judge, list(PROTOCOLS), folder, CPU), Pairings(3, 99, 0)
    scored = {}
    for name, (samples, rows) in drawn.items():
        counted = Counted(samples)
        scored[name] = scorer.score(counted, rows, pairings)
        assert (counted.reads == 1).all()
    assert loaded == ["clip", *NETWORKS]  # CLIP is the judge of `ours` too
    assert np.allclose(scored["same"][0][OURS, "lpips"], 0, atol=1e-6)
    assert np.allclose(scored["same"][0][OURS, "pixcorr"], 1)
    for protocol in protocols:
        found, nulls = (
            {
                name: {metric: values for (label, metric), values in results[part].items() if label == protocol.label}
                for name, results in scored.items()
            }
            for part in (0, 1)
        )
        assert set(found["good"]) == set(shown_in("published"))
        assert {len(values) for values in found["part"].values()} == {2}
        for metric, values in found["same"].items():
            best = {"effnet": 0, "swav": 0}.get(metric, 1)
            assert np.allclose(values, best, atol=1e-5), metric
        assert set(nulls["good"]) == {"alexnet_2", "alexnet_5", "inception", "clip"}
        assert nulls["part"]["clip"].shape == (99,)


def test_perceptual_distance(folder, images):
    measure = judging.PerceptualDistance(folder, CPU)
    assert np.allclose(measure(images, images), 0, atol=1e-6)
    near = np.clip(images.astype(int) + 5, 0, 255).astype(np.uint8)
    assert (measure(near, images) < measure(images[::-1].copy(), images)).mean() >= 0.8


def test_clip_describes_images_and_categories(folder, images):
    describer = judging.ClipDescriber(folder, CPU)
    assert describer.image_size == 224
    sized = images.repeat(4, 1).repeat(4, 2)[:, :224, :224]
    for found, number in ((describer.image_features(sized), 5), (describer.category_features(["cat", "dog"]), 2)):
        assert found.shape == (number, 24)
        assert torch.allclose(found.norm(dim=1), torch.ones(number), atol=1e-5)


def test_files_that_do_not_fit_are_refused(folder, tmp_path):
    for file in WEIGHT_FILES.values():
        (tmp_path / file.name).write_bytes((folder / file.name).read_bytes() if file.endpoint == "swav" else b"")
    state = torch.load(folder / WEIGHT_FILES["swav"].name, weights_only=True)
    state.pop("module.conv1.weight")
    torch.save(state, tmp_path / WEIGHT_FILES["swav"].name)
    torch.save({"a": pytest.approx}, tmp_path / WEIGHT_FILES["alexnet"].name)
    note(tmp_path)
    with pytest.raises(WeightsError, match=r"does not fit ResNet: missing \['conv1.weight'\]"):
        load_network(NETWORKS["swav"], tmp_path, CPU)
    with pytest.raises(WeightsError, match="cannot be read as weights alone"):
        load_network(NETWORKS["alexnet"], tmp_path, CPU)


CONTENT = {name: np.random.default_rng(place).bytes(30_000) for place, name in enumerate(WEIGHT_FILES)}
#: Their names tell the start of their checksums, as torchvision's do.
FILES = {
    name: file._replace(digest=hashlib.sha256(CONTENT[name]).hexdigest()[: len(file.digest)])
    for name, file in WEIGHT_FILES.items()
}


@pytest.fixture
def server():
    with serving({file.name: Stored(CONTENT[name]) for name, file in FILES.items()}) as running:
        yield running


def settings(server, **more):
    return WeightsConfig(torchvision=server.address, clip=server.address, swav=server.address, **more)


def test_weights_are_fetched_once_and_compared_with_their_checksums(server, tmp_path, caplog):
    fetch_weights(FILES, settings(server), tmp_path)
    for name, file in FILES.items():
        assert (tmp_path / file.name).read_bytes() == CONTENT[name]
        assert locate(tmp_path, file) == tmp_path / file.name
    assert caplog.text.count("its maker publishes no checksum") == 2
    asked = len(server.requests)
    fetch_weights(FILES, settings(server), tmp_path)
    assert len(server.requests) == asked
    assert not list(tmp_path.glob("*.part*"))


def test_changed_files_are_found_out(server, tmp_path):
    fetch_weights(FILES, settings(server), tmp_path)
    target = tmp_path / WEIGHT_FILES["swav"].name
    target.write_bytes(CONTENT["swav"][::-1])
    with pytest.raises(WeightsError, match=r"swav_800ep.*SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}\. It is not used"):
        locate(tmp_path, FILES["swav"])
    with pytest.raises(WeightsError, match="remove it and fetch it again"):
        fetch_weights(FILES, settings(server), tmp_path)


def test_wrong_files_get_no_name(server, tmp_path):
    server.objects[WEIGHT_FILES["effnet"].name] = Stored(b"something else" * 100)
    with pytest.raises(WeightsError, match=r"efficientnet_b1-c27df63c.pth: sha256 .*expected [0-9a-f]{8}:"):
        fetch_weights(FILES, settings(server), tmp_path)
    assert not (tmp_path / WEIGHT_FILES["effnet"].name).exists()
    server.objects[WEIGHT_FILES["effnet"].name] = Stored(CONTENT["effnet"])
    with pytest.raises(WeightsError, match="expected 00000000"):
        fetch_weights(FILES, settings(server, swav_sha256="0" * 8), tmp_path / "other")


def test_what_is_missing_is_named(server, tmp_path):
    del server.objects[WEIGHT_FILES["clip"].name]
    with pytest.raises(
        WeightsError, match=r"could not be fetched: open_clip_model.safetensors: .* 404 .*section weights"
    ):
        fetch_weights(FILES, settings(server), tmp_path)
    with pytest.raises(WeightsError, match=r"neuropictor fetch-weights --out .*networks: miniature"):
        locate(tmp_path / "nowhere", FILES["alexnet"])


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="protocols has mindeye2, which is defined by published networks"):
        EvaluateConfig(protocols=["ours", "mindeye2"])
    with pytest.raises(ValueError, match="allowed: ours, which tables stand on"):
        EvaluateConfig(protocols=["mindeye2"], networks="published")
    with pytest.raises(ValueError, match="each protocol once"):
        EvaluateConfig(protocols=["ours", "ours"])


@pytest.mark.parametrize("text", ["{", "[]", '{"a.pth": {}}', '{"a.pth": {"sha256": 1}}', "[" * 10**5])
def test_notes_that_are_none_are_refused_by_name(tmp_path, text):
    (tmp_path / NOTES).write_text(text)
    with pytest.raises(WeightsError, match=r"weights\.json is damaged: .* fetch the weights again"):
        locate(tmp_path, WEIGHT_FILES["clip"])
