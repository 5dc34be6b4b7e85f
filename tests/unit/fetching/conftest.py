import pytest

from neuropictor.fetching import download


@pytest.fixture(autouse=True)
def _local_and_quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("os.fsync", lambda file: None)  # nobody pulls the plug here
    for name, value in {
        "ATTEMPTS": 3,
        "FIRST_WAIT": 0.001,
        "LONGEST_WAIT": 0.002,
        "TIMEOUT": 5,
        "BLOCK_BYTES": 4096,
        "CHUNK_BYTES": 1024,
    }.items():
        monkeypatch.setattr(download, name, value)
