"""Small prepared stores and a pretended backbone, shared by the tests of data and evaluation."""

from typing import ClassVar

import h5py
import numpy as np

from neuropictor.data.reconstructions import Reconstructions, write_reconstructions
from neuropictor.data.responses import ResponseWriter
from neuropictor.data.stimuli import StimulusWriter

SIZE = 16
CATEGORIES = ("boat", "cat", "dog")
BACKGROUNDS = ("sea", "city")
TRAIN, VALIDATION, TEST = range(0, 60), range(60, 75), range(100, 120)


def smooth_images(nsd_ids, size=SIZE):
    """Images of a few coarse blocks, so that an average-pooling latent holds them."""
    blocks = np.stack([np.random.default_rng([7, int(i)]).integers(0, 256, (4, 4, 3)) for i in nsd_ids])
    return blocks.repeat(size // 4, 1).repeat(size // 4, 2).astype(np.uint8)


def write_stimuli(path, nsd_ids=(*TRAIN, *VALIDATION, *TEST)):
    nsd_ids = np.array(sorted(nsd_ids))
    with h5py.File(path, "w") as file:
        writer = StimulusWriter(file, nsd_ids, SIZE, "simulated")
        writer.append(smooth_images(nsd_ids))
        writer.finish(
            [[f"a {CATEGORIES[i % 3]}", f"number {i}"] for i in nsd_ids],
            [CATEGORIES[i % 3] for i in nsd_ids],
            [BACKGROUNDS[i % 2] for i in nsd_ids],
        )
    return path


def first_test_trials(path, out):
    """Copy responses without all but the first trial of each test image."""
    with h5py.File(path) as source, h5py.File(out, "w") as file:
        nsd_id, split = source["nsd_id"][:], source["split"][:]
        _, first = np.unique(nsd_id, return_index=True)
        kept = np.flatnonzero((split != 2) | np.isin(np.arange(len(nsd_id)), first))
        writer = ResponseWriter(file, len(kept), source["responses"].shape[1], **source.attrs)
        writer.append(source["responses"][:][kept])
        fields = {name: source[name][:][kept] for name in ("nsd_id", "session", "repeat", "split")}
        writer.finish(ncsnr=source["ncsnr"][:], **fields)
    return out


def write_responses(path, subject="01", vertices=40, noise=0.3, ncsnr=None):
    """Responses that are a noisy linear image of the images; three repeats of each, shuffled over two sessions."""
    generator = np.random.default_rng(int(subject))
    nsd_id = np.repeat([*TRAIN, *VALIDATION, *TEST], 3)
    order = generator.permutation(len(nsd_id))
    nsd_id, repeat = nsd_id[order], np.empty(len(order), int)
    seen = {}
    for row, number in enumerate(nsd_id.tolist()):
        repeat[row] = seen[number] = seen.get(number, -1) + 1
    features = smooth_images(nsd_id)[:, ::4, ::4].reshape(len(nsd_id), -1) / 127.5 - 1.0
    signal = features @ generator.standard_normal((features.shape[1], vertices)) / 4
    values = signal + noise * generator.standard_normal(signal.shape)
    split = np.select([nsd_id >= 100, nsd_id >= 60], [2, 1], 0)
    with h5py.File(path, "w") as file:
        writer = ResponseWriter(
            file, len(nsd_id), vertices, subject=subject, data="simulated", beta_version="b3", mesh="fsaverage5"
        )
        writer.append(values[:100])
        writer.append(values[100:])
        session = 1 + np.arange(len(nsd_id)) // 150
        ncsnr = np.full(vertices, 0.4) if ncsnr is None else ncsnr
        writer.finish(nsd_id=nsd_id, session=session, repeat=repeat, split=split, ncsnr=ncsnr)
    return path


def write_samples(path, model, subject, images, nsd_ids=tuple(TEST)):
    write_reconstructions(path, Reconstructions(images, np.array(nsd_ids), model, subject, "simulated"))
    return path


def pretend_unet(scheduler, latent_shape):
    """Return a UNet that predicts the noise as if the clean latents were zero, nudged by the context."""
    import torch

    class PretendUNet(torch.nn.Module):
        config: ClassVar = {"in_channels": latent_shape[0], "sample_size": latent_shape[1], "cross_attention_dim": 8}
        dtype, device, calls = torch.float32, torch.device("cpu"), 0

        def forward(self, state, timestep, context, return_dict=False, **residuals):
            self.calls += 1
            alpha = scheduler.alphas_cumprod[int(timestep)]
            nudge = context.mean((1, 2))[:, None, None, None] * 0.01
            return (torch.sqrt(1 - alpha) * state + nudge,)

    return PretendUNet()


def pretend_vae():
    """Return a VAE whose decoder repeats latents."""
    import torch

    class PretendVAE(torch.nn.Module):
        config: ClassVar = {"block_out_channels": (1, 1, 1), "scaling_factor": 1.0}
        dtype, device, use_tiling = torch.float32, torch.device("cpu"), False

        def decode(self, latents, return_dict=False):
            return (latents.repeat_interleave(SIZE // 4, 2).repeat_interleave(SIZE // 4, 3),)

    return PretendVAE()


class PretendBackbone:
    """The methods of `Backbone` with arithmetic in the place of networks: latents are 4 x 4 block means."""

    name, image_size, latent_shape, context_shape = "pretended", SIZE, (3, 4, 4), (2, 6)
    image_encoder = object()

    def __init__(self):
        import torch
        from diffusers import DDIMScheduler

        self.scheduler = DDIMScheduler(num_train_timesteps=100)
        self.device = torch.device("cpu")
        self.unet, self.vae = pretend_unet(self.scheduler, self.latent_shape), pretend_vae()

    @classmethod
    def load(cls, source):
        return cls()

    def to(self, device):
        return self

    def encode_text(self, captions):
        import torch

        rows = [np.random.default_rng([len(c), *c.encode()]).standard_normal(self.context_shape) for c in captions]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def null_context(self):
        return self.encode_text([""])

    def encode_images(self, images, memory=8.0):
        import torch

        values = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
        mean = torch.nn.functional.avg_pool2d(values, SIZE // 4)
        return mean, torch.full_like(mean, -20.0)

    def latents(self, mean, logvar, noise):
        import torch

        return mean + torch.exp(0.5 * logvar) * noise

    def decode(self, latents, memory=8.0):
        values = ((latents.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
        return values.repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)

    def image_features(self, images, batch_size=256):
        import torch

        flat = torch.from_numpy(images[:, ::2, ::2].reshape(len(images), -1).astype(np.float32)) - 127.5
        return torch.nn.functional.normalize(flat, dim=-1)

    def category_features(self, categories):
        import torch

        images = smooth_images([900 + CATEGORIES.index(name) for name in categories])
        return self.image_features(images) if categories else torch.empty(0)


def write_latents(path, stimuli):
    """Cache what `PretendBackbone` makes of the images and captions."""
    from neuropictor.data.stimuli import StimulusStore

    store, backbone = StimulusStore(stimuli), PretendBackbone()
    mean, logvar = backbone.encode_images(store.images(store.nsd_id))
    texts = [[lines[i % len(lines)] for i in range(5)] for lines in store.captions(store.nsd_id)]
    text = np.stack([backbone.encode_text(lines).numpy().mean(0) for lines in texts])
    with h5py.File(path, "w") as file:
        file["nsd_id"] = store.nsd_id
        file["mean"], file["logvar"] = mean.numpy().astype(np.float16), logvar.numpy().astype(np.float16)
        file["text"] = text.astype(np.float16)
        file["caption_tokens"] = np.zeros((len(text), 5, text.shape[1]), np.int32)
    return path


def write_random_latents(path, images, random):
    """Write latents [N, 2, 2, 2] and texts [N, 3, 4] with few directions that vary much, and return both."""
    mean = random.standard_normal((images, 2, 2, 2)) * np.array([4, 3, 2, 1, 0.1, 0.1, 0.1, 0.1]).reshape(2, 2, 2)
    text = random.standard_normal((images, 3, 4)) * [[[3, 2, 1, 0.1]]]
    with h5py.File(path, "w") as file:
        file["mean"], file["logvar"], file["text"] = mean, np.zeros_like(mean), text
        file["nsd_id"], file["caption_tokens"] = np.arange(images), np.zeros((images, 5, 3), np.int32)
    return mean, text
