"""What a rehearsal fetches: a simulated NSD, COCO's annotations and random networks, all of the real sizes.

NSD is simulated on the full fsaverage, 750 trials a session; its design is that of NSD (73,000 images, 30,000 trials a
subject), but the sessions that are fetched show a few images again and again, so that networks of the real size see few
of them. The bank has 73,000 places of 425 x 425 pixels, of which only those that are read hold an image (chunks that
were never written take no room in HDF5). Weights are random and their shapes true. Every file is written whole or not
at all, and what is there stays: a preparation that was killed goes on.
"""

import functools
import json
import mmap
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import h5py
import numpy as np
from stable_diffusion_folder import save_stable_diffusion
from stand_in_bucket import Stored

from neuropictor.config import SimulateConfig
from neuropictor.fetching.nsd import ARCHIVES
from neuropictor.nsd import keys
from neuropictor.nsd.betas import session_paths
from neuropictor.nsd.constants import HEMISPHERES, IMAGE_SIZE, IMAGES, SESSIONS, TRIALS_PER_SESSION
from neuropictor.records.files import atomic_path
from neuropictor.simulation.brain.brain import SimulatedBrain
from neuropictor.simulation.brain.features import SEEN_SIZE
from neuropictor.simulation.scenes.scene import reduce_image, render, scene
from neuropictor.simulation.writer.coco import CocoImages, write_annotations
from neuropictor.simulation.writer.design import write_experiment_design, write_stimulus_info
from neuropictor.simulation.writer.nsd import BETA_VERSION, write_betas
from neuropictor.simulation.writer.trial_order import TrialOrder, make_order
from neuropictor.surface import load_geometry

SEED = 2024
SUBJECTS, SESSIONS_FETCHED = (1, 2), 1
#: Images that a subject sees: those of the test, which all share, and others.
SHARED, PRIVATE = 3, 21
MESH, VERTICES = "fsaverage", 163_842

#: Bytes of COCO's unpacked files of 2017; the last two are estimates.
COCO_BYTES = {
    "captions_train2017": 91_865_115,
    "captions_val2017": 3_872_473,
    "instances_train2017": 469_785_474,
    "instances_val2017": 19_987_840,
    "stuff_train2017": 600_000_000,
    "stuff_val2017": 26_000_000,
}
#: Where the folder of published networks lies on the server.
PUBLISHED = "published"


class StoredFile(Stored):
    """An object of the stand-in bucket whose bytes stay on disk."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            super().__init__(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    @functools.cached_property
    def etag(self) -> str:
        return super().etag


def served(work: Path) -> dict[str, Stored]:
    """Return all objects of the stand-in bucket; their ETags take seconds at first."""
    return {path.relative_to(root).as_posix(): StoredFile(path) for root in (work / "bucket",) for path in _files(root)}


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and ".partial" not in path.name)


def make_all(work: Path) -> None:
    """Make what is not there yet, below ``bucket`` (what is served), ``backbone`` and ``target_text_encoder``."""
    root = work / "bucket"
    design, coco = order(), CocoImages(IMAGES, SEED)
    make = {
        keys.EXPERIMENT_DESIGN: lambda: write_experiment_design(root, design),
        keys.STIMULUS_INFO: lambda: write_stimulus_info(root, design, coco),
        keys.SIMULATED: lambda: write_notice(root / keys.SIMULATED),
        keys.STIMULI: lambda: _write_bank(root / keys.STIMULI, design),
    }
    make |= {key: functools.partial(_write_archive, root, key, kinds, coco) for key, kinds in ARCHIVES.items()}
    for subject in SUBJECTS:
        make[keys.betas(subject, SESSIONS_FETCHED, HEMISPHERES[-1], BETA_VERSION)] = functools.partial(
            _write_subject, root, subject, design
        )
    make |= {
        f"{PUBLISHED}/{name}": lambda p=root / PUBLISHED, n=name: PUBLISHED_FILES[n](p / n) for name in PUBLISHED_FILES
    }
    for key, write in make.items():
        if not (root / key).is_file():
            print(f"Making {key}", flush=True)
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            write()
    for name, write_folder in (("backbone", write_backbone), ("target_text_encoder", write_target_encoder)):
        with folder_once(work / name) as folder:
            if folder:
                print(f"Making {name}", flush=True)
                write_folder(folder)


@contextmanager
def folder_once(path: Path) -> Iterator[Path | None]:
    """Make a folder whole or not at all; yields a temporary one, or None where it is there."""
    if path.is_dir():
        yield None
        return
    temporary = path.with_name(f"{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    temporary.rename(path)


def full_order() -> TrialOrder:
    """Return a design with NSD's counts."""
    return make_order(SimulateConfig(seed=SEED, sessions=40, trials_per_session=TRIALS_PER_SESSION, shared_images=1000))


def order() -> TrialOrder:
    """Return the same, but in the sessions that are fetched `SHARED` + `PRIVATE` images are shown in turns."""
    full = full_order()
    master, trials = full.master_order.copy(), SESSIONS_FETCHED * TRIALS_PER_SESSION
    master[:trials] = np.resize(_slots(full), trials)
    return replace(full, master_order=master)


def _slots(design: TrialOrder) -> np.ndarray:
    return np.r_[:SHARED, len(design.shared) : len(design.shared) + PRIVATE]


def _shown(design: TrialOrder, subject: int) -> np.ndarray:
    """Return the images that a subject sees in the fetched sessions, ascending."""
    return np.sort(design.images_of_subject[subject - 1, _slots(design)])


def write_notice(path: Path) -> None:
    notice = {
        "notice": "SIMULATED. Rendered scenes and a simulated brain in the layout of the Natural Scenes Dataset, for a"
        " rehearsal of the workflow; no person was measured. Only a few sessions and images are there.",
        "sessions": {str(subject): count for subject, count in SESSIONS.items()},
        "mesh": MESH,
        "seed": SEED,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(notice, indent=2) + "\n")


def _write_bank(path: Path, design: TrialOrder) -> None:
    shape = (IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        bank = file.create_dataset("imgBrick", shape, np.uint8, chunks=(1, *shape[1:]))
        for nsd_id in np.unique([_shown(design, subject) for subject in SUBJECTS]):
            bank[nsd_id] = render(scene(SEED, int(nsd_id)), IMAGE_SIZE)


def _write_archive(root: Path, key: str, kinds: tuple[str, ...], coco: CocoImages) -> None:
    """Write an archive of COCO's: NSD's images have what their scenes show, other rows fill up to the true size."""
    scratch = root.parent / "coco"
    if not (scratch / keys.annotations("stuff", keys.COCO_SPLITS[-1])).is_file():
        write_annotations(scratch, [scene(SEED, nsd_id) for nsd_id in range(IMAGES)], coco)
    others = np.setdiff1d(np.arange(100, 581_930), coco.coco_id)[: 123_287 - IMAGES]
    with (
        atomic_path(root / key) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as to,
    ):
        for kind in kinds:
            for split in keys.COCO_SPLITS:
                source = scratch / keys.annotations(kind, split)
                ids = others[:-2500] if split == keys.COCO_SPLITS[0] else others[-2500:]
                with to.open(f"annotations/{source.name}", "w", force_zip64=True) as file:
                    file.writelines(_padded(source, kind, ids, COCO_BYTES[source.stem]))
    shutil.rmtree(scratch) if key == list(ARCHIVES)[-1] else None


def _padded(source: Path, kind: str, others: np.ndarray, size: int) -> Iterator[bytes]:
    """Yield the text of an annotation file with further images, and rows for them until it has so many bytes."""
    content = json.loads(source.read_bytes())
    rows, images = content.pop("annotations"), content["images"]
    images += [images[0] | {"id": int(number), "file_name": f"{number:012d}.jpg"} for number in others]
    head = json.dumps(content, separators=(",", ":")).removesuffix("}") + ',"annotations":['
    body = json.dumps(rows, separators=(",", ":"))[1:-1]
    yield head.encode()
    yield body.encode()
    written = len(head) + len(body)
    random = np.random.default_rng(SEED)
    # A COCO polygon has some 25 corners; stuff comes as one string of run lengths.
    regions = [
        json.dumps([random.uniform(0, 640, 50).round(2).tolist()], separators=(",", ":"))
        if kind == "instances"
        else json.dumps({"counts": "".join(random.choice(list("01234OPQRSTabcdef"), 560)), "size": [480, 640]})
        for _ in range(1000)
    ]
    category = rows[0].get("category_id", 1)
    for number, (image, region) in enumerate(zip(cycle(others.tolist()), cycle(regions), strict=False), 10_000_000):
        row = f',{{"image_id":{image},"id":{number},'
        if kind == "captions":
            row += '"caption":"A man riding a wave on top of a surfboard near the coast"}'
        else:
            row += f'"segmentation":{region},"area":702.1,"iscrowd":0,"bbox":[473.07,395.93,38.65,28.67],'
            row += f'"category_id":{category}}}'
        yield row.encode()
        written += len(row)
        if written >= size:
            break
    yield b"]}"


def _write_subject(root: Path, subject: int, design: TrialOrder) -> None:
    """Write a subject's betas."""
    trials = SESSIONS_FETCHED * TRIALS_PER_SESSION
    slots = design.master_order[:trials]
    nsd_ids = design.images_of_subject[subject - 1, slots]
    brain = SimulatedBrain(load_geometry(), MESH, subject, SEED)
    shown = _shown(design, subject)
    scenes = [scene(SEED, int(nsd_id)) for nsd_id in shown]
    seen = np.stack([reduce_image(render(item, IMAGE_SIZE), SEEN_SIZE) for item in scenes])
    signal = brain.signal(seen, scenes)[np.searchsorted(shown, nsd_ids)]
    for session in range(1, SESSIONS_FETCHED + 1):
        rows = signal[(session - 1) * TRIALS_PER_SESSION : session * TRIALS_PER_SESSION]
        paths = session_paths(root, subject, session, BETA_VERSION)
        write_betas(paths, brain.response_blocks(rows, session), len(rows), VERTICES)


def write_backbone(folder: Path) -> None:
    """Write Stable Diffusion 2.1-base as the hub has it: 23 text layers, no image tower, PNDM's schedule."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from paper_size import UNET, UNET_PARAMETERS, VAE
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET)
    assert sum(parameter.numel() for parameter in unet.parameters()) == UNET_PARAMETERS
    text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT, num_hidden_layers=23))
    save_stable_diffusion(folder, unet, AutoencoderKL(**VAE), text_encoder)


#: Of Stable Diffusion 2.1-base's text_encoder/config.json.
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}


def write_target_encoder(folder: Path) -> None:
    """Write the text tower of OpenCLIP ViT-H/14 with all 24 layers."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(1)
    config = CLIPTextConfig(**TEXT | {"projection_dim": 1024}, num_hidden_layers=24)
    CLIPTextModelWithProjection(config).save_pretrained(folder)


def _write_torch(name: str, path: Path) -> None:
    import torch
    from torchvision import models

    torch.manual_seed(2)
    model = getattr(models, name)(weights=None, **({"init_weights": False} if name == "inception_v3" else {}))
    weights = model.state_dict()
    if name == "resnet50":  # as SwAV's maker saves it
        weights = {f"module.{key}": value for key, value in weights.items() if not key.startswith("fc.")}
    with atomic_path(path) as temporary:
        torch.save(weights, temporary)


def _write_clip(path: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    from neuropictor.evaluation.networks import CLIP_ARCHITECTURE

    torch.manual_seed(3)
    weights = open_clip.create_model(CLIP_ARCHITECTURE, pretrained=None).state_dict()
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary)


PUBLISHED_FILES = {
    "alexnet-owt-7be5be79.pth": functools.partial(_write_torch, "alexnet"),
    "inception_v3_google-0cc3c7bd.pth": functools.partial(_write_torch, "inception_v3"),
    "efficientnet_b1-c27df63c.pth": functools.partial(_write_torch, "efficientnet_b1"),
    "swav_800ep_pretrain.pth.tar": functools.partial(_write_torch, "resnet50"),
    "open_clip_model.safetensors": _write_clip,
}
