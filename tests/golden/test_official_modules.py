"""Our networks compute the same function as the official code did with the same weights; numbers only, no code."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from neuropictor.models.encoder import FMRIAutoencoder, patchify, reconstruction_error, sincos_table, unpatchify
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.manipulation import HintMapper

HERE = Path(__file__).parent
GUIDING_NAMES = {
    "channel_mapper.": "text.token_mapper.",
    "dim_mapper.": "text.width_mapper.",
    "norm.": "text.norm.",
    "extra_clip.0.": "extra.token_mapper.0.",
    "extra_clip.1.": "extra.token_mapper.1.",
    "extra_clip.2.": "extra.width_mapper.",
    "extra_clip.3.": "extra.norm.",
    "extra_clip_out.": "extra_out.",
}
HINT_NAMES = {"channel_mapper.": "token_mapper.", "dim_mapper.0.": "position_mapper.", "out.": "out."}
OWN_PARTS = ("decoder_", "mask_token")


def read(name):
    with safe_open(HERE / name, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def renamed(weights, names):
    out = {}
    for key, value in weights.items():
        prefix = next(prefix for prefix in names if key.startswith(prefix))
        out[names[prefix] + key[len(prefix) :]] = value
    return out


def part(tensors, prefix):
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def autoencoder(name):
    tensors, metadata = read(name)
    official = json.loads(metadata["config"])
    data, model = official["Data"], official["Model"]
    own = FMRIAutoencoder(
        image_size=tuple(data["image_size"]),
        patch_size=data["patch_size"],
        in_channels=model["in_chans"],
        width=model["embed_dim"],
        depth=model["encoder_depth"],
        heads=model["num_heads"],
        decoder_width=model["decoder_embed_dim"],
        decoder_depth=model["decoder_depth"],
        bottleneck=2048,
    ).eval()
    weights = part(tensors, "w.transformer.")
    tables = {key: weights.pop(key) for key in ("pos_embed", "decoder_pos_embed")}
    torch.testing.assert_close(own.encoder.pos_embed, tables["pos_embed"], atol=1e-6, rtol=0)
    torch.testing.assert_close(own.decoder_pos_embed, tables["decoder_pos_embed"], atol=1e-6, rtol=0)
    state = {}
    for key, value in weights.items():
        if key.startswith("pred."):
            state[key.replace("pred.", "bottleneck_embed.")] = value
        else:
            state[key if key.startswith(OWN_PARTS) else f"encoder.{key}"] = value
    own.load_state_dict(state)
    return own, tensors


@torch.no_grad()
@pytest.mark.parametrize("name", ["b_fmri_autoencoder_small.safetensors", "b_fmri_autoencoder_small_2ch.safetensors"])
def test_autoencoder(name):
    own, golden = autoencoder(name)
    maps, mask = golden["in.x"], golden["in.mask"]
    image_size, patch_size = own.config.image_size, own.config.patch_size
    near = {"atol": 2e-5, "rtol": 0}
    torch.testing.assert_close(own.encoder(maps), golden["out.encode_feats"], **near)
    patches = own.decode(own.encode(maps))
    torch.testing.assert_close(patches, golden["out.rec_patches"], **near)
    torch.testing.assert_close(own(maps), unpatchify(patches, image_size, patch_size))
    loss = reconstruction_error(own(maps), maps, mask)
    torch.testing.assert_close(loss, golden["out.loss_masked"], atol=0, rtol=1e-5)
    if "out.bottleneck" in golden:
        torch.testing.assert_close(own.encode(maps), golden["out.bottleneck"], **near)
        torch.testing.assert_close(own(maps), golden["out.rec_image"], **near)
        torch.testing.assert_close(patchify(maps, patch_size), golden["out.patchify_x"], atol=0, rtol=0)
        loss = reconstruction_error(own(maps), maps)
        torch.testing.assert_close(loss, golden["out.loss_nomask"], atol=0, rtol=1e-5)


def test_position_table_of_the_paper():
    golden = np.load(HERE / "b_pos_embed_257x1024.npz")
    table = sincos_table(1024, 16, 16)[0].numpy()
    assert table.shape == (257, 1024)
    np.testing.assert_allclose(table[golden["rows"]], golden["pos_embed_rows"], atol=1e-6)
    assert not table[0].any()


@torch.no_grad()
def test_small_mappers():
    golden, metadata = read("a_mappers_small.safetensors")
    size = {key: int(value) for key, value in metadata.items()}
    semantic = renamed(part(golden, "w.semantic."), GUIDING_NAMES)
    for variant, official in (("refine", "surf"), ("pretrain", "pret")):
        guiding = GuidingNetwork(size["fmri_seq_len"], size["fmri_latent_dim"], 77, size["cond_dim"], variant=variant)
        guiding.load_state_dict(semantic)
        context, feature = guiding(golden["in.x"])
        torch.testing.assert_close(context, golden[f"out.{official}.context"], atol=1e-4, rtol=0)
        torch.testing.assert_close(feature, golden["out.surf.clip_txt"], atol=1e-4, rtol=0)
    side = (size["out_dim"], size["out_dim"])
    length = size["fmri_seq_len"]
    mapper = HintMapper(length, size["fmri_latent_dim"], size["out_channel"], side, hidden=2 * length)
    mapper.load_state_dict(renamed(part(golden, "w.control."), HINT_NAMES))
    torch.testing.assert_close(mapper(golden["in.x"]), golden["out.control_hint"], atol=1e-4, rtol=0)


def recipe(salt, shapes, digest):
    """Rebuild the full-size weights, each a function of salt, key and shape, and check them against their digest."""
    arrays = {}
    for key, shape in shapes.items():
        seed = zlib.crc32(f"{salt}/{key}".encode())
        values = np.random.RandomState(seed).standard_normal(shape)
        if len(shape) >= 2:
            values = values / np.sqrt(np.prod(shape[1:]))
        else:
            values = (1.0 if key.endswith(".weight") else 0.0) + 0.1 * values
        arrays[key] = np.ascontiguousarray(values.astype(np.float32))
    found = hashlib.sha256()
    for key in sorted(arrays):
        found.update(key.encode())
        found.update(arrays[key].tobytes())
    assert found.hexdigest() == digest
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


@torch.no_grad()
def test_full_size_mappers():
    """The paper's sizes come from the defaults: 257 tokens of width 1024, hidden 128 and 514."""
    manifest = json.loads((HERE / "a_mappers_full.manifest.json").read_text())
    golden = np.load(HERE / "a_mappers_full.npz")
    tokens = np.random.RandomState(2).standard_normal((2, 257, 1024))
    tokens = torch.from_numpy(tokens.astype(np.float32))
    weights = recipe("a-sem-full", manifest["a-sem-full"], manifest["digest"]["a-sem-full"])
    for variant, official in (("refine", "surf"), ("pretrain", "pret")):
        guiding = GuidingNetwork(variant=variant)
        guiding.load_state_dict(renamed(weights, GUIDING_NAMES))
        context = guiding(tokens)[0][:, ::7, ::8].numpy()
        np.testing.assert_allclose(context, golden[f"{official}_context"], atol=1e-4)
    weights = recipe("a-ctl-full", manifest["a-ctl-full"], manifest["digest"]["a-ctl-full"])
    mapper = HintMapper(257, 1024, 320, (64, 64), hidden=514)
    mapper.load_state_dict(renamed(weights, HINT_NAMES))
    hint = mapper(tokens)
    np.testing.assert_allclose(hint[:, ::16, ::4, ::4].numpy(), golden["control_hint"], atol=1e-4)
    np.testing.assert_allclose([hint.mean(), hint.std()], golden["control_hint_mean_std"], atol=1e-4)
