"""Odd files: every reader of a lab's own data against damaged and foreign files of its kind.

    PYTHONPATH=tests python benchmarks/odd_files.py

For each reader a good file is written, deformed in seeded ways (cut, bytes flipped, lost, added or blank; what lies in
its place instead; and what other programs make of its kind: other types, orders of axes, encodings, NaN, keys, headers
that claim too much), and read in a process of its own. Each must be read rightly, that is as the good file, or be
refused with its name. What no reader can see is counted apart: other numbers or texts, in formats without a checksum.
"""

import argparse
import base64
import contextlib
import csv
import gzip
import io
import json
import logging
import multiprocessing
import pickle
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
from lab_files import HALF, cifti, glmsingle, mosaic
from machine import machine
from nibabel.gifti import GiftiDataArray, GiftiImage
from PIL import Image
from small_stores import write_responses, write_samples, write_stimuli

from neuropictor.config import PreprocessConfig
from neuropictor.data.image_files import read_image
from neuropictor.data.image_names import ImageNames
from neuropictor.data.labs.kinds import open_files
from neuropictor.data.labs.reader import LabBetas
from neuropictor.data.labs.session_files import hemispheres
from neuropictor.data.latents import LatentStore
from neuropictor.data.own_data import import_images
from neuropictor.data.reconstructions import read_reconstructions
from neuropictor.data.responses import ResponseStore
from neuropictor.data.stimuli import StimulusStore
from neuropictor.data.tables import Splits, number_trials, read_trials
from neuropictor.fetching import manifest
from neuropictor.records.checksums import verify
from neuropictor.records.record import RunRecord, record_path
from neuropictor.surface import load_geometry

RESULT = Path(__file__).parent / "results" / "odd_files.json"
VERTICES, TRIALS, SIDE, SECONDS = 10_242, 8, 48, 20
RIGHT, REFUSED, UNSEEN, NOT_NAMED, WRONG = "read rightly", "refused by name", "unseen", "not named", "silently wrong"
#: Kinds of damage that leave a valid file of other contents where a format has no checksum.
BYTES = frozenset({"flipped", "lost", "added", "blank"})

Content = bytes | Callable[[Path], object]  # of the file, or a function that writes it


@dataclass(frozen=True)
class Reader:
    """`make` writes a good file, `read` returns what it holds, `foreign` gives other programs' files by name."""

    ending: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    foreign: Callable[[bytes], dict[str, Content]] = lambda whole: {}
    unseen: frozenset[str] = field(default=BYTES)


def damaged(whole: bytes, generator: np.random.Generator) -> dict[str, bytes]:
    """Deform the bytes of any file, by kind and number."""
    made: dict[str, bytes] = {}
    for number in range(10):
        place = int(generator.integers(0, len(whole)))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(generator.integers(0, 8))
        made[f"cut {number}"], made[f"flipped {number}"] = whole[:place], bytes(flipped)
        if number < 4:
            made[f"lost {number}"] = whole[:place] + whole[place + 1 :]
            made[f"added {number}"] = whole[:place] + b"7" + whole[place:]
            made[f"blank {number}"] = whole[:place] + bytes(len(whole[place : place + 64])) + whole[place + 64 :]
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
    return made | {
        "empty": b"",
        "one byte": whole[:1],
        "zeros": bytes(len(whole)),
        "twice": whole + whole,
        "packed": gzip.compress(whole),
        "base64": base64.b64encode(whole),
        "reversed": whole[::-1],
        "huge header": whole[:4] + b"\x7f" * 60 + whole[64:],
        "full header": b"\xff" * 64 + whole[64:],
        "pickle": pickle.dumps([1.5] * 999),
        "web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "pointer of Git LFS": pointer,
        "pointer of git-annex": b"/annex/objects/SHA256E-s123456--" + b"0" * 64,
    }


def betas(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((TRIALS, VERTICES)).astype(np.float32)


def save_betas(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, values, allow_pickle=values.dtype == object)
    elif path.suffix == ".gii":
        nibabel.save(GiftiImage(darrays=[GiftiDataArray(row, intent="NIFTI_INTENT_NONE") for row in values]), path)
    else:
        nibabel.save(nibabel.MGHImage(values.T.reshape(values.shape[1], 1, 1, -1), np.eye(4)), path)


def read_betas(path: Path) -> np.ndarray:
    if not list(path.parent.glob("rh.*")):
        save_betas(path.with_name("rh.session1.npy"), betas(1))
    return LabBetas(hemispheres(path.parent), {1: np.arange(TRIALS)}).betas(1)


def changed(values: np.ndarray, place: Any, value: float) -> np.ndarray:
    values = values.copy()
    values[place] = value
    return values


def foreign_betas(ending: str) -> dict[str, Content]:
    values = betas()

    def other(array: np.ndarray) -> Content:
        return lambda path: save_betas(path, array)

    def both(array: np.ndarray) -> Content:
        return lambda path: [save_betas(each, array) for each in (path, path.with_name("rh.session1.npy"))]

    made = {
        "a wrong mesh": other(values[:, :5000]),
        "mesh and one": other(np.pad(values, ((0, 0), (0, 1)))),
        "fewer trials": other(values[:-1]),
        "both all NaN": both(np.full_like(values, np.nan)),
        "both all zero": both(np.zeros_like(values)),
        "a trial of NaN": other(changed(values, 3, np.nan)),
        "a trial of 1e30": other(changed(values, 3, 1e30)),
        "the other hemisphere": other(betas(1)),
    }
    if ending == ".npy":
        made |= {
            "float64": other(values.astype(np.float64)),
            "big-endian": other(values.astype(">f4")),
            "columns first": other(np.asfortranarray(values)),
            "axes swapped": other(values.T),
            "three axes": other(values[None]),
            "one axis": other(values.ravel()),
            "complex": other(values.astype(complex)),
            "truth": other(values > 0),
            "texts": other(values.astype(str)),
            "objects": other(values.astype(object)),
            "records": other(values.view([("beta", "f4")])),
            "archive": lambda path: np.savez(path.open("wb"), values),
        }
    return made


def foreign_mgh(whole: bytes) -> dict[str, Content]:
    values = betas()

    def shaped(*shape: int, order: np.ndarray = values.T, kind: type = np.float32) -> Content:
        return lambda path: nibabel.save(nibabel.MGHImage(order.astype(kind).reshape(shape), np.eye(4)), path)

    return foreign_betas(".mgh") | {
        "trials first": shaped(TRIALS, 1, 1, VERTICES, order=values),
        "vertices second": shaped(1, VERTICES, 1, TRIALS),
        "a volume": shaped(VERTICES, 2, 2, TRIALS // 4),
    }


def foreign_gifti(whole: bytes) -> dict[str, Content]:
    values = betas()

    def named(name: str) -> Content:
        def write(path: Path) -> None:
            image = GiftiImage(darrays=[GiftiDataArray(row, intent="NIFTI_INTENT_NONE") for row in values])
            image.meta["AnatomicalStructurePrimary"] = name
            nibabel.save(image, path)

        return write

    def written(encoding: str) -> Content:
        return lambda path: nibabel.save(
            GiftiImage(darrays=[GiftiDataArray(row, intent="NIFTI_INTENT_NONE", encoding=encoding) for row in values]),
            path,
        )

    outside = whole.replace(b"GZipBase64Binary", b"ExternalFileBinary")
    return foreign_betas(".gii") | {
        "named left": named("CortexLeft"),
        "named right": named("CortexRight"),
        "plain": written("GIFTI_ENCODING_B64BIN"),
        "data elsewhere": outside.replace(b'FileName=""', b'FileName="rh.session1.npy"'),
        "one array": lambda path: nibabel.save(GiftiImage(darrays=[GiftiDataArray(values)]), path),
        "no array": lambda path: nibabel.save(GiftiImage(), path),
        "huge array": whole.replace(b'Dim0="10242"', b'Dim0="2000000000"'),
        "other type": whole.replace(b"FLOAT32", b"INT32"),
        "unknown type": whole.replace(b"FLOAT32", b"FLOAT99"),
        "unknown coding": whole.replace(b"GZipBase64Binary", b"Morse"),
        "other ends": whole.replace(b"LittleEndian", b"BigEndian"),
        "endless entities": whole.replace(b'"http', b'"x" [<!ENTITY a "b"><!ENTITY b "&b;&b;">] "http'),
    }


def whole_brain(seed: int = 0) -> np.ndarray:
    """Both hemispheres of fs_LR 32k, without numbers on the medial wall."""
    values = np.random.default_rng(seed).standard_normal((TRIALS, 2 * HALF)).astype(np.float32)
    return np.where(load_geometry().cortex.ravel(), values, np.float32(0))


def read_whole_brain(kind: str, path: Path) -> np.ndarray:
    _, files = open_files(path if kind == "mosaic" else path.parent, kind)
    trials = files.trials() if files.trials else None
    if trials is not None and sorted(trials["image"]) != [f"{number:012d}.jpg" for number in range(TRIALS)]:
        return trials["image"].to_numpy()
    return LabBetas(files, {1: np.arange(TRIALS)}).betas(1)


def foreign_cifti(whole: bytes) -> dict[str, Content]:
    values = whole_brain()

    def saved(array: np.ndarray, *parts: np.ndarray, **options: Any) -> Content:
        return lambda path: cifti(path, array, *parts, **options)

    return {
        "right first": saved(values, turned=True),
        "a series": saved(values, series=True),
        "without medial wall": saved(values, *map(np.flatnonzero, load_geometry().cortex)),
        "another mesh": saved(values, half=HALF // 2),
        "fewer trials": saved(values[:-1]),
        "both all NaN": saved(np.full_like(values, np.nan)),
        "a trial of NaN": saved(changed(values, 3, np.nan)),
        "a trial of 1e30": saved(changed(values, 3, 1e30)),
        "a matrix": lambda path: nibabel.save(nibabel.Nifti1Image(values[:, :1000], np.eye(4)), path),
    }


def foreign_lab_store(whole: bytes) -> dict[str, Content]:
    """What may befall an HDF5 file of another program, whose data sets lie at the top or in groups."""

    def edited(change: Callable[[h5py.File, list[str]], None]) -> Content:
        def write(path: Path) -> None:
            path.write_bytes(whole)
            with h5py.File(path, "r+") as file:
                names: list[str] = []
                file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
                change(file, names)

        return write

    def replaced(change: Callable[[np.ndarray], np.ndarray]) -> Content:
        def edit(file: h5py.File, names: list[str]) -> None:
            values = change(file[names[0]][()])
            del file[names[0]]
            file[names[0]] = values

        return edited(edit)

    def linked(file: h5py.File, names: list[str]) -> None:
        del file[names[0]]
        file[names[0]] = h5py.ExternalLink("other.h5", names[0])

    def grouped(file: h5py.File, names: list[str]) -> None:
        del file[names[0]]
        file.create_group(names[0])

    return {
        "other key": edited(lambda file, names: file.move(names[0], "data")),
        "missing key": edited(lambda file, names: file.pop(names[0])),
        "all keys missing": edited(lambda file, names: [file.pop(name) for name in names]),
        "a group": edited(grouped),
        "linked": edited(linked),
        "float64": replaced(lambda values: values.astype(np.float64)),
        "big-endian": replaced(lambda values: values.astype(">f4")),
        "a row more": replaced(lambda values: np.concatenate([values, values[:1]])),
        "a row missing": replaced(lambda values: values[:-1]),
        "texts": replaced(lambda values: values.ravel()[:9].astype("S")),
        "complex": replaced(lambda values: values.astype(complex)),
        "NaN": replaced(lambda values: np.full(values.shape, np.nan, np.float32)),
        "1e30": replaced(lambda values: np.full(values.shape, 1e30, np.float32)),
    }


def save_mosaic(path: Path) -> None:
    mosaic(path, whole_brain(), [(f"{number:012d}.jpg", "test" if number > 5 else "train") for number in range(TRIALS)])


def trials_table(path: Path) -> None:
    rows = [(1, t, k, "test" if k > 40 else "train") for t, k in enumerate([5, 9, 41, 5, 9, 41, 30, 30])]
    path.write_text("session,trial,image,split\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))


def read_trial_table(path: Path) -> list:
    return number_trials(read_trials(path)[0], path, ImageNames(), Splits()).to_numpy().tolist()


def images_table(path: Path) -> None:
    path.write_text('image,file,captions\n3,a.png,a red dog|a dog\n12,b.png,"a bus, from the side"\n')


def read_images(path: Path) -> Any:
    for number, name in enumerate("ab"):
        Image.fromarray(seen()[:, :, ::-1] if number else seen()).save(path.with_name(f"{name}.png"))
    import_images(path, PreprocessConfig(image_size=16), path.with_name("stimuli.h5"))
    store = StimulusStore(path.with_name("stimuli.h5"))
    return store.nsd_id.tolist(), store.captions(store.nsd_id), store.images(store.nsd_id).sum((1, 2)).tolist()


def foreign_table(whole: bytes) -> dict[str, Content]:
    text = whole.decode()
    rows = list(csv.reader(io.StringIO(text)))

    def table(changed: list[list[str]], **options: Any) -> bytes:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n", **options).writerows(changed)
        return out.getvalue().encode()

    return {
        "mark": b"\xef\xbb\xbf" + whole,
        "CRLF": whole.replace(b"\n", b"\r\n"),
        "CR": whole.replace(b"\n", b"\r"),
        "UTF-16": text.encode("utf-16"),
        "UTF-16 without mark": text.encode("utf-16-le"),
        "UTF-32": text.encode("utf-32"),
        "cp1252": text.replace("a", "\xe4").encode("cp1252"),
        "semicolons": table(rows, delimiter=";"),
        "tabs": table(rows, delimiter="\t"),
        "all quoted": table(rows, quoting=csv.QUOTE_ALL),
        "open quote": whole.replace(b"\n", b'\n"', 1),
        "stray quote": whole.replace(b"\n", b'"\n'),
        "comma at each end": whole.replace(b"\n", b",\n"),
        "comma at row ends": table([rows[0], *([*row, ""] for row in rows[1:])]),
        "blank lines": whole.replace(b"\n", b"\n\n"),
        "lines of commas": whole + b",,\n,,,\n",
        "a column more": table([[*row, "x"] for row in rows]),
        "columns turned": table([row[::-1] for row in rows]),
        "numbered rows": table([["", *rows[0]], *([str(n), *row] for n, row in enumerate(rows[1:]))]),
        "no header": table(rows[1:]),
        "header alone": table(rows[:1]),
        "header twice": table([rows[0], *rows]),
        "a column twice": table([[*row, row[0]] for row in rows]),
        "other names": table([[name.upper() for name in rows[0]], *rows[1:]]),
        "fractions": table([rows[0], *([f"{row[0]}.0", *row[1:]] for row in rows[1:])]),
        "negative": table([rows[0], *([f"-{row[0]}", *row[1:]] for row in rows[1:])]),
        "large numbers": table([rows[0], *(["9" * 30, *row[1:]] for row in rows[1:])]),
        "leading zeros": table([rows[0], *([row[0].zfill(12), *row[1:]] for row in rows[1:])]),
        "NUL": whole.replace(b"\n", b"\0\n"),
        "spaces": whole.replace(b",", b", "),
    }


def seen() -> np.ndarray:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return np.stack([5 * x, 5 * y, 120 + x - y], -1).astype(np.uint8)


def foreign_image(whole: bytes) -> dict[str, Content]:
    image = Image.fromarray(seen())
    name = {b"\x89PNG": "PNG", b"\xff\xd8\xff\xe0": "JPEG", b"RIFF": "WEBP", b"II*\0": "TIFF"}.get(whole[:4], "BMP")

    def saved(other: Image.Image, kind: str = name, **options: Any) -> Content:
        return lambda path: other.save(path.open("w+b"), kind, **({"quality": 100} | options))

    exif = Image.Exif()
    exif[0x0112] = 6
    grey = seen()[..., 0]
    made = {
        "a PNG's contents": saved(image, "PNG"),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "PDF": saved(image, "PDF"),
        "GIF": saved(image, "GIF"),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "ICO": saved(image, "ICO"),
        "JPEG 2000": saved(image, "JPEG2000"),
        "huge": saved(Image.new("1", (10_000, 10_000)), "PNG"),
        "float grey": saved(Image.fromarray(grey.astype(np.float32)), "TIFF"),
        "int32 grey": saved(Image.fromarray(grey.astype(np.int32)), "TIFF"),
        "two pages": saved(image, "TIFF", save_all=True, append_images=[image]),
        "moving": saved(image, "WEBP", save_all=True, append_images=[image.rotate(90)], lossless=True),
    }
    if name in ("PNG", "TIFF", "WEBP", "JPEG"):
        made["turned by EXIF"] = saved(image.transpose(Image.Transpose.ROTATE_90), exif=exif, lossless=True)
    if name in ("PNG", "TIFF", "WEBP"):
        made["opaque alpha"] = saved(image.convert("RGBA"), lossless=True)
    return made


def store(writer: Callable[[Path], Any], recorded: bool) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        writer(path)
        if recorded:
            with RunRecord(record_path(path), "odd", outputs=[path]):
                pass

    return make


def write_latents(path: Path) -> None:
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["nsd_id"] = np.arange(20)
        for name, shape in {"mean": (4, 8, 8), "logvar": (4, 8, 8), "text": (7, 16)}.items():
            file[name] = generator.standard_normal((20, *shape)).astype(np.float16)
        file["caption_tokens"] = generator.integers(0, 99, (20, 5, 7)).astype(np.int32)
        file.attrs.update(data="own", backbone="miniature")


def write_reconstructions(path: Path) -> None:
    write_samples(path, "refined", "01", np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8, 3), np.uint8))


def read_responses(path: Path) -> Any:
    verify(path)
    held = ResponseStore(path)
    fields = (held.nsd_id, held.session, held.repeat, held.split, held.ncsnr, held.responses(range(len(held))))
    return [*fields, held.subject, held.data]


def read_stimuli(path: Path) -> Any:
    verify(path)
    held = StimulusStore(path)
    return [held.nsd_id, held.images(held.nsd_id), held.captions(held.nsd_id), held.category(held.nsd_id).tolist()]


def read_latents(path: Path) -> Any:
    verify(path)
    held = LatentStore(path)
    rows = held.rows(held.nsd_id)
    return [held.nsd_id, held.mean[rows], held.logvar[rows], held.text[rows], held.caption_tokens[rows]]


def read_samples(path: Path) -> Any:
    verify(path)
    held = read_reconstructions(path)
    return [held.images, held.nsd_id, held.model, held.subject, held.data]


def foreign_store(whole: bytes) -> dict[str, Content]:
    def edited(change: Callable[[h5py.File, str], None]) -> Content:
        def write(path: Path) -> None:
            path.write_bytes(whole)
            with h5py.File(path, "r+") as file:
                change(file, max(file, key=lambda name: file[name].size))

        return write

    def replaced(change: Callable[[np.ndarray], np.ndarray]) -> Content:
        def edit(file: h5py.File, name: str) -> None:
            values = change(file[name][()])
            del file[name]
            file[name] = values

        return edited(edit)

    def linked(file: h5py.File, name: str) -> None:
        shutil.copy(file.filename, Path(file.filename).with_name("other.h5"))
        del file[name]
        file[name] = h5py.ExternalLink("other.h5", name)

    def grouped(file: h5py.File, name: str) -> None:
        del file[name]
        file.create_group(name)

    return {
        "other key": edited(lambda file, name: file.move(name, "data")),
        "missing key": edited(lambda file, name: file.pop(name)),
        "a group": edited(grouped),
        "linked": edited(linked),
        "bare attributes": edited(lambda file, name: file.attrs.clear()),
        "rows missing": replaced(lambda values: values[:-1]),
        "a column missing": replaced(lambda values: values[:, :-1] if values.ndim == 2 else values[..., :-1]),
        "axes swapped": replaced(np.transpose),
        "one axis": replaced(np.ravel),
        "int16": replaced(lambda values: values.astype(np.int16)),
        "texts": replaced(lambda values: values.ravel()[:9].astype("S")),
        "NaN": replaced(lambda values: np.full(values.shape, np.nan, np.float32)),
    }


def make_record(path: Path) -> None:
    write_responses(path.with_name("responses.h5"))
    with RunRecord(path, "odd", outputs=[path.with_name("responses.h5")]):
        pass


def read_record(path: Path) -> None:
    verify(path.with_name("responses.h5"))


def foreign_json(whole: bytes) -> dict[str, Content]:
    text = whole.decode()
    made = {
        "mark": b"\xef\xbb\xbf" + whole,
        "UTF-16": text.encode("utf-16"),
        "CRLF": whole.replace(b"\n", b"\r\n"),
        "nested": b"[" * 100_000,
        "NaN": b"NaN",
        "null": b"null",
        "list": b"[1, 2]",
        "text": b'"text"',
        "two": b"{} {}",
        "cp1252": b'{"a": "\xe4"}',
    }
    if text.startswith("{\n"):
        record = json.loads(text)
        for name, value in {"list": [1], "null": None, "text": "x", "number": 5, "pairs": {"responses.h5": 7}}.items():
            made[f"outputs {name}"] = json.dumps(record | {"outputs": value}).encode()
    else:
        entry = json.loads(text.splitlines()[0])
        for name, value in {"key": [1], "size": "9", "sha256": None, "etag": {}}.items():
            made[f"{name} {value}"] = json.dumps(entry | {name: value}).encode()
        made["outside"] = json.dumps(entry | {"key": "../responses.h5"}).encode()
    return made


def make_manifest(path: Path) -> None:
    for number in range(3):
        path.with_name(f"{number}.txt").write_text(f"file {number}")
    manifest.note_simulated(path.parent, [f"{number}.txt" for number in range(3)])


def read_manifest(path: Path) -> None:
    """A damaged line is told and left out, so that nothing but the files themselves can be read."""
    manifest.check(path.parent, [path.with_name(f"{number}.txt") for number in range(3)])


TEXT = BYTES | {"cut"}
READERS = {
    "trials.csv": Reader(".csv", trials_table, read_trial_table, foreign_table, TEXT),
    "images.csv": Reader(".csv", images_table, read_images, foreign_table, TEXT),
    "betas .npy": Reader(".npy", lambda path: save_betas(path, betas()), read_betas, lambda _: foreign_betas(".npy")),
    "betas .mgh": Reader(".mgh", lambda path: save_betas(path, betas()), read_betas, foreign_mgh),
    "betas .mgz": Reader(".mgz", lambda path: save_betas(path, betas()), read_betas, foreign_mgh, frozenset()),
    "betas .func.gii": Reader(
        ".func.gii", lambda path: save_betas(path, betas()), read_betas, foreign_gifti, BYTES | {"other"}
    ),
    "betas .dscalar.nii": Reader(
        ".dscalar.nii", lambda path: cifti(path, whole_brain()), partial(read_whole_brain, "brain"), foreign_cifti
    ),
    "GLMsingle": Reader(
        "_RR.hdf5",
        lambda path: glmsingle(path, whole_brain()),
        partial(read_whole_brain, "glmsingle"),
        foreign_lab_store,
    ),
    # Nothing in its file says how many trials it had.
    "MOSAIC": Reader(
        "_NSD.hdf5",
        save_mosaic,
        partial(read_whole_brain, "mosaic"),
        foreign_lab_store,
        BYTES | {"other", "missing"},
    ),
    **{
        f"image .{ending}": Reader(
            f".{ending}",
            lambda path: Image.fromarray(seen()).save(path, quality=100, lossless=True),
            read_image,
            foreign_image,
            frozenset() if ending == "png" else BYTES,
        )
        for ending in ("png", "jpg", "tif", "webp", "bmp")
    },
    **{
        f"{name}{'' if recorded else ' without a record'}": Reader(
            ".h5", store(writer, recorded), read, foreign_store, frozenset() if recorded else BYTES
        )
        for name, writer, read in (
            ("responses.h5", write_responses, read_responses),
            ("stimuli.h5", write_stimuli, read_stimuli),
            ("latents.h5", write_latents, read_latents),
            ("reconstructions", write_reconstructions, read_samples),
        )
        for recorded in (True, False)
    },
    "record (run.json)": Reader(".run.json", make_record, read_record, foreign_json),
    "manifest.jsonl": Reader(".jsonl", make_manifest, read_manifest, foreign_json),
}
NAMES = {".dscalar.nii": "session1", "_RR.hdf5": "TYPED_FITHRF_GLMDENOISE", "_NSD.hdf5": "sub-01"}
NAMES |= {".csv": "table", ".h5": "store", ".run.json": "responses", ".jsonl": "manifest"}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        if one.shape != np.shape(other):
            return False
        if one.dtype == np.uint8 and one.ndim == 3:  # an image: a JPEG's blocks may round otherwise when turned
            return np.abs(one.astype(int) - other).mean() < 2
        return np.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)
    return one == other


def attempt(reader: Reader, path: Path, good: Any, told: Any) -> None:
    """Read, and send what came of it."""
    logging.disable()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            outcome = RIGHT if same(good, reader.read(path)) else WRONG
    except Exception as error:
        named = isinstance(error, ValueError | OSError) and path.name in str(error)
        outcome = REFUSED if named else f"{NOT_NAMED}: {type(error).__name__}: {error}"[:300]
    told.send(outcome)


def judged(reader: Reader, path: Path, good: Any) -> str:
    """Read a file in a process of its own, which may fail or hang."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=attempt, args=(reader, path, good, theirs))
    process.start()
    outcome = ours.recv() if ours.poll(SECONDS) else f"{NOT_NAMED}: no answer, exit status {process.exitcode}"
    process.kill()
    process.join()
    return outcome


def examine(name: str, reader: Reader, seed: int) -> dict[str, str]:
    """Return the outcome of each deformation of a reader's file."""
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        stem = NAMES.get(reader.ending, "lh.session1")
        path = Path(folder) / f"{stem}{reader.ending}"
        reader.make(path)
        whole, good = path.read_bytes(), reader.read(path)
        made: dict[str, Content] = dict(damaged(whole, np.random.default_rng([seed, *name.encode()])))
        for kind, content in (made | reader.foreign(whole)).items():
            for old in (path, *path.parent.glob("rh.*")):
                old.unlink()
            if callable(content):
                content(path)
            else:
                path.write_bytes(content)
            outcome = judged(reader, path, good)
            outcomes[kind] = UNSEEN if outcome == WRONG and kind.split()[0] in reader.unseen else outcome
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--reader", choices=READERS, help="this one alone; nothing is written")
    given = parser.parse_args()
    described, results, faults = machine(), {}, []
    for name in [given.reader] if given.reader else READERS:
        outcomes = examine(name, READERS[name], given.seed)
        found = Counter(outcome.partition(":")[0] for outcome in outcomes.values())
        results[name] = {"deformations": len(outcomes)} | {kind: found[kind] for kind in (RIGHT, REFUSED, UNSEEN)}
        faults += [f"{name}, {kind}: {it}" for kind, it in outcomes.items() if it not in (RIGHT, REFUSED, UNSEEN)]
        print(name, results[name], flush=True)
    print("\n".join(faults) or "Nothing was read wrongly, and nothing refused without its name.")
    if not given.reader:
        result = {"seed": given.seed, "readers": results, "faults": faults, "machine": described}
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
