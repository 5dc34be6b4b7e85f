import logging

import pytest
import torch

from neuropictor.config import CalibrateConfig
from neuropictor.training.checkpoints import CheckpointFolder, differences, make_guard, restore_state, training_state

GUARD = {"config": {"pretrain": {"learning_rate": 0.001}}, "inputs": {"latents": "sha256:1"}, "code": "a"}


def test_last_two_are_kept_and_the_newest_is_read(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", GUARD)
    folder.prepare()
    assert folder.newest() is None
    for step in (2, 4, 6):
        folder.save(step, {"a": torch.full((2,), step)}, {"history": [[step, "train", "loss", 0.5]]})
    assert [path.name for path in folder.files()] == ["step-00000004.safetensors", "step-00000006.safetensors"]
    again = CheckpointFolder(tmp_path / "checkpoints", GUARD)
    again.prepare()
    newest = again.newest()
    assert (newest.step, newest.tensors["a"].tolist()) == (6, [6, 6])
    assert newest.extra == {"history": [[6, "train", "loss", 0.5]]}
    again.clear()
    assert not (tmp_path / "checkpoints").exists()


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path, GUARD)
    for step in (2, 4):
        path = folder.save(step, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-20])
    assert folder.newest().step == 2
    assert "step-00000004.safetensors cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"config": {"pretrain": {"learning_rate": 0.002}}}, "config.pretrain.learning_rate was 0.001, is now 0.002"),
        ({"inputs": {"latents": "sha256:2"}}, "inputs.latents was 'sha256:1', is now 'sha256:2'"),
        ({"code": "b"}, "code was 'a', is now 'b'"),
        ({"config": {"pretrain": {}}}, "config.pretrain.learning_rate was 0.001, is now 'nothing'"),
    ],
)
def test_another_guard_starts_afresh_and_names_the_key(tmp_path, caplog, changed, named):
    old = CheckpointFolder(tmp_path / "c", GUARD)
    old.prepare()
    old.save(2, {"a": torch.zeros(1)}, {})
    new = CheckpointFolder(tmp_path / "c", GUARD | changed)
    with caplog.at_level(logging.WARNING):
        new.prepare()
    assert named in caplog.text
    assert new.newest() is None


def test_untracked_code_equals_any_code():
    assert differences(GUARD, GUARD | {"code": None}) == []


def test_guard_follows_content_of_inputs(tmp_path):
    (tmp_path / "a").write_text("one")
    guards = [make_guard({"calibrate": CalibrateConfig()}, {"a": tmp_path / "a"}, None)]
    (tmp_path / "a").write_text("two")
    guards.append(make_guard({"calibrate": CalibrateConfig(steps=7)}, {"a": tmp_path / "a"}, None))
    found = differences(*guards)
    assert [line.split(" was ")[0] for line in found] == ["config.calibrate.steps", "inputs.a"]


def test_state_round_trip_continues_identically():
    def make():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))
        module[0].bias.requires_grad_(False)
        return module, torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], fused=True)

    def step(module, optimizer):
        module(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    module, optimizer = make()
    average = {"0.weight": torch.ones(3, 3)}
    step(module, optimizer)
    state = {name: tensor.clone() for name, tensor in training_state(module, optimizer, average).items()}
    step(module, optimizer)
    other, optimizer = make()
    values = {"0.weight": torch.zeros(3, 3)}
    restore_state(state, other, optimizer, values)
    step(other, optimizer)
    assert values["0.weight"].all()
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_moments_come_back_in_the_memory_layout_of_their_weights():
    """The fused optimizer goes through weights and moments side by side, whatever their strides."""

    def trained(steps, state=None):
        torch.manual_seed(0)
        module = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        if state:
            restore_state(state, module, optimizer, {})
        for step in steps:
            module(torch.full((1, 3, 5, 5), step + 1.0).cumsum(2)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return module, optimizer

    whole, _ = trained(range(4))
    state = {name: tensor.clone().contiguous() for name, tensor in training_state(*trained(range(2)), {}).items()}
    resumed, optimizer = trained(range(2, 4), state)
    assert optimizer.state[resumed.weight]["exp_avg"].stride() == resumed.weight.stride()
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
