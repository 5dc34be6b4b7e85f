"""What titles say of where results come from."""

import pytest

from neuropictor.data.origin import drawn_label, joined_label, origin_of, title_mark
from neuropictor.simulation.scenes.scene import CATEGORIES


@pytest.mark.parametrize(
    ("labels", "joined", "mark"),
    [
        ([], "", ""),
        (["nsd"], "nsd", ""),
        (["nsd", "own"], "own", ""),
        (["own", "simulated"], "simulated", " (SIMULATED data)"),
        (["own+miniature", "own"], "own+miniature", " (drawn by a miniature that knows 12 cartoon objects)"),
        (
            ["nsd+miniature", "simulated"],
            "simulated+miniature",
            " (SIMULATED data, drawn by a miniature that knows 12 cartoon objects)",
        ),
    ],
)
def test_one_label_stands_for_all_and_titles_say_it(labels, joined, mark):
    assert joined_label(labels) == joined
    assert title_mark(joined) == mark
    assert origin_of(joined) == joined.removesuffix("+miniature")


def test_backbones_of_published_size_are_no_miniatures():
    assert [drawn_label("own", width) for width in (128, 768, 1024)] == ["own+miniature", "own", "own"]
    assert len(CATEGORIES) == 12
