import logging
import resource
import signal

import pytest
import torch

from neuropictor.config import CalibrateConfig
from neuropictor.records.files import NotWrittenError
from neuropictor.training.checkpoints import CheckpointFolder, differences, make_guard

GUARD = {"config": {"pretrain": {"learning_rate": 0.001}}, "inputs": {"latents": "sha256:1"}, "code": "a"}


def test_last_two_are_kept_and_the_newest_is_read(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", GUARD)
    folder.prepare()
    assert folder.newest() is None
    for step in (2, 4, 6):
        folder.save({"step": step, "history": [(step, "train", "loss", 0.5)], "module": {"a": torch.full((2,), step)}})
    assert [path.name for path in folder.files()] == ["step-00000004.pt", "step-00000006.pt"]
    again = CheckpointFolder(tmp_path / "checkpoints", GUARD)
    again.prepare()
    newest = again.newest()
    assert (newest["step"], newest["module"]["a"].tolist()) == (6, [6, 6])
    assert newest["history"] == [(6, "train", "loss", 0.5)]
    again.clear()
    assert not (tmp_path / "checkpoints").exists()


class Code:
    """What a pickle could run."""

    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("damage", ["cut", "emptied", "of code", "of another kind", "of a list", "a bit flipped"])
def test_an_unreadable_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, capsys, damage):
    folder = CheckpointFolder(tmp_path, GUARD)
    for step in (2, 4):
        path = folder.save({"step": step, "a": torch.zeros(100)})
    if damage == "of code":
        torch.save({"step": 4, "a": Code()}, path)
    elif damage == "of a list":
        torch.save([4], path)
    else:
        whole = path.read_bytes()
        flipped = whole.replace(bytes(400), bytes(99) + b"\1" + bytes(300))
        made = {"cut": whole[:-20], "emptied": b"", "of another kind": b"hello" * 99, "a bit flipped": flipped}[damage]
        assert made != whole
        path.write_bytes(made)
    assert folder.newest()["step"] == 2
    assert "step-00000004.pt cannot be read" in caplog.text
    assert not capsys.readouterr().out


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path):
    folder = CheckpointFolder(tmp_path, GUARD)
    folder.save({"step": 2})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(NotWrittenError, match=r"step-00000004.pt could not be written: File too large"):
            folder.save({"step": 4, "a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002.pt"]


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
    old.save({"step": 2})
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
    assert [line.split(" was ")[0] for line in differences(*guards)] == ["config.calibrate.steps", "inputs.a"]
