"""Tiny stand-ins shared by the tests: a backbone with random weights, prepared responses and images."""

import gc
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from filelock import FileLock
from small_backbone import WORDS, make_tiny_backbone

SUBJECTS = ("01", "02")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write the table of docs/reliability.md anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that pytest-xdist's workers end at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("workflow") is None)


def pytest_collection_finish() -> None:
    """Spare collections of garbage what imports have made and what stays: each training makes one, of 0.3 s."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a backbone with random weights."""
    return make_tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def tiny_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with sub-01/responses.h5, sub-02/responses.h5 and stimuli.h5: 14 images each, two to three repeats."""
    from neuropictor.data.responses import ResponseWriter
    from neuropictor.data.stimuli import StimulusWriter
    from neuropictor.surface import load_geometry

    folder = tmp_path_factory.mktemp("prepared")
    random = np.random.default_rng(0)
    vertices = load_geometry().n_vertices
    images = np.arange(100, 126)
    for subject in SUBJECTS:
        own = images[:14] if subject == "01" else images[-14:][::-1]  # 113 and 112 are shared, and test both
        nsd_id = random.permutation(np.repeat(own, 3))[:-3]
        repeat = [int((nsd_id[:i] == value).sum()) for i, value in enumerate(nsd_id)]
        split = np.select([np.isin(nsd_id, own[-3:]), np.isin(nsd_id, own[:2])], [2, 1], 0)
        path = folder / f"sub-{subject}" / "responses.h5"
        path.parent.mkdir()
        with h5py.File(path, "w") as file:
            writer = ResponseWriter(
                file, len(nsd_id), vertices, subject=subject, data="simulated", beta_version="b3", mesh="fsaverage5"
            )
            writer.append(random.standard_normal((len(nsd_id), vertices)).astype(np.float32))
            writer.finish(
                ncsnr=np.full(vertices, 0.4),
                nsd_id=nsd_id,
                session=np.ones_like(nsd_id),
                repeat=np.array(repeat),
                split=split,
            )
    with h5py.File(folder / "stimuli.h5", "w") as file:
        writer = StimulusWriter(file, images, 8, "simulated")
        writer.append(random.integers(0, 256, (len(images), 8, 8, 3), dtype=np.uint8))
        captions = [[f"a {WORDS[3 + i % 2]} {WORDS[5 + (i + j) % 3]}" for j in range(1 + i % 5)] for i in range(26)]
        writer.finish(captions, ["ball"] * 26, ["sky"] * 26)
    return folder


@pytest.fixture
def tiny_runtime():
    """Runtime section for one slow core."""
    from neuropictor.config import RuntimeConfig

    return RuntimeConfig(device="cpu", threads=1, checkpoint_interval=4, log_interval=2, track_code=False)


@pytest.fixture(scope="session")
def tiny_latents(tiny_prepared: Path, tiny_backbone: Path) -> Path:
    """Latents of the tiny images."""
    from neuropictor.config import RuntimeConfig
    from neuropictor.data.latents import cache_latents

    out = tiny_prepared / "latents.h5"
    cache_latents(tiny_prepared / "stimuli.h5", tiny_backbone, RuntimeConfig(device="cpu", threads=1), out)
    return out


@pytest.fixture(scope="session")
def tiny_components(tiny_prepared: Path, tiny_latents: Path) -> list[Path]:
    """Aligned components of the tiny responses: three of text, four of latents."""
    from neuropictor.config import AlignConfig
    from neuropictor.data.alignment import align_subject, make_space

    config = AlignConfig(tokens=2, text_components=3, latent_components=4, folds=2)
    responses = [tiny_prepared / f"sub-{subject}" / "responses.h5" for subject in SUBJECTS]
    space = tiny_prepared / "space.safetensors"
    make_space([tiny_latents], responses, None, config, space)
    for path in responses:
        align_subject(path, tiny_latents, space, config, path.with_name("components.h5"))
    return [path.with_name("components.h5") for path in responses]


@pytest.fixture(scope="session")
def published_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the published networks' files with random weights; not to be edited."""
    from published_weights import write_weights

    folder = tmp_path_factory.mktemp("published")
    write_weights(folder)
    return folder


@pytest.fixture(scope="session")
def experiments_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated NSD of two subjects' images, and NSD-Imagery and NSD-synthetic of the first; not to be edited."""
    from neuropictor.config import SimulateConfig
    from neuropictor.simulation.writer import imagery, nsd, synthetic

    config = SimulateConfig(sessions=1, trials_per_session=60, shared_images=12, image_size=120)
    root = tmp_path_factory.mktemp("experiments")
    nsd.write_images(root, config)
    imagery.write_imagery_images(root, config)
    imagery.write_imagery_subject(root, 1, config)
    synthetic.write_synthetic_images(root, config)
    synthetic.write_synthetic_subject(root, 1, config)
    return root


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Folder in which the tiny chain has run, once for all workers of pytest-xdist; not to be edited."""
    from tiny_chain import WARM, snakemake

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "chain"
    with FileLock(f"{folder}.lock"):
        if not (folder / "results/metrics.csv").is_file():
            folder.mkdir(exist_ok=True)
            snakemake(folder, program=WARM)
    return folder


@pytest.fixture(autouse=True)
def no_log_left():
    """Take away handlers that a command has set: they write to a standard error which is closed after it."""
    yield
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) in (logging.StreamHandler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
