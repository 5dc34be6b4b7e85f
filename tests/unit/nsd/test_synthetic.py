"""NSD-synthetic's tables: order, repeats of the trial before, names and classes."""

import numpy as np
import pandas as pd
import pytest
import scipy.io

from neuropictor.nsd import keys, synthetic


def test_the_simulated_experiment_has_the_published_counts(experiments_root):
    order = synthetic.read_order(experiments_root)
    again = synthetic.repeats_of_the_last(order)
    assert (len(order), order.min(), order.max()) == (744, 0, 283)
    assert scipy.io.loadmat(experiments_root / keys.SYNTHETIC_DESIGN)["masterordering"].min() == 1
    assert again.reshape(8, 93).sum(1).tolist() == [10] * 8
    shown = np.bincount(order[~again])
    assert (shown.min(), shown.max(), shown.sum()) == (2, 8, 664)
    table = synthetic.read_images(experiments_root)
    assert table["category"].value_counts().to_dict() == {
        "Noise": 12,
        "Natural scenes": 8,
        "Manipulated scenes": 12,
        "Contrast modulation": 20,
        "Phase-coherence modulation": 16,
        "Single words": 40,
        "Spiral gratings": 112,
        "Chromatic noise": 64,
    }
    assert (table["category"][220:] == "Chromatic noise").all()
    assert table["name"].is_unique


def test_an_image_shown_again_in_the_next_run_is_no_repeat_of_the_last():
    order = np.arange(186)
    order[93], order[40], order[41] = order[92], order[39], order[39]
    assert np.flatnonzero(synthetic.repeats_of_the_last(order)).tolist() == [40, 41]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expdesign\.mat is missing; fetch or simulate NSD-synthetic"):
        synthetic.read_order(tmp_path)
    path = tmp_path / keys.SYNTHETIC_DESIGN
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, {"masterordering": np.arange(744)[None] % 284})
    with pytest.raises(ValueError, match=r"744 trials of images 0 to 283; allowed: 744 trials, of each of 1 to 284"):
        synthetic.read_order(tmp_path)
    path.write_bytes(b"no MAT file")
    with pytest.raises(ValueError, match="is no readable MAT file of version 5 with the field masterordering"):
        synthetic.read_order(tmp_path)
    table = pd.DataFrame({"Image": ["a", "a"], "Image class": "b", "Image subclass": "c"})
    table.to_csv(tmp_path / keys.SYNTHETIC_IMAGES)
    with pytest.raises(ValueError, match="has 2 rows and 1 names; allowed: 284, a name each"):
        synthetic.read_images(tmp_path)
    table[["Image"]].to_csv(tmp_path / keys.SYNTHETIC_IMAGES)
    with pytest.raises(ValueError, match=r"cannot be read .*allowed: NSD's table, with the columns Image, Image class"):
        synthetic.read_images(tmp_path)
