"""The cheap ways of a training step give the numbers of the plain ways."""

import numpy as np
import pytest
import torch
from small_pipeline import stirred
from small_task import batch, make_task

from neuropictor.data.datasets import ImageResponses, TrainingBatches
from neuropictor.data.latents import LatentStore, cache_latents
from neuropictor.data.stimuli import StimulusStore
from neuropictor.models.backbone import Backbone
from neuropictor.models.encoder import FMRIAutoencoder
from neuropictor.models.memory import recompute_activations
from neuropictor.training.checkpoints import CheckpointFolder
from neuropictor.training.loop import Recipe, Trainer, make_accelerator, split_batch


def stirred_task(folder, variant="refine", **settings):
    """A task whose zero-initialised outputs are not zero, so that every parameter matters."""
    torch.manual_seed(0)
    task = make_task(Backbone.load(folder), variant, **settings)
    stirred(task.module)
    return task


def step_of(task, data, step=0):
    """Losses and gradients of one step."""
    losses = task.losses(task.module, data, step)
    losses["loss"].backward()
    found = {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}
    task.module.zero_grad()
    return {name: value.detach() for name, value in losses.items()}, found


def assert_equal(one, other):
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys()
        for name, values in mine.items():
            assert torch.equal(values, theirs[name]), name


def test_gradients_are_those_of_the_plain_way_bit_for_bit(tiny_backbone, tiny_prepared, tiny_runtime, tmp_path):
    """Plain: UNet with weight gradients, VAE and text tower in the step; float32, the same random draws.

    The store rounds moments to half precision. With that rounding in the plain way too, gradients are equal
    bit for bit; without it they differ by what half precision loses. Both UNets have their channels last: in the other
    layout torch multiplies by another routine where a weight takes gradients, which moves the last bits (4e-6).
    """
    path, stimuli = tmp_path / "latents.h5", StimulusStore(tiny_prepared / "stimuli.h5")
    cache_latents(stimuli.paths[0], tiny_backbone, tiny_runtime, path, batch_size=1)
    responses = ImageResponses([tiny_prepared / "sub-01" / "responses.h5"], "train")
    factor = np.float32(0.18215)
    batches = TrainingBatches(
        responses, 6, "random", 3, LatentStore(path), scaling_factor=factor, n_timesteps=1000, captions="random"
    )
    data = batches[5]
    backbone = Backbone.load(tiny_backbone)
    task = stirred_task(tiny_backbone, guidance_dropout=0.4, tower=backbone.target_tower)
    task.unet.to(memory_format=torch.channels_last)
    ours = step_of(task, data)

    random, items = np.random.default_rng([3, 1, 5]), batches._items(5)
    assert random.integers(0, 1000, 6).tolist() == data["timesteps"].tolist()
    responses.choose(items, "random", random)
    posterior, noise = random.standard_normal((2, 6, 4, 4, 4), dtype=np.float32)
    np.testing.assert_array_equal(noise, data["noise"])
    which = random.integers(0, 5, 6)

    def plain(rounded):
        task = stirred_task(tiny_backbone, guidance_dropout=0.4)
        task.unet.to(memory_format=torch.channels_last).requires_grad_(True)
        latents, text = [], []
        for nsd_id, normal, caption in zip(responses.nsd_id[items], posterior, which, strict=True):
            mean, logvar = backbone.encode_images(stimuli.images([nsd_id]))
            mean, logvar = (rounded(values).numpy() for values in (mean, logvar))
            latents.append(factor * (mean[0] + np.exp(0.5 * logvar[0]) * normal))
            text.append((stimuli.captions([nsd_id])[0] * 5)[caption])
        made = {"latents": torch.from_numpy(np.stack(latents)), "text": backbone.encode_text(text)}
        result = step_of(task, data | made)
        assert all(parameter.grad is not None for parameter in task.unet.parameters())
        return result

    assert_equal(plain(lambda values: values.half().float()), ours)
    for exact, name in zip(plain(lambda values: values)[1].values(), ours[1], strict=True):
        assert (exact - ours[1][name]).norm() <= 2e-3 * exact.norm(), name


def test_frozen_parts_have_no_gradients_no_graph_and_no_dropout(tiny_backbone):
    task, graph = stirred_task(tiny_backbone), {}
    first = task.unet.down_blocks[0].attentions[0].transformer_blocks[0]
    for name, part in (("conv_in", task.unet.conv_in), ("self", first.attn1), ("cross", first.attn2)):
        part.register_forward_hook(lambda _, __, out, name=name: graph.update({name: out.requires_grad}))
    task.module.train()
    step_of(task, batch())
    assert graph == {"conv_in": False, "self": False, "cross": True}  # it starts where the context comes in
    assert not any(part.training for part in task.unet.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in task.unet.parameters())


def kept_bytes(task, data):
    """Bytes that autograd keeps for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = task.losses(task.module, data, 0)
    del losses
    return sum(kept.values())


def test_activations_computed_again_give_the_same_gradients_from_less_memory(tiny_backbone):
    keeping, again = stirred_task(tiny_backbone), stirred_task(tiny_backbone)
    recompute_activations(again.module, again.unet)
    assert_equal(step_of(keeping, batch()), step_of(again, batch()))
    data = batch(64) | {"timesteps": torch.arange(64)}
    assert kept_bytes(again, data) < 0.6 * kept_bytes(keeping, data)
    autoencoder, maps = FMRIAutoencoder(32, 16, 1, 16, 2, 2, 0.0, 8, 1, 8), torch.randn(2, 1, 32, 32)
    plain = torch.autograd.grad(autoencoder(maps).square().sum(), list(autoencoder.encoder.parameters()))
    recompute_activations(autoencoder)
    assert autoencoder.encoder.is_gradient_checkpointing
    for one, two in zip(
        plain,
        torch.autograd.grad(autoencoder(maps).square().sum(), list(autoencoder.encoder.parameters())),
        strict=True,
    ):
        assert torch.equal(one, two)


def test_a_unet_wholly_in_bf16_outside_autocast_gives_the_gradients_of_autocast(tiny_backbone):
    """Both round to bf16's 8 digits, at other places: gradients are as far from each other as from float32's."""
    exact, autocast, ours = (stirred_task(tiny_backbone) for _ in range(3))
    ours.unet.to(torch.bfloat16)
    seen = {}

    def note(_, given, out):
        seen.update(given=given[0].dtype, out=out.dtype, autocast=torch.is_autocast_enabled("cpu"))

    ours.unet.conv_in.register_forward_hook(note)

    class Plain:  # under autocast with the networks, as a UNet in float32 would be
        config, dtype = autocast.unet.config, torch.float32

        def __call__(self, *given, **named):
            with torch.autocast("cpu", torch.bfloat16):
                return unet(*given, **named)

    unet, autocast.unet = autocast.unet, Plain()
    data, found = batch(), []
    for task, low in ((exact, False), (autocast, True), (ours, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            losses = task.losses(task.module, data, 0)
        losses["loss"].backward()
        assert {p.grad.dtype for p in task.module.parameters()} == {torch.float32}
        found.append((losses["loss"].item(), torch.cat([p.grad.flatten() for p in task.module.parameters()])))
    assert seen == {"given": torch.bfloat16, "out": torch.bfloat16, "autocast": False}  # CUDA's makes norms float32
    (loss, gradients), *others = found
    for other, theirs in others:
        assert other == pytest.approx(loss, rel=1e-2)
        assert (theirs - gradients).norm() < 5e-2 * gradients.norm()


def test_channels_last_gives_the_same_gradients(tiny_backbone):
    plain, last = stirred_task(tiny_backbone), stirred_task(tiny_backbone)
    for part in (last.unet, last.module.manipulation.control):
        part.to(memory_format=torch.channels_last)
    assert last.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    (losses, gradients), (others, found) = step_of(plain, batch()), step_of(last, batch())
    assert others["loss"].item() == pytest.approx(losses["loss"].item(), rel=1e-5)
    for name, values in gradients.items():
        assert (found[name] - values).norm() <= 1e-4 * values.norm(), name


def test_the_tower_in_the_step_makes_the_target_of_the_caption(tiny_backbone):
    backbone = Backbone.load(tiny_backbone)
    captions = ["a red ball", "the sky", "a photo of a house", "grass"]
    cached, running = stirred_task(tiny_backbone), stirred_task(tiny_backbone, tower=backbone.target_tower)
    with_text = batch() | {"text": backbone.encode_text(captions)}
    with_tokens = {name: values for name, values in batch().items() if name != "text"}
    with_tokens["caption"] = backbone.tokens(captions)
    assert_equal(step_of(cached, with_text), step_of(running, with_tokens))
    assert all(parameter.grad is None for parameter in backbone.target_tower.parameters())


def test_without_weight_the_semantic_loss_needs_no_text(tiny_backbone):
    with_text, without = (stirred_task(tiny_backbone, semantic_weight=0.0) for _ in range(2))
    data = batch()
    del data["text"]
    losses, gradients = step_of(without, data)
    assert losses.keys() == {"loss", "diffusion"}
    assert torch.equal(losses["loss"], step_of(with_text, batch())[0]["diffusion"])
    assert gradients.keys() == {name for name, _ in without.module.named_parameters()}


@pytest.mark.parametrize(("parts", "shares"), [(1, [1.0]), (3, [0.5, 0.5]), (2, [0.5, 0.5]), (9, [0.25] * 4)])
def test_a_batch_is_split_into_shares(parts, shares):
    found = list(split_batch(batch(4), parts))
    assert [share for share, _ in found] == shares
    for name, values in batch(4).items():
        assert torch.equal(torch.cat([part[name] for _, part in found]), values)


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(tiny_backbone, tiny_runtime, tmp_path, parts):
    class Batches:
        seed = 0

        def loader(self, start, stop, workers, pinned):
            return (batch(5) for _ in range(start, stop))

    def train(accumulation):
        task, gradients = stirred_task(tiny_backbone), []
        recipe = Recipe(3, 1e-4, weight_decay=0.01, validation_interval=9)
        runtime = tiny_runtime.model_copy(update={"accumulation": accumulation})
        folder = CheckpointFolder(tmp_path / str(accumulation), {})
        trainer = Trainer(task, Batches(), None, recipe, runtime, folder, make_accelerator(runtime))
        trainer._adam.register_step_pre_hook(
            lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in task.module.parameters()]))
        )
        return trainer.run("Training"), gradients

    (whole, expected), (split, found) = train(1), train(parts)
    assert len(found) == len(expected) == 3
    assert (found[0] - expected[0]).norm() < 1e-5 * expected[0].norm()
    assert [row[:3] for row in split] == [row[:3] for row in whole]
    assert [row[3] for row in split] == pytest.approx([row[3] for row in whole], rel=1e-4)


def test_checkpoints_hold_the_trained_networks_and_nothing_of_the_backbone(tiny_backbone, tiny_runtime, tmp_path):
    task = stirred_task(tiny_backbone)

    class Batches:
        seed = 0

        def loader(self, start, stop, workers, pinned):
            return (batch(4) for _ in range(start, stop))

    recipe = Recipe(2, 1e-3, weight_decay=0.0, validation_interval=9)
    trainer = Trainer(
        task, Batches(), None, recipe, tiny_runtime, CheckpointFolder(tmp_path, {}), make_accelerator(tiny_runtime)
    )
    trainer.run("Training")
    assert trainer.steps_per_second > 0
    state = trainer.checkpoints.newest()
    assert state.keys() == {"step", "history", "module", "optimizer"}
    assert state["module"].keys() == task.module.state_dict().keys()
    moments = state["optimizer"]["state"]
    assert len(moments) == len([p for p in task.module.parameters() if p.requires_grad])
    assert all(values.keys() == {"step", "exp_avg", "exp_avg_sq"} for values in moments.values())
