"""Train the miniature backbone on rendered scenes that no subject sees: towers, VAE, its decoder once more, UNet."""

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional as F

from neuropictor.miniature.networks import CONTEXT_LENGTH, build, build_tokenizer, render_scenes, save
from neuropictor.models.backbone import PROMPTS, Backbone
from neuropictor.models.device import fast_bf16, prepare_device
from neuropictor.records.files import Folder
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord
from neuropictor.simulation.scenes.scene import CATEGORIES, Scene, captions
from neuropictor.training.loop import write_history

if TYPE_CHECKING:
    from neuropictor.config import BackboneTrainingConfig, RuntimeConfig

log = logging.getLogger(__name__)

History = list[tuple[int, str, str, float]]

HELD_OUT = 1000


def _batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    while True:
        order = torch.randperm(count, generator=generator).numpy()
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def fit(
    name: str,
    parameters: list[nn.Parameter],
    loss_of: Callable[[np.ndarray], Tensor],
    count: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    weight_decay: float = 0.01,
    ema: EMAModel | None = None,
    check: Callable[[], dict[str, float]] | None = None,
    check_interval: int = 500,
) -> History:
    """Minimise ``loss_of(rows)`` with AdamW, a short warm-up and a cosine schedule; return the history."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))
    )
    batches, history, running = _batches(count, batch_size, generator), [], None
    with progress(steps, f"Training the {name}", unit="step") as bar:
        for step in range(1, steps + 1):
            loss = loss_of(next(batches))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if ema is not None:
                ema.step(parameters)
            running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
            bar.advance(1, loss=running)
            if step % check_interval == 0 or step == steps:
                values = {"loss": running, **(check() if check else {})}
                history += [(step, name, key, value) for key, value in values.items()]
                log.info("%s step %d: %s", name, step, ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    return history


def category_accuracy(backbone: Backbone, pictures: np.ndarray, scenes: list[Scene]) -> float:
    """Share of pictures whose main object's category is the nearest text in the shared space."""
    scores = backbone.image_features(pictures) @ backbone.category_features(list(CATEGORIES)).T
    truth = torch.tensor([CATEGORIES.index(item.objects[0].category) for item in scenes])
    return (scores.argmax(1).cpu() == truth).float().mean().item()


def train_towers(
    backbone: Backbone, pictures: np.ndarray, scenes: list[Scene], steps: int, batch_size: int, seed: int
) -> History:
    """Train the text and image towers contrastively (arXiv 2103.00020) on a random one of each picture's captions.

    A second contrast, of the picture with the names of all categories, teaches the towers what the objects are: among
    captions alone, background and colour tell pictures apart so well that categories are learnt last.
    """
    text, image = (
        backbone.text_encoder.train().requires_grad_(True),
        backbone.image_encoder.train().requires_grad_(True),
    )
    tokens = backbone.tokenizer(
        [line for item in scenes for line in captions(item)],
        padding="max_length",
        max_length=CONTEXT_LENGTH,
        return_tensors="np",
    )["input_ids"].reshape(len(scenes), 5, CONTEXT_LENGTH)
    names = [
        backbone.tokenizer(
            [prompt.format(category) for category in CATEGORIES],
            padding="max_length",
            max_length=CONTEXT_LENGTH,
            return_tensors="pt",
        )["input_ids"]
        for prompt in PROMPTS
    ]
    main = torch.tensor([CATEGORIES.index(item.objects[0].category) for item in scenes])
    log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
    train = len(pictures) - HELD_OUT

    def loss_of(rows: np.ndarray) -> Tensor:
        choice = torch.randint(0, 5, (len(rows),)).numpy()
        prompt = names[int(torch.randint(0, len(names), ()))]
        words = text(input_ids=torch.cat([torch.from_numpy(tokens[rows, choice]).long(), prompt])).text_embeds
        seen = image(backbone.to_tensor(pictures[rows]))
        logits = F.normalize(seen, dim=-1) @ F.normalize(words, dim=-1).T * log_scale.exp().clamp(max=100)
        logits, named = logits[:, : len(rows)], logits[:, len(rows) :]
        target = torch.arange(len(rows))
        pairs = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return pairs + F.cross_entropy(named, main[rows])

    def check() -> dict[str, float]:
        text.eval(), image.eval()
        accuracy = category_accuracy(backbone, pictures[train:], scenes[train:])
        text.train(), image.train()
        return {"category": accuracy}

    history = fit(
        "towers",
        [*text.parameters(), *image.parameters(), log_scale],
        loss_of,
        train,
        steps,
        batch_size,
        1e-3,
        seed,
        0.05,
        check=check,
        check_interval=100,
    )
    text.eval().requires_grad_(False), image.eval().requires_grad_(False)
    return history


def _vae_loss(backbone: Backbone, decoded: Tensor, truth: Tensor) -> Tensor:
    """L1, squared error, and a perceptual distance on the image tower's stages, of pictures in -1..1."""
    tower = backbone.image_encoder
    with torch.no_grad():
        wanted = tower.stages(truth)
    pairs = zip(tower.stages(decoded), wanted, strict=True)
    perceptual = sum(
        (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean() for a, b in pairs
    )
    decoded = decoded.float()
    return F.l1_loss(decoded, truth) + F.mse_loss(decoded, truth) + 0.1 * perceptual


def _check_vae(backbone: Backbone, held: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Reconstruct held-out pictures."""
    backbone.vae.eval()
    mean, _ = backbone.encode_pictures(held)
    decoded = backbone.decode(mean * backbone.vae.config.scaling_factor)
    backbone.vae.train()
    error = ((decoded.astype(np.float32) - held) ** 2).mean() / 255**2
    return {
        "psnr": float(-10 * np.log10(error)),
        "category": category_accuracy(backbone, decoded, scenes),
        "category_true": category_accuracy(backbone, held, scenes),
    }


def train_vae(
    backbone: Backbone, pictures: np.ndarray, scenes: list[Scene], steps: int, batch_size: int, seed: int
) -> History:
    """Train encoder and decoder with a little KL; scales the latents to unit variance."""
    vae = backbone.vae.train().requires_grad_(True).to(memory_format=torch.channels_last)
    train = len(pictures) - HELD_OUT
    held, names = pictures[train : train + 400], scenes[train : train + 400]

    def loss_of(rows: np.ndarray) -> Tensor:
        truth = backbone.to_tensor(pictures[rows]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(truth.device.type, torch.bfloat16, enabled=fast_bf16(truth.device)):
            posterior = vae.encode(truth).latent_dist
            loss = _vae_loss(backbone, vae.decode(posterior.sample()).sample, truth)
        return loss + 3e-4 * 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()

    def check() -> dict[str, float]:
        vae.eval()
        mean, _ = backbone.encode_pictures(held)
        vae.register_to_config(scaling_factor=float(1 / mean.std()))
        return _check_vae(backbone, held, names)

    history = fit(
        "VAE",
        list(vae.parameters()),
        loss_of,
        train,
        steps,
        batch_size,
        2e-3,
        seed,
        0.0,
        check=check,
        check_interval=200,
    )
    vae.eval().requires_grad_(False)
    return history


def train_decoder(
    backbone: Backbone, pictures: np.ndarray, scenes: list[Scene], steps: int, batch_size: int, seed: int
) -> History:
    """Train the VAE's decoder on, its encoder frozen: sharper pictures from the same latents."""
    vae, train = backbone.vae, len(pictures) - HELD_OUT
    mean, logvar = _moments(backbone, pictures)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    vae.train().to(memory_format=torch.channels_last)
    for parameter in parameters:
        parameter.requires_grad_(True)

    def loss_of(rows: np.ndarray) -> Tensor:
        truth = backbone.to_tensor(pictures[rows]).contiguous(memory_format=torch.channels_last)
        latents = mean[rows] + (0.5 * logvar[rows]).exp() * torch.randn_like(mean[rows])
        with torch.autocast(truth.device.type, torch.bfloat16, enabled=fast_bf16(truth.device)):
            return _vae_loss(backbone, vae.decode(latents).sample, truth)

    def check() -> dict[str, float]:
        return _check_vae(backbone, pictures[train : train + 400], scenes[train : train + 400])

    history = fit("decoder", parameters, loss_of, train, steps, batch_size, 1e-3, seed, 0.0, check=check)
    vae.eval().requires_grad_(False)
    return history


def _moments(backbone: Backbone, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of the VAE's posterior for all pictures, each ``[N, C, h, w]``."""
    parts = [backbone.encode_pictures(chunk) for chunk in np.array_split(pictures, -(-len(pictures) // 500))]
    return torch.cat([m for m, _ in parts]), torch.cat([v for _, v in parts])


def train_unet(
    backbone: Backbone, pictures: np.ndarray, scenes: list[Scene], steps: int, batch_size: int, seed: int
) -> History:
    """Text-to-image training; the context is one caption's or the mean over all five, and empty for one picture in ten.

    The guiding network learns by least squares, so it predicts the mean over the captions that people give: the UNet
    has to know such contexts.
    """
    unet, train = backbone.unet.train().requires_grad_(True), len(pictures) - HELD_OUT
    mean, logvar = _moments(backbone, pictures)
    contexts = torch.empty(len(scenes), 5, *backbone.context_shape, dtype=torch.float16)
    for start in progress(range(0, len(scenes), 200), "Encoding captions"):
        lines = [line for item in scenes[start : start + 200] for line in captions(item)]
        contexts[start : start + 200] = backbone.encode_text(lines).reshape(-1, 5, *backbone.context_shape).half()
    ema = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.8)

    def loss_of(rows: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        kwargs = {"generator": generator}
        shape = (len(rows), *backbone.latent_shape)
        latents = backbone.latents(mean[rows], logvar[rows], torch.randn(shape, **kwargs))
        context, pick = contexts[rows].float(), torch.randint(0, 5, (len(rows),), **kwargs)
        single = torch.rand(len(rows), **kwargs) < 0.4
        context = torch.where(single[:, None, None], context[torch.arange(len(rows)), pick], context.mean(1))
        empty = torch.rand(len(rows), **kwargs) < 0.1
        context = torch.where(empty[:, None, None], backbone.null_context(), context)
        noise = torch.randn(shape, **kwargs)
        time = torch.randint(0, backbone.scheduler.config.num_train_timesteps, (len(rows),), **kwargs)
        noisy = backbone.scheduler.add_noise(latents, noise, time)
        target = backbone.scheduler.get_velocity(latents, noise, time)
        return F.mse_loss(unet(noisy, time, context).sample, target)

    def check() -> dict[str, float]:
        ema.store(unet.parameters())
        ema.copy_to(unet.parameters())
        with torch.no_grad():
            rows = np.arange(train, min(train + 500, len(pictures)))
            parts = np.array_split(rows, -(-len(rows) // 100))
            losses = [loss_of(part, torch.Generator().manual_seed(number)) for number, part in enumerate(parts)]
        ema.restore(unet.parameters())
        return {"validation": torch.stack(losses).mean().item()}

    history = fit("UNet", list(unet.parameters()), loss_of, train, steps, batch_size, 1e-3, seed, ema=ema, check=check)
    ema.copy_to(unet.parameters())
    unet.eval().requires_grad_(False)
    return history


def train_backbone(config: "BackboneTrainingConfig", runtime: "RuntimeConfig", out: Folder) -> None:
    """Train all parts of the miniature backbone and write its folder.

    Each finished part is kept in ``checkpoints/`` of the folder, from which a stopped training goes on.

    Parameters
    ----------
    config, runtime
        Sections of the configuration.
    out
        Folder in the layout that `Backbone.load` reads; ``run.json`` is written into it last.
    """
    out = Path(out)
    device = prepare_device(runtime)
    kept = out / "checkpoints" / hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
    with RunRecord(out / "run.json", "backbone", config=config, seed=config.seed) as record:
        pictures, scenes = render_scenes(range(config.scenes), config.seed, max(1, runtime.threads))
        torch.manual_seed(config.seed)
        backbone = build(build_tokenizer([line for item in scenes for line in captions(item)]))
        for module in backbone.modules:
            module.eval().requires_grad_(False)
        trainers = {"towers": train_towers, "vae": train_vae, "decoder": train_decoder, "unet": train_unet}
        for part, train in trainers.items():
            folder = kept / part
            if (folder / "history.csv").is_file():
                log.info("The %s are already trained", part)
                backbone = Backbone.load(folder).to(device)
                continue
            steps, batch = getattr(config, f"{part}_steps"), getattr(config, f"{part}_batch")
            history = train(backbone.to(device), pictures, scenes, steps, batch, config.seed)
            save(backbone, folder)
            write_history(folder / "history.csv", history)
            record.add(**{f"{part}_{name}": value for step, _, name, value in history if step == steps})
        save(backbone, out)
    shutil.rmtree(kept.parent)
