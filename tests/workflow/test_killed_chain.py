"""A short sample of `benchmarks/kill_campaign.py`: what is killed at a random moment ends in the same bytes."""

import pytest
from killed_chain import STAGES, one_run

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize("stage", ["refine"])
def test_what_is_killed_and_continued_is_the_same(chain, tmp_path, stage):
    seen = one_run(list(STAGES).index(stage) + len(STAGES), chain, tmp_path)
    assert seen["stages"][0] == stage
    assert seen["continued"], seen["output"]
    assert not seen["half-written"]
    assert not seen["differing"]
    assert not seen["left"]
