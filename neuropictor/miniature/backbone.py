"""Train the miniature backbone on rendered scenes that no subject sees: towers, VAE, its decoder once more, UNet."""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuropictor.miniature.measures import high_frequencies, psnr
from neuropictor.miniature.networks import WEIGHTS, build, build_tokenizer, read_weights, render_scenes, save
from neuropictor.models.backbone import PROMPTS, Backbone
from neuropictor.models.device import fast_bf16, prepare_device
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord
from neuropictor.simulation.scenes.scene import CATEGORIES, Scene, captions
from neuropictor.training.checkpoints import CheckpointFolder, make_guard
from neuropictor.training.loop import Batch, History, Recipe, Task, Trainer, make_accelerator, write_history

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig
    from neuropictor.miniature.settings import BackboneTraining

log = logging.getLogger(__name__)

#: The last scenes, held out of training.
HELD_OUT = 1000
_AT_ONCE = 100  # scenes of a validation batch
#: Of long trainings: a constant rate and a moving average, so that they go on from their weights alone.
_OPEN_END = {"schedule": "constant", "ema": 0.999}


class Rows:
    """Batches of scenes by their numbers, ``rows`` ``[B]``; each epoch has a random order of its own.

    Parameters
    ----------
    count
        Scenes to train on: the first ones.
    batch_size
        Scenes a step.
    validated
        Scenes after them for validation.
    seed
        Seed of the order.
    """

    def __init__(self, count: int, batch_size: int, validated: int, seed: int):
        self.count, self.batch_size, self.validated, self.seed = count, batch_size, validated, seed

    def loader(self, start: int, stop: int, workers: int, pinned: bool) -> Iterator[Batch]:
        """Yield the batches of steps ``start`` to ``stop - 1``."""
        for step in range(start, stop):
            epoch, place = divmod(step, self.count // self.batch_size)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            yield {"rows": torch.from_numpy(order[place * self.batch_size :][: self.batch_size])}

    def fixed(self) -> Iterator[Batch]:
        """Yield the batches of a validation."""
        yield from ({"rows": rows} for rows in torch.arange(self.count, self.count + self.validated).split(_AT_ONCE))


class Part(Task):
    """A part of the backbone in training.

    Parameters
    ----------
    backbone
        On the device of the training; the other parts are frozen.
    images
        uint8 ``[N, 64, 64, 3]``.
    scenes
        Their content.

    Attributes
    ----------
    recipe
        Settings of this part.
    trained
        The trained part, as named in `Backbone`.
    validated
        Most held-out scenes of a validation.
    """

    recipe: ClassVar[dict[str, Any]]
    trained: ClassVar[tuple[str, ...]]
    validated: ClassVar[int] = 1000

    def __init__(self, backbone: Backbone, images: np.ndarray, scenes: list[Scene]):
        self.backbone, self.images, self.scenes = backbone, images, scenes
        for name in self.trained:
            getattr(backbone, name).requires_grad_(True)

    def losses(self, module: nn.Module, batch: Batch, step: int | None) -> dict[str, Tensor]:
        """Return ``loss`` of a training step, or the measures of a validation."""
        rows = batch["rows"].cpu().numpy()
        return {"loss": self._loss(rows)} if step is not None else self._measures(rows)

    def _loss(self, rows: np.ndarray) -> Tensor:
        """Return the loss of scenes."""
        raise NotImplementedError

    def _measures(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Return measures of held-out scenes by name, as means over them."""
        raise NotImplementedError

    def finish(self) -> None:
        """Freeze the part again."""
        for name in self.trained:
            getattr(self.backbone, name).eval().requires_grad_(False)


def category_accuracy(backbone: Backbone, images: np.ndarray, scenes: list[Scene]) -> Tensor:
    """Return the share of images whose main object's category is the nearest text in the shared space."""
    scores = backbone.image_features(images) @ backbone.category_features(list(CATEGORIES)).T
    return (scores.argmax(1).cpu() == categories(scenes)).float().mean()


def categories(scenes: list[Scene]) -> Tensor:
    """Return the index into `CATEGORIES` of each scene's main object, ``[N]``."""
    return torch.tensor([CATEGORIES.index(item.objects[0].category) for item in scenes])


class Towers(Part):
    """Text and image tower, trained contrastively (arXiv 2103.00020) on a random caption of each image.

    A second contrast, of the image with the names of all categories, teaches the towers the objects: with captions
    alone, background and colour distinguish images so well that categories are learnt last.
    """

    recipe: ClassVar = {"learning_rate": 1e-3, "weight_decay": 0.05, "validation_interval": 100}
    trained: ClassVar = ("text_encoder", "image_encoder")
    module: nn.ModuleDict

    def __init__(self, backbone: Backbone, images: np.ndarray, scenes: list[Scene]):
        super().__init__(backbone, images, scenes)
        assert backbone.text_encoder is not None and backbone.image_encoder is not None
        self.module = nn.ModuleDict({"text": backbone.text_encoder, "image": backbone.image_encoder})
        scale = torch.tensor(np.log(1 / 0.07), dtype=torch.float32, device=backbone.device)
        self.module.register_parameter("log_scale", nn.Parameter(scale))
        self.tokens = backbone.tokens([line for item in scenes for line in captions(item)])
        self.names = [backbone.tokens([prompt.format(name) for name in CATEGORIES]) for prompt in PROMPTS]
        self.main = categories(scenes).to(backbone.device)

    def _loss(self, rows: np.ndarray) -> Tensor:
        choice = torch.randint(0, CAPTIONS_PER_IMAGE, (len(rows),)).numpy()
        names = self.names[int(torch.randint(0, len(self.names), ()))]
        lines = torch.cat([self.tokens[rows * CAPTIONS_PER_IMAGE + choice], names])
        words = F.normalize(self.module["text"](input_ids=lines).text_embeds, dim=-1)
        images = F.normalize(self.module["image"](self.backbone.to_tensor(self.images[rows])), dim=-1)
        logits = images @ words.T * self.module.get_parameter("log_scale").exp().clamp(max=100)
        logits, named = logits[:, : len(rows)], logits[:, len(rows) :]
        target = torch.arange(len(rows), device=logits.device)
        pairs = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return pairs + F.cross_entropy(named, self.main[rows])

    def _measures(self, rows: np.ndarray) -> dict[str, Tensor]:
        return {"category": category_accuracy(self.backbone, self.images[rows], [self.scenes[row] for row in rows])}


class Autoencoder(Part):
    """The VAE, with a little KL; latents are scaled to unit variance in the end."""

    recipe: ClassVar = {"learning_rate": 2e-3, "weight_decay": 0.0, "validation_interval": 500, **_OPEN_END}
    trained: ClassVar = ("vae",)
    module: Any  # AutoencoderKL, whose annotations ask for older kinds of tensors
    validated: ClassVar = 400

    def __init__(self, backbone: Backbone, images: np.ndarray, scenes: list[Scene]):
        super().__init__(backbone, images, scenes)
        self.module = backbone.vae

    def _images(self, rows: np.ndarray) -> Tensor:
        # Channels last, as they come, bf16 takes a fifth longer on a CPU.
        return self.backbone.to_tensor(self.images[rows]).contiguous()

    def _loss(self, rows: np.ndarray) -> Tensor:
        images = self._images(rows)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=fast_bf16(images.device)):
            posterior = self.module.encode(images).latent_dist
            decoded = self.module.decode(posterior.sample()).sample.float()
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return _pixel_distance(decoded, images) + 3e-4 * divergence

    def _measures(self, rows: np.ndarray) -> dict[str, Tensor]:
        decoded = reconstruct(self.backbone, self.images[rows])
        scenes = [self.scenes[row] for row in rows]
        return {
            "psnr": torch.tensor(psnr(decoded, self.images[rows])),
            "high_frequencies": torch.tensor(high_frequencies(decoded, self.images[rows])),
            "category": category_accuracy(self.backbone, decoded, scenes),
        }

    def finish(self) -> None:
        """Scale the latents, too."""
        super().finish()
        mean, _ = self.backbone.encode_images(self.images[-HELD_OUT:][: self.validated])
        self.module.register_to_config(scaling_factor=float(1 / mean.std()))


def _pixel_distance(decoded: Tensor, images: Tensor) -> Tensor:
    """L1 and squared error of images in -1..1, and L1 of the steps between neighbours, which edges are learnt by."""
    error = decoded - images
    steps = sum(error.diff(dim=dim).abs().mean() for dim in (2, 3))
    return error.abs().mean() + error.square().mean() + steps


def reconstruct(backbone: Backbone, images: np.ndarray) -> np.ndarray:
    """Encode and decode images by the VAE; uint8 ``[N, S, S, 3]`` both."""
    mean, _ = backbone.encode_images(images)
    return backbone.decode(mean * backbone.vae.config["scaling_factor"])


class Decoder(Autoencoder):
    """The VAE's decoder, trained further with its encoder frozen: sharper images from the same latents."""

    recipe: ClassVar = {"learning_rate": 1e-3, "weight_decay": 0.0, "validation_interval": 500}

    def __init__(self, backbone: Backbone, images: np.ndarray, scenes: list[Scene]):
        super().__init__(backbone, images, scenes)
        self.mean, self.logvar = _moments(backbone, images)
        for part in (self.module.encoder, self.module.quant_conv):
            part.requires_grad_(False)

    def _loss(self, rows: np.ndarray) -> Tensor:
        images, mean = self._images(rows), self.mean[rows]
        latents = mean + (0.5 * self.logvar[rows]).exp() * torch.randn_like(mean)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=fast_bf16(images.device)):
            return self._distance(self.module.decode(latents).sample, images)

    def _distance(self, decoded: Tensor, images: Tensor) -> Tensor:
        """L1, squared error, and a perceptual distance on the image tower's stages, of images in -1..1."""
        tower = self.backbone.image_encoder
        assert tower is not None
        with torch.no_grad():
            target = tower.stages(images)
        perceptual = sum(
            (F.normalize(one.float(), dim=1) - F.normalize(other.float(), dim=1)).square().sum(1).mean()
            for one, other in zip(tower.stages(decoded), target, strict=True)
        )
        return _pixel_distance(decoded.float(), images) + 0.1 * perceptual


def _moments(backbone: Backbone, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of the VAE's posterior for all images, each ``[N, C, h, w]``."""
    parts = [backbone.encode_images(chunk) for chunk in np.array_split(images, -(-len(images) // 500))]
    return torch.cat([mean for mean, _ in parts]), torch.cat([logvar for _, logvar in parts])


class Unet(Part):
    """Text to image; the context is one caption's or the mean over all five, and empty for one image in ten.

    The guiding network learns by least squares, so it predicts the mean over the captions that people give: the UNet
    must know such contexts.
    """

    recipe: ClassVar = {"learning_rate": 1e-3, "weight_decay": 0.01, "validation_interval": 500, **_OPEN_END}
    trained: ClassVar = ("unet",)
    validated: ClassVar = 500

    def __init__(self, backbone: Backbone, images: np.ndarray, scenes: list[Scene]):
        super().__init__(backbone, images, scenes)
        self.module = backbone.unet
        self.mean, self.logvar = _moments(backbone, images)
        shape = (CAPTIONS_PER_IMAGE, *backbone.context_shape)
        self.contexts = torch.empty(len(scenes), *shape, dtype=torch.float16, device=backbone.device)
        for start in progress(range(0, len(scenes), 200), "Encoding captions"):
            lines = [line for item in scenes[start : start + 200] for line in captions(item)]
            self.contexts[start : start + 200] = backbone.encode_text(lines).reshape(-1, *shape).half()

    def _loss(self, rows: np.ndarray) -> Tensor:
        backbone, count = self.backbone, len(rows)
        to: dict[str, Any] = {"device": backbone.device}
        posterior, noise = torch.randn(2, count, *backbone.latent_shape, **to)
        pick = torch.randint(0, CAPTIONS_PER_IMAGE, (count,), **to)
        single, empty = torch.rand(2, count, 1, 1, **to) < torch.tensor([0.4, 0.1], **to)[:, None, None, None]
        time = torch.randint(0, backbone.scheduler.config["num_train_timesteps"], (count,), **to)
        latents = backbone.latents(self.mean[rows], self.logvar[rows], posterior)
        context = self.contexts[rows].float()
        context = torch.where(single, context[torch.arange(count), pick], context.mean(1))
        context = torch.where(empty, backbone.null_context(), context)
        noisy = backbone.scheduler.add_noise(latents, noise, time)  # pyright: ignore[reportArgumentType] (diffusers asks for an IntTensor, which is no Tensor)
        target = backbone.scheduler.get_velocity(latents, noise, time)  # pyright: ignore[reportArgumentType] (diffusers asks for an IntTensor, which is no Tensor)
        return F.mse_loss(self.module(noisy, time, context).sample, target)

    def _measures(self, rows: np.ndarray) -> dict[str, Tensor]:
        torch.manual_seed(int(rows[0]))  # the same noise every time; training steps have seeds of their own
        return {"loss": self._loss(rows)}


#: In the order of training; names as in the settings.
PARTS: dict[str, type[Part]] = {"towers": Towers, "vae": Autoencoder, "decoder": Decoder, "unet": Unet}


def train_part(
    name: str, task: Part, config: "BackboneTraining", runtime: "RuntimeConfig", folder: Path, start: Mapping[str, Path]
) -> History:
    """Train a part of a backbone, or its judge, with checkpoints in `folder`, and return the history.

    `start` has the folders of weights that were read before, by name.
    """
    rows = Rows(
        len(task.images) - HELD_OUT, getattr(config, f"{name}_batch"), min(task.validated, HELD_OUT), config.seed
    )
    recipe = Recipe(
        steps=getattr(config, f"{name}_steps"),
        warmup=100,
        betas=(0.9, 0.99),
        max_norm=1.0,
        **{"schedule": "cosine", **task.recipe},
    )
    guard = make_guard({"backbone": config}, start, __file__ if runtime.track_code else None)
    checkpoints = CheckpointFolder(folder, guard)
    history = Trainer(task, rows, rows, recipe, runtime, checkpoints, make_accelerator(runtime)).run(
        f"Training the {name}"
    )
    task.finish()
    return history


def train_backbone(
    config: "BackboneTraining", runtime: "RuntimeConfig", out: str | Path, start: str | Path | None = None
) -> None:
    """Train all parts of the miniature backbone and write its folder.

    Finished parts and checkpoints lie in ``checkpoints/`` of the folder, from which a stopped training is resumed.

    Parameters
    ----------
    config, runtime
        Sections of the settings.
    out
        Folder in the layout that `Backbone.load` reads; ``run.json`` is written into it last.
    start
        Folder of weights in the same layout, of some parts or all; their training goes on from there, the others begin
        at random.

    Raises
    ------
    ValueError
        If a part in `start` has other sizes than the settings, or one that is not trained is not there.
    """
    out = Path(out)
    started = {name: Path(start) / name for name in WEIGHTS if (Path(start) / name).is_dir()} if start else {}
    for part in (part for part in ("towers", "vae", "unet") if not getattr(config, f"{part}_steps")):
        if missing := [name for name in PARTS[part].trained if name not in started]:
            raise ValueError(
                f"backbone.{part}_steps is 0, and {start or '--resume-from'} gives no {', '.join(missing)}; allowed:"
                " some steps, or a folder that has it, for example --resume-from neuropictor/assets/miniature"
            )
    work = out / "checkpoints" / hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
    with RunRecord(out / "run.json", "backbone", config=config, seed=config.seed, outputs=[out]) as record:
        images, scenes = render_scenes(range(config.scenes), config.seed, max(1, runtime.threads))
        torch.manual_seed(config.seed)
        backbone = build(build_tokenizer([line for item in scenes for line in captions(item)]), config)
        for name, folder in started.items():
            read_weights(backbone, name, folder)
        for module in backbone.modules:
            module.eval().requires_grad_(False)
        for part, kind in PARTS.items():
            folder = work / part
            if not getattr(config, f"{part}_steps"):
                continue
            if (folder / "history.csv").is_file():
                log.info("The %s: trained already", part)
                backbone = Backbone.load(folder)
                continue
            task = kind(backbone.to(prepare_device(runtime)), images, scenes)
            history = train_part(part, task, config, runtime, work / f"{part}-steps", started)
            save(backbone, folder)
            write_history(folder / "history.csv", history)
            last = [row for row in history if row[:2] == (history[-1][0], "validation")]
            record.add(**{f"{part}_{name}": value for _, _, name, value in last})
        save(backbone, out)
    shutil.rmtree(work.parent, ignore_errors=True)
