"""Train the miniature backbone: image and text towers, then the VAE, then the UNet, on rendered scenes that no subject sees."""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast, ResNetConfig

from neuropictor.models.backbone import PROMPTS, Backbone, ImageTower
from neuropictor.runlog import progress
from neuropictor.simulation.scenes import CATEGORIES, Scene, captions, render, scene

log = logging.getLogger(__name__)

PICTURE_SIZE = 64
LATENT_CHANNELS = 8
CONTEXT_LENGTH = 24
WIDTH = 128
HELD_OUT = 1000


def _render(number: int, seed: int) -> np.ndarray:
    return render(scene(seed, number), PICTURE_SIZE)


def render_scenes(count: int, seed: int, processes: int) -> tuple[np.ndarray, list[Scene]]:
    """Render ``count`` scenes of a seed that no simulation uses: uint8 [count, 64, 64, 3] and the scenes."""
    pictures = np.empty((count, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    with ProcessPoolExecutor(processes) as pool:
        rendered = pool.map(partial(_render, seed=seed), range(count), chunksize=100)
        for row, picture in enumerate(progress(rendered, "Rendering scenes", total=count, unit="scene")):
            pictures[row] = picture
    return pictures, [scene(seed, number) for number in range(count)]


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """One token a word, from the words of ``texts``; begin, end and padding as in CLIP."""
    # Not 2 for <end>: transformers reads that as the id of an old faulty configuration and pools another token.
    special = ["<pad>", "<unknown>", "<start>", "<end>"]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unknown>",
        model_max_length=CONTEXT_LENGTH,
    )


def build(tokenizer: PreTrainedTokenizerFast) -> Backbone:
    """A backbone of the miniature's sizes with random weights."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH, projection_dim=WIDTH, hidden_act="gelu", bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    image = ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128, 192], depths=[1, 2, 2, 1], layer_type="basic")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(16, 32, 64, 96),
        layers_per_block=1, latent_channels=LATENT_CHANNELS, norm_num_groups=8, sample_size=PICTURE_SIZE,
    )
    unet = UNet2DConditionModel(
        sample_size=PICTURE_SIZE // 8, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, block_out_channels=(64, 128),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH, attention_head_dim=(2, 4), norm_num_groups=16, use_linear_projection=True,
    )
    # Zero terminal SNR and velocity prediction (arXiv 2305.08891): with 64 latent positions the usual schedule would leak the
    # picture's mean colour into the last step.
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )
    return Backbone("miniature", unet, vae, CLIPTextModelWithProjection(text), tokenizer, scheduler, ImageTower(image, WIDTH))


def save(backbone: Backbone, folder: Path) -> None:
    """Write a backbone folder; weights as float16, which the networks' precision does not notice."""
    for name in ("unet", "vae", "text_encoder", "image_encoder"):
        part = getattr(backbone, name)
        half = {k: v.half() if v.is_floating_point() else v for k, v in part.state_dict().items()}
        part.load_state_dict(half)
        part.half().save_pretrained(folder / name)
        part.float()
    backbone.tokenizer.save_pretrained(folder / "tokenizer")
    backbone.scheduler.save_pretrained(folder / "scheduler")


def _batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    while True:
        order = torch.randperm(count, generator=generator).numpy()
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def fit(
    name: str, parameters: list[nn.Parameter], loss_of: Callable[[np.ndarray], Tensor], count: int, steps: int, batch_size: int,
    learning_rate: float, seed: int, weight_decay: float = 0.01, ema: EMAModel | None = None,
    check: Callable[[], dict[str, float]] | None = None, check_interval: int = 500,
) -> list[dict]:
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
                history += [{"part": name, "step": step, "name": key, "value": value} for key, value in values.items()]
                log.info("%s step %d: %s", name, step, ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    return history


def category_accuracy(backbone: Backbone, pictures: np.ndarray, scenes: list[Scene]) -> float:
    """Share of pictures whose main object's category is the nearest text in the shared space."""
    scores = backbone.image_features(pictures) @ backbone.category_features(list(CATEGORIES)).T
    truth = torch.tensor([CATEGORIES.index(item.objects[0].category) for item in scenes])
    return (scores.argmax(1).cpu() == truth).float().mean().item()


def train_towers(backbone: Backbone, pictures: np.ndarray, scenes: list[Scene], steps: int, batch_size: int, seed: int) -> list[dict]:
    """Contrastive training of the text and image towers (arXiv 2103.00020) on a random one of each picture's captions.

    A second contrast, of the picture with the names of all categories, teaches the towers what the objects are: among captions
    alone, background and colour tell pictures apart so well that categories are learnt last.
    """
    text, image = backbone.text_encoder.train().requires_grad_(True), backbone.image_encoder.train().requires_grad_(True)
    tokens = backbone.tokenizer(
        [line for item in scenes for line in captions(item)], padding="max_length", max_length=CONTEXT_LENGTH, return_tensors="np"
    )["input_ids"].reshape(len(scenes), 5, CONTEXT_LENGTH)
    names = [backbone.tokenizer(
        [prompt.format(category) for category in CATEGORIES], padding="max_length", max_length=CONTEXT_LENGTH, return_tensors="pt"
    )["input_ids"] for prompt in PROMPTS]
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
        "towers", [*text.parameters(), *image.parameters(), log_scale], loss_of, train, steps, batch_size, 1e-3, seed, 0.05, check=check, check_interval=100
    )
    text.eval().requires_grad_(False), image.eval().requires_grad_(False)
    return history


def train_vae(backbone: Backbone, pictures: np.ndarray, scenes: list[Scene], steps: int, batch_size: int, seed: int) -> list[dict]:
    """L1 + a perceptual distance on the image tower's stages + a little KL; sets the scaling factor to unit latent variance."""
    vae = backbone.vae.train().requires_grad_(True).to(memory_format=torch.channels_last)
    tower, train = backbone.image_encoder, len(pictures) - HELD_OUT

    def perceptual(one: Tensor, two: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = tower.stages(two)
        pairs = zip(tower.stages(one), wanted, strict=True)
        return sum((F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean() for a, b in pairs)

    def loss_of(rows: np.ndarray) -> Tensor:
        truth = backbone.to_tensor(pictures[rows]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(truth.device.type, torch.bfloat16):
            posterior = vae.encode(truth).latent_dist
            decoded = vae.decode(posterior.sample()).sample
            closeness = perceptual(decoded, truth)
        decoded = decoded.float()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return F.l1_loss(decoded, truth) + F.mse_loss(decoded, truth) + 0.1 * closeness + 3e-4 * kl

    def check() -> dict[str, float]:
        vae.eval()
        held, names = pictures[train : train + 400], scenes[train : train + 400]
        mean, _ = backbone.encode_pictures(held)
        backbone.vae.register_to_config(scaling_factor=float(1 / mean.std()))
        decoded = backbone.decode(mean * backbone.vae.config.scaling_factor)
        error = ((decoded.astype(np.float32) - held) ** 2).mean() / 255**2
        truth = category_accuracy(backbone, held, names)
        values = {"psnr": float(-10 * np.log10(error)), "category": category_accuracy(backbone, decoded, names), "category_true": truth}
        vae.train()
        return values

    history = fit("VAE", list(vae.parameters()), loss_of, train, steps, batch_size, 2e-3, seed, 0.0, check=check, check_interval=200)
    vae.eval().requires_grad_(False)
    return history


def train_unet(backbone: Backbone, pictures: np.ndarray, scenes: list[Scene], steps: int, batch_size: int, seed: int) -> list[dict]:
    """Text-to-image training; the context is one caption's or the mean over all five, and empty for one picture in ten.

    The guiding network learns by least squares, so it predicts the mean over the captions that people give: the UNet has to know
    such contexts.
    """
    unet, train = backbone.unet.train().requires_grad_(True), len(pictures) - HELD_OUT
    moments = [backbone.encode_pictures(chunk) for chunk in np.array_split(pictures, -(-len(pictures) // 500))]
    mean, logvar = torch.cat([m for m, _ in moments]), torch.cat([v for _, v in moments])
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
            losses = [loss_of(np.arange(train + i, train + i + 100), torch.Generator().manual_seed(i)) for i in range(0, 500, 100)]
        ema.restore(unet.parameters())
        return {"validation": torch.stack(losses).mean().item()}

    history = fit("UNet", list(unet.parameters()), loss_of, train, steps, batch_size, 1e-3, seed, ema=ema, check=check)
    ema.copy_to(unet.parameters())
    unet.eval().requires_grad_(False)
    return history
