import nibabel as nib
import numpy as np
import pytest

from neuropictor.nsd import betas, keys

VERSION = "betas_fithrf"
VERTICES, TRIALS = 10_242, 70


@pytest.fixture
def root(tmp_path):
    """One session as nibabel writes it, with a vertex of NaN."""
    rng = np.random.default_rng(0)
    for hemisphere in ("lh", "rh"):
        values = rng.normal(0.25, 1.75, (VERTICES, 1, 1, TRIALS)).astype(np.float32)
        values[3] = np.nan
        path = tmp_path / keys.betas(1, 1, hemisphere, VERSION)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.MGHImage(values, np.eye(4)), path)
    return tmp_path


def read(root, subject, session, columns, version, *given, **named):
    paths = betas.session_paths(root, subject, session, version)
    return np.concatenate([block.copy() for block in betas.beta_blocks(paths, columns, *given, **named)])


def path_of(root, hemisphere="lh"):
    return root / keys.betas(1, 1, hemisphere, VERSION)


def test_reads_what_nibabel_reads(root):
    whole = np.concatenate(
        [np.asarray(nib.load(path_of(root, side)).dataobj)[:, 0, 0].T for side in ("lh", "rh")], axis=1
    )
    columns = np.array([0, 3, 500, 10_241, 10_242, 12_000, 20_483])
    some = read(root, 1, 1, columns, VERSION, "fsaverage5", TRIALS)
    assert some.dtype == np.float32
    np.testing.assert_array_equal(some, whole[:, columns])
    np.testing.assert_array_equal(read(root, 1, 1, np.arange(20_484), VERSION), whole)
    np.testing.assert_array_equal(read(root, 1, 1, np.array([5]), VERSION), whole[:, [5]])


def test_mesh_follows_from_the_header(root):
    assert betas.read_header(path_of(root)) == betas.MghHeader(VERTICES, TRIALS)
    assert betas.mesh_of(path_of(root)) == "fsaverage5"


def test_missing_file(root):
    with pytest.raises(FileNotFoundError, match=r"session02\.mgh is missing; fetch or simulate"):
        read(root, 1, 2, np.arange(3), VERSION)


def test_truncated_file(root):
    path = path_of(root, "rh")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        ValueError, match=r"rh.*is truncated: .* bytes, but 10242 vertices x 70 trials need .*fetch it again"
    ):
        read(root, 1, 1, np.arange(3), VERSION)
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match="has only 3 bytes"):
        read(root, 1, 1, np.arange(3), VERSION)


def test_wrong_vertices_trials_and_type(root):
    with pytest.raises(ValueError, match="has 10242 vertices, expected 163842 of fsaverage"):
        read(root, 1, 1, np.arange(3), VERSION, "fsaverage")
    with pytest.raises(ValueError, match="has 70 trials, expected 750"):
        read(root, 1, 1, np.arange(3), VERSION, trials=750)
    nib.save(nib.MGHImage(np.zeros((50, 1, 1, 7), np.int16), np.eye(4)), path_of(root))
    with pytest.raises(ValueError, match="no surface file of float32 betas: MGH version 1, type 4"):
        read(root, 1, 1, np.arange(3), VERSION)
    nib.save(nib.MGHImage(np.zeros((50, 1, 1, 7), np.float32), np.eye(4)), path_of(root))
    with pytest.raises(ValueError, match=r"has 50 vertices; allowed: 10242 \(fsaverage5\)"):
        betas.mesh_of(path_of(root))


def test_columns_must_ascend(root):
    for columns in ([3, 2], [-1, 0], [0, 20_484]):
        with pytest.raises(ValueError, match="columns must ascend within 0 to 20483"):
            read(root, 1, 1, np.array(columns), VERSION)


def test_names_of_files():
    assert (
        keys.betas(1, 7, "lh", VERSION) == "nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf/lh.betas_session07.mgh"
    )
    with pytest.raises(ValueError, match="subject 9 is not one of NSD's; allowed: 1, 2, 3"):
        keys.betas(9, 1, "lh", VERSION)
    with pytest.raises(
        ValueError, match=r"beta_version 'b3' is none of NSD's; allowed: betas_assumehrf, .* \(e\.g\. betas_fithrf_GLM"
    ):
        keys.betas(1, 1, "lh", "b3")
    with pytest.raises(ValueError, match="allowed: lh, rh"):
        keys.betas(1, 1, "left", VERSION)
    with pytest.raises(ValueError, match="sessions count from 1"):
        keys.betas(1, 0, "lh", VERSION)
