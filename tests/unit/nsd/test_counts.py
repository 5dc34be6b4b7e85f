"""Every published count of NSD's sessions, trials and images, on a simulated design of its size (no betas)."""

import json
from pathlib import Path

import numpy as np
import pytest

from neuropictor import config
from neuropictor.config import SimulateConfig
from neuropictor.nsd import keys
from neuropictor.nsd.constants import SESSIONS, SUBJECTS, counted_sessions
from neuropictor.nsd.design import LEFT_OUT, TEST, TRAIN, VALIDATION, load_design
from neuropictor.simulation.writer.coco import CocoImages
from neuropictor.simulation.writer.design import write_experiment_design, write_stimulus_info
from neuropictor.simulation.writer.trial_order import make_order

PAPER = (1, 2, 5, 7)


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    root = tmp_path_factory.mktemp("nsd")
    order = make_order(SimulateConfig(sessions=40, trials_per_session=750, shared_images=1000))
    (root / keys.SIMULATED).write_text(json.dumps({"sessions": {str(s): n for s, n in SESSIONS.items()}}))
    write_experiment_design(root, order)
    write_stimulus_info(root, order, CocoImages(order.n_images, 0))
    return load_design(root)


def images(design, subject, split, release=40, **options):
    """Numbers of images and trials of a split."""
    sessions = design.counted_sessions(subject, release, options.pop("sessions", 40))
    found = design.splits(subject, options.pop("validation_images", 0), sessions, **options) == split
    return design.trials(subject, sessions)["nsd_id"][found].nunique(), int(found.sum())


def at_least(design, subject, times):
    """Images that a subject saw at least so often: all of them, and the shared ones."""
    trials = design.trials(subject)
    counts = trials["nsd_id"].value_counts()
    seen = counts.index[counts >= times]
    return len(seen), int(np.isin(seen, design.shared).sum())


def test_sessions_and_trials(design):
    assert [SESSIONS[subject] for subject in SUBJECTS] == [40, 40, 32, 30, 40, 32, 40, 30]
    assert sum(SESSIONS.values()) == 284
    trials = [len(design.trials(subject)) for subject in SUBJECTS]
    assert trials == [30000, 30000, 24000, 22500, 30000, 24000, 30000, 22500] and sum(trials) == 213_000
    assert [design.counted_sessions(subject, 37) for subject in SUBJECTS] == [37, 37, 29, 27, 37, 29, 37, 27]


def test_images_seen(design):
    assert len(design.stimulus_info) == 73_000 and len(design.shared) == 1000
    assert design.stimulus_info["shared1000"].sum() == 1000
    assert [at_least(design, s, 1)[0] for s in SUBJECTS] == [10000, 10000, 9411, 9209, 10000, 9411, 10000, 9209]
    assert [at_least(design, s, 2)[0] for s in SUBJECTS] == [10000, 10000, 8355, 7846, 10000, 8355, 10000, 7846]
    assert [at_least(design, s, 3)[0] for s in SUBJECTS] == [10000, 10000, 6234, 5445, 10000, 6234, 10000, 5445]
    assert len(design.images(SUBJECTS)) == 70_566
    private = design.images_of_subject[:, 1000:]
    assert private.shape == (8, 9000) and len(np.unique(private)) == 72_000


def test_shared_images_seen(design):
    assert [at_least(design, s, 1)[1] for s in SUBJECTS] == [1000, 1000, 930, 907, 1000, 930, 1000, 907]
    seen = np.array(
        [design.trials(s)["nsd_id"].value_counts().reindex(design.shared, fill_value=0) for s in SUBJECTS]
    ).min(axis=0)
    assert [(seen >= times).sum() for times in (1, 2, 3)] == [907, 766, 515]


def test_release_40(design):
    assert [images(design, s, TEST) for s in PAPER] == [(1000, 3000)] * 4
    assert [images(design, s, TRAIN) for s in PAPER] == [(9000, 27_000)] * 4
    assert [images(design, s, TEST)[0] for s in (3, 6, 4, 8)] == [930, 930, 907, 907]
    assert sum(images(design, s, TRAIN)[0] for s in SUBJECTS) == 69_566


def test_release_37(design):
    """Brain-Diffuser's and Takagi's 8859 and 982 images, MindEye's 24,980 and 2770 trials."""
    assert [images(design, s, TEST, 37) for s in PAPER] == [(982, 2770)] * 4
    assert [images(design, s, TRAIN, 37) for s in PAPER] == [(8859, 24_980)] * 4
    seen = [len(design.images([s], release=37)) for s in SUBJECTS]
    assert seen == [9841, 9841, 9082, 8779, 9841, 9082, 9841, 8779], "Algonauts 2023"
    assert round(sum(images(design, s, TRAIN, 37)[0] for s in SUBJECTS), -3) in (67_000, 68_000), "NeuroPictor"


def test_validation_is_held_out_of_training(design):
    options = {"release": 37, "validation_images": 300}
    assert images(design, 1, TRAIN, **options)[0] == 8559, "MindEye"
    assert images(design, 1, VALIDATION, **options)[0] == 300
    assert images(design, 1, TEST, **options)[0] == 982
    split, trials = design.splits(1, 300), design.trials(1)["nsd_id"]
    for one, other in ((TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)):
        assert not set(trials[split == one]) & set(trials[split == other])


def test_first_sessions_only(design):
    """Few-session work: all from one session, or training on one and tests on all."""
    assert sum(images(design, 1, split, sessions=1)[1] for split in (TRAIN, TEST)) == 750
    train, test = (images(design, 1, split, training_sessions=1) for split in (TRAIN, TEST))
    assert test == (1000, 3000)
    assert train == images(design, 1, TRAIN, sessions=1)
    assert train[1] + images(design, 1, LEFT_OUT, training_sessions=1)[1] == 27_000
    late = design.splits(1, 0, training_sessions=1)[750:]
    assert set(late) == {TEST, LEFT_OUT}


def test_what_is_refused(design):
    with pytest.raises(ValueError, match=r"nsd\.release is 38; allowed: 37 or 40\. Example: release: 37"):
        counted_sessions(40, 38)
    with pytest.raises(
        ValueError, match=r"nsd\.release is 37, which leaves out .* last 3 sessions, .* only 3; allowed"
    ):
        counted_sessions(3, 37)
    with pytest.raises(ValueError, match=r"nsd\.sessions is 0; allowed: 1 to 40\. Example: sessions: 1"):
        counted_sessions(40, 40, 0)
    with pytest.raises(ValueError, match=r"validation_images is 9000, but subject 1 saw only 9000 .* allowed: 0 to"):
        design.splits(1, 9000)
    with pytest.raises(ValueError, match=r"subject 4: nsd\.release is 36"):
        design.counted_sessions(4, 36)


def test_steps_of_the_presets_are_the_papers_epochs(design):
    def epochs(settings, found):
        return settings.steps * settings.batch_size / found

    presets = Path(__file__).resolve().parents[3] / "presets"
    paper, few = config.read(presets / "nsd.yaml"), config.read(presets / "nsd.yaml", presets / "nsd-1-session.yaml")
    everyone = sum(images(design, int(s), TRAIN, paper.nsd.release)[0] for s in paper.subjects.pretrain)
    assert everyone == 67_628 and epochs(paper.pretrain, everyone) == pytest.approx(80, abs=0.01)
    assert paper.pretrain.guidance_adaptation.steps * 96 / everyone == pytest.approx(20, abs=0.01)
    for settings, found in ((paper, 8859), (few, 526)):
        assert images(design, 1, TRAIN, settings.nsd.release, **sessions_of(settings, 1))[0] == found
        assert epochs(settings.refine, found) == pytest.approx(160, abs=0.05)
        adapted = settings.refine.guidance_adaptation.steps * settings.refine.batch_size
        assert adapted / found == pytest.approx(20, abs=0.05)
    others = sum(images(design, int(s), TRAIN, 40, **sessions_of(few, int(s)))[0] for s in few.subjects.pretrain)
    assert others == 60_566 and epochs(few.pretrain, others) == pytest.approx(80, abs=0.01)
    assert few.pretrain.guidance_adaptation.steps * 96 / others == pytest.approx(20, abs=0.01)
    assert images(design, 1, TEST, 40, **sessions_of(few, 1)) == (1000, 3000)


def sessions_of(settings, subject):
    return {"training_sessions": settings.preprocess_of(f"{subject:02d}").training_sessions}
