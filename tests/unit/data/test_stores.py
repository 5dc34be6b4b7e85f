"""Stores of others: data that lie elsewhere, or nowhere, are refused by name; locks of others keep nobody out."""

import fcntl
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from small_stores import write_samples

from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.stores import expect, open_store
from neuropictor.records.files import NotWrittenError

SECRET = b"-----BEGIN" * 20


def linked(file, secret):
    file["images"] = h5py.ExternalLink(secret, "/values")


def renamed(file, secret):
    file["other"] = np.zeros(3)
    file["images"] = h5py.SoftLink("/other")


def raw(file, secret):
    file.create_dataset("images", (100,), np.uint8, external=[(str(secret), 0, 100)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((100,), np.uint8)
    layout[:] = h5py.VirtualSource(str(secret), "values", (100,))
    file.create_virtual_dataset("images", layout)


def virtual_beside(file, secret):
    layout = h5py.VirtualLayout((100,), np.uint8)
    layout[:] = h5py.VirtualSource(secret.name, "values", (100,))
    file.create_virtual_dataset("images", layout)


@pytest.mark.parametrize("make", [linked, renamed, raw, virtual, virtual_beside])
def test_data_in_other_files_are_refused(tmp_path, make):
    (tmp_path / "secret").write_bytes(SECRET)
    with h5py.File(tmp_path / "store.h5", "w") as file:
        make(file, tmp_path / "secret")
    told = r"store\.h5: images lies in another file .*\. Allowed: a file that holds its data itself"
    with pytest.raises(ValueError, match=told), open_store(tmp_path / "store.h5"):
        pass


@pytest.mark.parametrize(("place", "named"), [("deep/secret", "images lies"), ("secret", r"secret.* cannot be read")])
def test_a_bank_may_be_spread_over_the_stores_of_its_folder_alone(tmp_path, place, named):
    (tmp_path / "deep").mkdir()
    (tmp_path / place).write_bytes(SECRET)
    with h5py.File(tmp_path / "store.h5", "w") as file:
        virtual_beside(file, tmp_path / "values.h5")
        layout = h5py.VirtualLayout((100,), np.uint8)
        layout[:] = h5py.VirtualSource(place, "values", (100,))
    with h5py.File(tmp_path / "values.h5", "w") as file:
        file["values"] = np.arange(100, dtype=np.uint8)
    with open_store(tmp_path / "store.h5", spread=True) as file:
        assert file["images"][7] == 7
    with h5py.File(tmp_path / "store.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    with pytest.raises(ValueError, match=named), open_store(tmp_path / "store.h5", spread=True):
        pass


def test_sizes_that_the_file_does_not_hold_are_refused(tmp_path):
    with h5py.File(tmp_path / "store.h5", "w") as file:
        file.create_dataset("images", (10**9, 8, 8, 3), np.uint8, chunks=(1, 8, 8, 3))
    told = r"images is said to be uint8 \(1000000000, 8, 8, 3\), 192,000,000,000 bytes, but the file holds 0"
    with pytest.raises(ValueError, match=told), open_store(tmp_path / "store.h5"):
        pass


def test_images_that_are_all_black_are_no_claim(tmp_path):
    write_samples(tmp_path / "black.h5", "black", "01", np.zeros((4, 1, 512, 512, 3), np.uint8), range(4))
    assert StoredReconstructions(tmp_path / "black.h5").shape == (4, 1, 512, 512, 3)


def test_wider_numbers_are_no_colours(tmp_path):
    with h5py.File(tmp_path / "store.h5", "w") as file:
        file["images"] = np.zeros((2, 3), np.uint16)
        with pytest.raises(ValueError, match=r"images is uint16 \(2, 3\); allowed: uint8 numbers"):
            expect(file, {"images": ("B", (2, 3))})
        for shape in ((2, 4), (2, 3, None), (None,)):
            with pytest.raises(ValueError, match=r"images is uint16 \(2, 3\); allowed: integer or unsigned integer"):
                expect(file, {"images": ("iu", shape)})
        expect(file, {"images": ("iu", (None, 3))})


def test_missing_stores_are_named_and_errors_that_say_where_stay_as_they_are(tmp_path):
    missing = r"no file .*none\.h5; allowed: a store that a stage has written"
    with pytest.raises(FileNotFoundError, match=missing), open_store(tmp_path / "none.h5"):
        pass
    h5py.File(tmp_path / "store.h5", "w").close()
    for error in (NotWrittenError(28, "no room"), OSError(f"{tmp_path / 'store.h5'} is gone")):
        with pytest.raises(OSError) as told, open_store(tmp_path / "store.h5"):
            raise error
        assert told.value is error


def test_stores_with_a_damaged_byte_are_read_or_refused_by_name(tmp_path):
    with h5py.File(tmp_path / "store.h5", "w") as file:
        file["images"], file["other"] = np.arange(12, dtype=np.uint8), np.arange(5.0)
    whole, causes = (tmp_path / "store.h5").read_bytes(), set()
    for place in range(0, len(whole), 5):
        (tmp_path / "store.h5").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            with open_store(tmp_path / "store.h5") as file:
                [values[:] for values in file.values()]
        except ValueError as error:
            assert str(tmp_path / "store.h5") in str(error), place
            causes.add(type(error.__cause__))
    assert causes >= {OSError, RuntimeError, KeyError, ValueError}


def test_texts_that_are_no_utf8_are_refused_by_name(tmp_path):
    with h5py.File(tmp_path / "store.h5", "w") as file:
        file.create_dataset("captions", data=[b"\xff"], dtype=h5py.string_dtype())
    with pytest.raises(ValueError, match=r"store\.h5 cannot be read"), open_store(tmp_path / "store.h5") as file:
        file["captions"].asstr()[:]


def test_whoever_holds_a_lock_keeps_nobody_from_reading(tmp_path):
    with h5py.File(tmp_path / "store.h5", "w") as file:
        file["images"] = np.zeros(3)
    code = f"from neuropictor.data.stores import open_store\nwith open_store({str(tmp_path / 'store.h5')!r}): pass"
    environment = {name: value for name, value in os.environ.items() if name != "HDF5_USE_FILE_LOCKING"}
    with open(tmp_path / "store.h5", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
