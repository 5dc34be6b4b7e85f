"""Two hundred fetches over bad lines from bad servers: the right file, or the right message, and never a wrong file."""

import os
import random
import time

import pytest
from stand_in_bucket import Mischief, Stored, serving

from neuropictor.config import NsdConfig
from neuropictor.fetching import manifest
from neuropictor.fetching.bucket import FetchError, Retries
from neuropictor.fetching.nsd import fetch

KEY = "nsddata_betas/ppdata/subj01/fsaverage/b3/lh.betas_session01.mgh"
#: What an error may say, and what must have happened then.
CAUSES = {
    "was replaced": "swap",
    "are not those at the endpoint": "wrong",
    "given up after 6 tries": "503",  # or anything else that may pass; outages are drawn as 503
    "403 (forbidden)": "403",
    "404 (not found)": "404",
}


def scenario(seed: int) -> tuple[Stored, Stored, Mischief]:
    """Draw an object, its next version, and what goes wrong."""
    draw = random.Random(seed)
    size = draw.choice([0, 1, draw.randrange(1, 2000), *[draw.randrange(20_000, 60_000)] * 9])
    part_size = draw.choice([None, draw.randrange(900, 9000)])
    versions = [Stored(draw.randbytes(size), part_size) for _ in range(2)]
    rates = {name: draw.choice([0.0, 0.05, 0.15]) for name in ("drop", "reset", "503", "short")}
    rates["stall"] = draw.choice([0.0, 0.0, 0.0, 0.02])
    special = draw.random()
    if special < 0.15:
        rates = {"swap": draw.choice([0.05, 0.2]), **rates}
    elif special < 0.3:
        rates = {"wrong": draw.choice([0.02, 0.1, 1.0]), **rates}
    elif special < 0.35:
        rates = {"503": 0.97}
    elif special < 0.45:
        rates = {draw.choice(["403", "404"]): 0.6, **rates}
    return *versions, Mischief(rates, seed, stall=0.8)


def run(seed: int, root) -> str:
    """Fetch once; return what came of it."""
    first, second, mischief = scenario(seed)
    patience = Retries(attempts=6, first_wait=0.001, longest_wait=0.004, timeout=0.5, generator=random.Random(seed))
    with serving({KEY: first}, mischief) as server:
        server.next_version[KEY] = second
        config = NsdConfig(terms_accepted=True, endpoint=server.address, connections=4)
        outcome = "arrived"
        try:
            fetch([KEY], root, config, patience, range_bytes=4096)
        except FetchError as error:
            outcome = next(text for text in CAUSES if text in str(error))
            passing = outcome.startswith("given up") and mischief.done
            assert passing or mischief.done[CAUSES[outcome]], f"seed {seed}: {error}, but only {mischief.done} happened"
            assert KEY in str(error)
            assert not (root / KEY).exists(), f"seed {seed}: a file in spite of {error}"
            mischief.rates = {}
            fetch([KEY], root, config, patience, range_bytes=4096)
        arrived = (root / KEY).read_bytes()
        assert arrived in (first.content, second.content), f"seed {seed}: wrong bytes under the final name"
        version = first if arrived == first.content else second
        assert manifest.read(root)[KEY].etag == version.etag
        assert [path.name for path in (root / KEY).parent.iterdir()] == [(root / KEY).name]
    return outcome


@pytest.fixture(autouse=True)
def _local_and_quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(os, "fsync", lambda file: None)  # nobody pulls the plug here


def test_two_hundred_fetches_end_in_the_right_file_or_the_right_message(tmp_path):
    began = time.process_time()
    outcomes = [run(seed, tmp_path / str(seed)) for seed in range(200)]
    counts = {text: outcomes.count(text) for text in ("arrived", *CAUSES)}
    print(counts, f"{time.process_time() - began:.1f} s of CPU")
    assert all(counts.values()), counts
    assert counts["arrived"] > 100
