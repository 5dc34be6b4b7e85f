import pytest
import torch

from neuropictor.config import RuntimeConfig
from neuropictor.models.device import prepare_device


def test_cpu_and_threads():
    before = torch.get_num_threads()
    try:
        assert prepare_device(RuntimeConfig(device="cpu", threads=1)).type == "cpu"
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prepare_device(RuntimeConfig(threads=0)).type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert prepare_device(RuntimeConfig(threads=0)).type == "cpu"


def test_a_missing_device_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"runtime\.device: .cuda. asked for, .* for example runtime: "):
        prepare_device(RuntimeConfig(device="cuda", threads=0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_reserved_gpus_that_are_not_there_are_missed_before_anything_is_loaded():
    with pytest.raises(RuntimeError, match=r"runtime.gpus: 1 asked for, .* finds no GPU here .* allowed: .*gpus: 0"):
        prepare_device(RuntimeConfig(gpus=1))
    assert prepare_device(RuntimeConfig(gpus=1, device="cpu")).type == "cpu"
