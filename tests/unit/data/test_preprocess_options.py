"""Which sessions and trials count, how they are z-scored, sessions kept apart from NSD's files, and bad files."""

import shutil

import numpy as np
import pytest
from small_nsd import BETAS, PER_SESSION, VERTICES, config, write_root

from neuropictor.config import NsdConfig
from neuropictor.data.preprocess import preprocess_stimuli, preprocess_subject
from neuropictor.data.responses import ResponseStore
from neuropictor.data.sessions import preprocess_session
from neuropictor.data.stimuli import StimulusStore
from neuropictor.fetching import manifest
from neuropictor.nsd import keys
from neuropictor.nsd.betas import HEADER_BYTES
from neuropictor.surface import load_geometry

TRIAL = slice(HEADER_BYTES + 3 * 4 * VERTICES, HEADER_BYTES + 4 * 4 * VERTICES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("nsd"))


@pytest.fixture
def make(root, tmp_path):
    """Preprocess subject 1 with changed settings; return the store."""

    def run(preprocess=None, kept=None, folder=root, **nsd):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
        preprocess_subject(folder, 1, config(**(preprocess or {})), NsdConfig(**nsd), out, kept)
        return ResponseStore(out)

    return run


@pytest.fixture
def copy(root, tmp_path):
    """A copy of the root to spoil, without the checksums that would tell at once."""
    return shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns(manifest.NAME))


def everything(store):
    return store.responses(np.arange(len(store)))


def spoil(path, part, content):
    """Replace a part of a file's bytes."""
    whole = bytearray(path.read_bytes())
    whole[part] = content
    path.write_bytes(whole)


def test_first_sessions_only(make, root, tmp_path):
    first = make(sessions=1, preprocess={"validation_images": 0})
    assert len(first) == PER_SESSION and set(first.session) == {1}
    assert not len(first.images("validation"))
    whole = make()
    both = np.flatnonzero(whole.session == 1)
    np.testing.assert_array_equal(everything(first), whole.responses(both))
    preprocess_stimuli(root, [1], config(), NsdConfig(sessions=1), tmp_path / "stimuli.h5")
    assert StimulusStore(tmp_path / "stimuli.h5").nsd_id.tolist() == np.unique(first.nsd_id).tolist()


def test_training_on_the_first_session_and_tests_on_all(make):
    whole, few = (
        make(preprocess={"validation_images": 1}),
        make(preprocess={"validation_images": 1, "training_sessions": 1}),
    )
    assert set(few.session[few.split != 2]) == {1}
    for split in ("test", "train"):
        assert set(few.images(split)) <= set(whole.images("train")) | set(whole.images(split))
    one, other = (np.flatnonzero(store.split == 2) for store in (few, whole))
    assert len(one) == len(other) == 6
    np.testing.assert_array_equal(few.responses(one), whole.responses(other))


def test_z_scores_of_a_subject_share_mean_and_deviation(make):
    by_subject, by_session = (make(preprocess={"z_score": scope, "clip": 100.0}) for scope in ("subject", "session"))
    values, known = everything(by_subject), by_subject.split != 2
    present = (np.abs(values[by_subject.session == 1]).max(0) > 0) & (
        np.abs(values[by_subject.session == 2]).max(0) > 0
    )
    used = values[known][:, present]
    np.testing.assert_allclose(used.mean(0), 0, atol=5e-3)
    np.testing.assert_allclose(used.std(0, ddof=1), 1, atol=5e-3)
    # The fixture's second session is louder and shifted: seen by one scope, removed by the other.
    later = known & (by_subject.session == 2)
    assert values[later][:, present].mean() > 0.3
    assert abs(everything(by_session)[later][:, present].mean()) < 1e-2
    with pytest.raises(ValueError, match=r"preprocess\.z_score|Input should be 'session' or 'subject'"):
        config(z_score="run")


def test_b2_lies_in_its_own_folder_and_has_the_same_scale(make, copy):
    b3 = make(folder=copy)
    (copy / keys.beta_folder(1, BETAS)).rename(copy / keys.beta_folder(1, "betas_fithrf"))
    b2 = make(folder=copy, beta_version="betas_fithrf")
    assert b2.beta_version == "betas_fithrf"
    np.testing.assert_array_equal(everything(b2), everything(b3))
    with pytest.raises(FileNotFoundError, match=r"betas_fithrf_GLMdenoise_RR/lh\.betas_session01\.mgh is missing"):
        make(folder=copy)


def test_release_37_needs_more_than_three_sessions(make):
    with pytest.raises(ValueError, match=r"subject 1: nsd\.release is 37, .* last 3 sessions, but there are only 2"):
        make(release=37)


def keep(root, folder):
    kept = {session: folder / f"session-{session}.h5" for session in (1, 2)}
    for session, out in kept.items():
        preprocess_session(root, 1, session, BETAS, out)
    return kept


def test_kept_sessions_give_the_same_bytes_without_the_betas(make, copy, tmp_path):
    kept, whole = keep(copy, tmp_path), make(folder=copy)
    assert kept[1].stat().st_size < 1.1 * 4 * PER_SESSION * load_geometry().n_vertices
    shutil.rmtree(copy / "nsddata_betas")
    assert make(folder=copy, kept=list(kept.values())).path.read_bytes() == whole.path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"nothing was kept of session 2; run preprocess-session for it"):
        make(folder=copy, kept=[kept[1]])
    with pytest.raises(ValueError, match=r"session-2\.h5 holds .*'session': 2.*; allowed: .*'session': 1"):
        make(folder=copy, kept=[kept[2], kept[1]])


def test_bad_files_are_named_before_any_work(make, copy):
    path = copy / keys.betas(1, 2, "rh", BETAS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30_000])
    with pytest.raises(ValueError, match=r"rh\.betas_session02\.mgh is truncated: .* fetch it again"):
        make(folder=copy)
    # One trial less by its own header.
    path.write_bytes(whole)
    spoil(path, slice(16, 20), (PER_SESSION - 1).to_bytes(4, "big"))
    with pytest.raises(ValueError, match=r"rh\.betas_session02\.mgh has 11 trials, expected 12"):
        make(folder=copy)
    spoil(path, slice(4, 8), (VERTICES - 1).to_bytes(4, "big"))
    with pytest.raises(ValueError, match=r"has 10241 vertices, expected 10242 of fsaverage5"):
        make(folder=copy)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"rh\.betas_session02\.mgh is missing"):
        make(folder=copy)


def test_files_that_were_not_written_to_the_end_are_named(make, copy):
    for side in ("lh", "rh"):
        spoil(copy / keys.betas(1, 2, side, BETAS), TRIAL, bytes(4 * VERTICES))
    with pytest.raises(ValueError, match=r"subject 1, session 2: all betas of trial 3 are 0"):
        make(folder=copy)


def test_a_session_without_any_valid_vertex_is_named(make, copy):
    nothing = np.full(PER_SESSION * VERTICES, np.nan, ">f4").tobytes()
    for side in ("lh", "rh"):
        spoil(copy / keys.betas(1, 1, side, BETAS), slice(HEADER_BYTES, HEADER_BYTES + len(nothing)), nothing)
    with pytest.raises(ValueError, match=r"subject 1, session 1: no vertex of visual cortex has a valid beta"):
        make(folder=copy)
