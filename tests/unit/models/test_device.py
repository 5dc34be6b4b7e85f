import os

import pytest
import torch

from neuropictor.config import RuntimeConfig
from neuropictor.models import device
from neuropictor.models.device import fast_bf16, prepare_device


@pytest.fixture(autouse=True)
def arithmetic_as_before(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # whatever is set in a test goes with it
    yield
    prepare_device(RuntimeConfig(device="cpu", threads=0))


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


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", True), ("fp16", True)])
def test_float32_is_float32_on_gpus_unless_less_was_asked_for(precision, tf32):
    prepare_device(RuntimeConfig(device="cpu", threads=0, precision=precision))
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_or_fast(deterministic, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    prepare_device(RuntimeConfig(device="cpu", threads=0, deterministic=deterministic))
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is deterministic


@pytest.mark.parametrize(
    ("described", "fast"),
    [
        ("flags\t: fpu avx2 avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t: fpu avx2 amx_bf16\n", True),
        ("flags\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("Features\t: fp asimd svebf16x\n", False),
        (None, True),
    ],
)
def test_bf16_on_a_processor_without_instructions_for_it_is_warned_of(tmp_path, monkeypatch, caplog, described, fast):
    if described is not None:
        (tmp_path / "cpuinfo").write_text(described)
    monkeypatch.setattr(device, "_CPU_DESCRIPTION", tmp_path / "cpuinfo")
    assert fast_bf16(torch.device("cpu")) is fast and fast_bf16(torch.device("cuda"))
    for precision in ("fp32", "bf16"):
        prepare_device(RuntimeConfig(device="cpu", threads=0, precision=precision))
    warned = [record.message for record in caplog.records]
    assert len(warned) == (not fast)
    assert all("bf16 asked for, but this processor has no instructions" in message for message in warned)
