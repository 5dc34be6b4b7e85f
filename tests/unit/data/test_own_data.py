"""A lab's own betas and images, as small made files of the formats in docs/own_data.md."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from neuropictor.config import PreprocessConfig
from neuropictor.data.own_data import import_betas, import_images
from neuropictor.data.responses import ResponseStore
from neuropictor.data.stimuli import StimulusStore
from neuropictor.records.record import record_path
from neuropictor.surface import load_geometry

VERTICES, TRIALS = 10_242, 8
IMAGES = [5, 9, 30, 30, 41, 5, 9, 41]
SPLITS = {5: "train", 9: "train", 30: "test", 41: "validation"}


def save(path, values):
    """Write betas [trials, vertices] in the format of the ending."""
    if path.name.endswith(".npy"):
        np.save(path, values)
    elif path.name.endswith(".gii"):
        arrays = [nibabel.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_NONE") for row in values]
        nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), path)
    else:
        nibabel.save(nibabel.MGHImage(values.T.reshape(values.shape[1], 1, 1, -1), np.eye(4)), path)


def write_table(folder, lines=None):
    rows = [f"{session},{trial},{IMAGES[trial]},{SPLITS[IMAGES[trial]]}" for session in (1, 4) for trial in range(8)]
    (folder / "trials.csv").write_text("\n".join(["session,trial,image,split", *(lines or rows)]) + "\n")
    return folder / "trials.csv"


@pytest.fixture(scope="module")
def betas():
    generator = np.random.default_rng(0)
    return {
        (side, session): generator.standard_normal((TRIALS, VERTICES)).astype(np.float32)
        for side in ("lh", "rh")
        for session in (1, 4)
    }


def scans(folder, betas, ending):
    for (side, session), values in betas.items():
        save(folder / f"{side}.session{session}{ending}", values)
    return write_table(folder)


def run(table, out, **changes):
    import_betas(table, "MM03", PreprocessConfig(**changes), out)
    return ResponseStore(out)


@pytest.mark.parametrize("ending", [".mgh", ".mgz", ".func.gii", ".npy"])
def test_all_formats_give_the_z_scored_responses(betas, tmp_path, ending):
    store = run(scans(tmp_path, betas, ending), tmp_path / "responses.h5")
    assert (store.subject, store.data, store.mesh) == ("MM03", "own", "fsaverage5")
    assert store.nsd_id.tolist() == IMAGES * 2 and store.session.tolist() == [1] * 8 + [4] * 8
    assert [store.images(split).tolist() for split in ("train", "validation", "test")] == [[5, 9], [41], [30]]
    assert store.repeat[store.nsd_id == 5].tolist() == [0, 1, 2, 3]
    operator = load_geometry().resampler("fsaverage5")
    for session in (1, 4):
        values = np.concatenate([betas["lh", session], betas["rh", session]], axis=1) @ operator.T
        known = np.array(IMAGES) != 30
        expected = (values - values[known].mean(0)) / values[known].std(0, ddof=1)
        found = store.responses(np.flatnonzero(store.session == session))
        np.testing.assert_allclose(found, np.clip(expected, -8, 8), atol=0.02)


def test_sessions_after_the_first_ones_only_test(betas, tmp_path):
    store = run(scans(tmp_path, betas, ".npy"), tmp_path / "responses.h5", training_sessions=1)
    assert store.nsd_id.tolist() == IMAGES + [image for image in IMAGES if image == 30]
    assert set(store.session[store.nsd_id != 30]) == {1}


def test_rows_of_the_table_choose_trials_and_may_leave_validation_to_a_share(betas, tmp_path):
    scans(tmp_path, betas, ".npy")
    lines = ["4,6,9,train", "4,1,7,train", "4,2,30,test", "1,0,5,train", "1,3,30,test", "1,5,5,train"]
    store = run(write_table(tmp_path, lines), tmp_path / "responses.h5")
    assert store.nsd_id.tolist() == [5, 30, 5, 7, 30, 9]
    assert len(store.images("validation")) == 1 and len(store.images("train")) == 2
    config, out = PreprocessConfig(), tmp_path / "r.h5"
    import_betas(tmp_path / "trials.csv", "MM03", config, out, validation_share=0)
    assert not len(ResponseStore(out).images("validation"))
    with pytest.raises(ValueError, match=r"a validation share of 1\.0 takes all 3 training images"):
        import_betas(tmp_path / "trials.csv", "MM03", config, out, validation_share=1.0)


def test_images_that_no_store_holds_are_told(betas, tmp_path):
    table = scans(tmp_path, betas, ".npy")
    (tmp_path / "images.csv").write_text("image,file,captions\n" + "".join(f"{n},a.png,a\n" for n in (5, 9, 30)))
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    import_images(tmp_path / "images.csv", PreprocessConfig(image_size=16), tmp_path / "stimuli.h5")
    with pytest.raises(ValueError, match=r"trials\.csv, line \d+: image 41 \(number 41\) is none of the 3 in "):
        import_betas(table, "MM03", PreprocessConfig(), tmp_path / "r.h5", images=tmp_path / "stimuli.h5")
    assert not (tmp_path / "r.h5").exists()


def test_trials_counted_from_1_are_told(betas, tmp_path, caplog):
    scans(tmp_path, betas, ".npy")
    lines = [f"1,{trial},{IMAGES[trial]},{SPLITS[IMAGES[trial]]}" for trial in range(8)]
    for first in (0, 1):
        caplog.clear()
        run(write_table(tmp_path, lines[first:]), tmp_path / "r.h5")
        assert ("no row has trial 0; trials are counted from 0" in caplog.text) == bool(first)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1,0,5,train", "1,0,9,test"], r"trials.csv, line 3: this session and trial come twice"),
        (
            ["1,0,5,train", "1,1,5,test"],
            r"image 5 is in more than one split; allowed: all trials of an image in one",
        ),
        (
            ["1,0,5,trian", "1,1,9,test"],
            r"trials.csv, line 2: split is 'trian'; allowed: train, validation, test\. Example: test",
        ),
        (
            ["1,0,5,train", "1,-1,9,test"],
            r"trials.csv, line 3: trial is '-1'; allowed: whole numbers from 0\. Example: 12",
        ),
        (
            ["1,0,5,train", "1,1,1234567890,test"],
            r"trials.csv, line 3: image is '1234567890'; allowed: whole numbers from 0",
        ),
        (["1,0,5,train", "1,1,9,train"], r"no trial has the split test; allowed: at least one"),
        (["1,0,5,test", "1,1,9,test"], r"no trial has the split train; allowed: at least one"),
        (
            ["1,0,5,train", "1,1,9,train", "1,8,2,test"],
            r"lh\.session1\.npy has 8 trials, but the table asks for trial 8",
        ),
    ],
)
def test_mistakes_in_the_table_are_named(betas, tmp_path, lines, words):
    scans(tmp_path, betas, ".npy")
    with pytest.raises(ValueError, match=words):
        run(write_table(tmp_path, lines), tmp_path / "r.h5")
    assert not (tmp_path / "r.h5").exists()


def test_mistakes_in_the_files_are_named(betas, tmp_path):
    table = scans(tmp_path, betas, ".npy")
    path = tmp_path / "lh.session1.npy"
    save(path, np.zeros((TRIALS, 100), np.float32))
    with pytest.raises(ValueError, match=r"lh\.session1\.npy has 100 vertices; allowed: 10242 \(fsaverage5\), 40962"):
        run(table, tmp_path / "r.h5")
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(
        ValueError, match=r"lh\.session1\.npy cannot be read .*; allowed: whole files of numbers without"
    ):
        run(table, tmp_path / "r.h5")
    save(path, np.array([["a"]]))
    with pytest.raises(ValueError, match=r"holds <U1 \(1, 1\); allowed: numbers \[trials, vertices\]"):
        run(table, tmp_path / "r.h5")
    save(path, betas["lh", 1][0])
    with pytest.raises(ValueError, match=r"holds float32 \(10242,\); allowed: numbers \[trials, vertices\]"):
        run(table, tmp_path / "r.h5")
    save(tmp_path / "lh.session1.mgh", betas["lh", 1])
    with pytest.raises(
        FileNotFoundError, match=r"has 2 files lh\.session1 with one of the endings .*; allowed: exactly"
    ):
        run(table, tmp_path / "r.h5")
    (tmp_path / "lh.session1.mgh").unlink()
    path.unlink()
    path.symlink_to("gone.npy")
    with pytest.raises(
        FileNotFoundError, match=r"lh\.session1\.npy is a link to gone\.npy, which is missing .*expected betas"
    ):
        run(table, tmp_path / "r.h5")
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has 0 files lh\.session1 with one of the endings .*; allowed: exactly"
    ):
        run(table, tmp_path / "r.h5")
    save(path, betas["lh", 1])
    save(tmp_path / "rh.session4.npy", np.zeros((TRIALS, 40_962), np.float32))
    with pytest.raises(ValueError, match=r"rh\.session4\.npy has 40962 vertices; allowed: those of fsaverage5, 10242"):
        run(table, tmp_path / "r.h5")
    (tmp_path / "trials.csv").write_text("session,trial\n1,2\n")
    with pytest.raises(ValueError, match=r"the columns session, trial; allowed: session, trial, image, once"):
        run(table, tmp_path / "r.h5")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,file,captions\n1,a.png,ein M\xfcll\n".encode("cp1252"), r"line 2: no UTF-8 text; allowed: UTF-8"),
        ("image,file,captions\n1,a.png,a\n".encode("utf-16"), r"line 1: no UTF-8 text"),
        ("image,file,captions\n1,a.png,a\n".encode("utf-16-le"), r"line 1: no UTF-8 text"),
        (
            b'image,file,captions\n1,a.png,"a\nb"\n2,b.png,"c\n3,c.png,d\n',
            r"line 4: unexpected end .*; allowed: quotes",
        ),
        (b'image,file,captions\n1,a.png,"a" dog\n', r"line 2: .*; allowed: quotes"),
        (b"image,file,captions\n1,a.png,a\n2,b.png,red, blue\n", r"line 3: 4 fields, but 3 columns"),
        (b"image,file,captions\n1,a.png,a,\n", r"line 2: 4 fields, but 3 columns"),
        (b"image,file,captions\n1,a.png\n", r"line 2: 2 fields, but 3 columns"),
        (
            b"\nimage,file,captions\r\n\r\n,,\r\n1.5,a.png,a\r\n",
            r"line 5: image is '1\.5'; allowed: whole numbers from 0",
        ),
        (b"image,file,file,captions\n1,a.png,b.png,a\n", r"captions, once each"),
        (b"image,file,captions,category,category\n1,a.png,a,b,c\n", r"captions, once each"),
        (b"", r"has 0 rows and the columns ; allowed: file, captions"),
    ],
)
def test_foreign_and_damaged_tables_are_refused_with_the_line_in_the_file(tmp_path, text, words):
    (tmp_path / "images.csv").write_bytes(text)
    with pytest.raises(ValueError, match=r"images\.csv.*" + words):
        import_images(tmp_path / "images.csv", PreprocessConfig(image_size=16), tmp_path / "stimuli.h5")


def test_marks_line_ends_zeros_and_forms_of_names_do_not_matter(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "u\u0308.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "\u00e4.png")
    lines = ["image, file ,captions", "000000532481,\u00fc.png,a dog", "", "", ",,", '7, a\u0308.png, "a cat, a mat"']
    (tmp_path / "images.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    import_images(tmp_path / "images.csv", PreprocessConfig(image_size=16), tmp_path / "stimuli.h5")
    assert StimulusStore(tmp_path / "stimuli.h5").captions([532_481, 7]) == [["a dog"], ["a cat, a mat"]]


def test_damaged_betas_are_named(betas, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    betas["rh", 4].tofile(tmp_path / "private.bin")
    not_fetched = "Git LFS or git-annex has not fetched"
    damages = {
        ".func.gii": [
            (lambda whole: whole[: len(whole) // 2], "cannot be read"),
            (
                lambda whole: whole.replace(b"GZipBase64Binary", b"ExternalFileBinary").replace(
                    b'FileName=""', f'FileName="{tmp_path}/private.bin"'.encode()
                ),
                "its numbers lie in another file",
            ),
            (
                lambda whole: whole.replace(b'Dim0="10242"', b'Dim0="99999999"'),
                "an array has 99999999 numbers, not one",
            ),
            (lambda whole: b"<volume/>", "it holds no GIFTI element"),
            (lambda whole: b"/annex/objects/SHA256E-s3--0.func.gii", not_fetched),
        ],
        ".mgz": [
            (lambda whole: b"not gzip" * 99, "cannot be read"),
            (lambda whole: whole[:200] + bytes(100) + whole[300:], "cannot be read"),
            (lambda whole: whole[:-9], "cannot be read"),
        ],
        ".mgh": [
            (lambda whole: whole[:4] + b"\x7f" * 999, "cannot be read"),
            (lambda whole: whole[:9999], "cannot be read"),
            *(
                (lambda whole, shape=shape: whole[:4] + np.array(shape, ">i4").tobytes() + whole[20:], f"holds {shape}")
                for shape in ((10_242, 2, 2, 2), (2**30, 1, 1, 8))
            ),
            (lambda whole: pointer, not_fetched),
        ],
        ".npy": [
            (lambda whole: whole[:9999], "cannot be read"),
            (lambda whole: b"", "cannot be read"),
            (lambda whole: whole.replace(b"<f4", b"|O8"), "cannot be read"),
        ],
    }
    for ending, ways in damages.items():
        folder = tmp_path / ending
        folder.mkdir()
        table, path = scans(folder, betas, ending), folder / f"rh.session4{ending}"
        whole = path.read_bytes()
        for damage, words in ways:
            path.write_bytes(damage(whole))
            assert path.read_bytes() != whole
            with pytest.raises((ValueError, FileNotFoundError)) as refusal:
                run(table, folder / "r.h5")
            assert str(path) in str(refusal.value) and words in str(refusal.value)
            assert not (folder / "r.h5").exists()


def test_swapped_hemispheres_are_refused_where_files_tell_them(betas, tmp_path):
    table, path = scans(tmp_path, betas, ".func.gii"), tmp_path / "lh.session4.func.gii"
    image = nibabel.load(path)
    for meta in (image.meta, image.darrays[3].meta):
        for name in ("CortexRight", "CortexLeft"):
            meta["AnatomicalStructurePrimary"] = name
            nibabel.save(image, path)
            if name == "CortexRight":
                with pytest.raises(ValueError, match=r"lh\.session4\.func\.gii .*is of CortexRight"):
                    run(table, tmp_path / "r.h5")
    run(table, tmp_path / "r.h5")
    path.unlink()
    path.symlink_to(tmp_path / "rh.session4.func.gii")
    with pytest.raises(ValueError, match=r"lh\.session4\.func\.gii is a link to .*rh\.session4"):
        run(table, tmp_path / "r.h5")
    path.unlink()
    path.write_bytes((tmp_path / "rh.session4.func.gii").read_bytes())
    with pytest.raises(ValueError, match=r"lh\.session4\.func\.gii and rh\..* hold the same numbers"):
        run(table, tmp_path / "r.h5")


@pytest.mark.parametrize("unit", [1e-30, 1e-7, 1e30])
def test_units_do_not_matter(betas, tmp_path, unit):
    scaled = {key: (values * np.float64(unit)).astype(np.float32) for key, values in betas.items()}
    stores = []
    for name, values in (("plain", betas), ("scaled", scaled)):
        (tmp_path / name).mkdir()
        stores.append(run(scans(tmp_path / name, values, ".npy"), tmp_path / name / "r.h5").responses(range(16)))
    assert (stores[0] != 0).all()
    np.testing.assert_allclose(stores[1], stores[0], atol=4e-3)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1e30, r"rh\.session4\.npy, trial 2: the largest beta is 1e\+30, the usual size in session 4 0\.\d+;"),
        (0, r"trial 2: the largest beta is 0"),
        (np.nan, r"trial 2: the largest beta is 0, .* no row in the table for a trial that is missing"),
    ],
)
def test_trials_that_say_nothing_are_refused(betas, tmp_path, value, words):
    table = scans(tmp_path, betas, ".npy")
    changed = betas["rh", 4].copy()
    changed[2] = value
    save(tmp_path / "rh.session4.npy", changed)
    with pytest.raises(ValueError, match=words):
        run(table, tmp_path / "r.h5")


def test_a_hemisphere_may_be_missing_but_not_both(betas, tmp_path):
    table = scans(tmp_path, betas, ".npy")
    save(tmp_path / "rh.session4.npy", np.full_like(betas["rh", 4], np.nan))
    assert (run(table, tmp_path / "r.h5").responses([9]) == 0).mean() == pytest.approx(4381 / 8921, abs=0.01)
    save(tmp_path / "lh.session4.npy", np.zeros_like(betas["rh", 4]))
    with pytest.raises(
        ValueError, match=r"lh\.session4\.npy, trial 0: the largest beta is 0, the usual size in session 4 0;"
    ):
        run(table, tmp_path / "r.h5")


def test_sessions_without_variation_are_refused_and_missing_values_counted(betas, tmp_path):
    table = scans(tmp_path, betas, ".npy")
    gaps = betas["lh", 1].copy()
    gaps[:, :9000] = np.nan
    save(tmp_path / "lh.session1.npy", gaps)
    store = run(table, tmp_path / "r.h5")
    found = json.loads((tmp_path / "r.run.json").read_text())["results"]["values_missing"]
    assert found == (store.responses(range(16)) == 0).sum() > 8000
    assert not store.missing.any()  # other sessions have them
    save(tmp_path / "lh.session4.npy", np.where(np.isnan(gaps), gaps, betas["lh", 4]))
    store = run(table, tmp_path / "r.h5")
    assert store.missing.sum() == json.loads((tmp_path / "r.run.json").read_text())["results"]["vertices_missing"] > 400
    np.testing.assert_array_equal((store.responses(range(len(store))) == 0).all(0), store.missing)
    for side in ("lh", "rh"):
        save(tmp_path / f"{side}.session4.npy", np.repeat(betas[side, 4][:1], TRIALS, axis=0))
    with pytest.raises(ValueError, match=r"subject MM03, session 4: the betas do not vary over trials at any vertex"):
        run(table, tmp_path / "r.h5")


def test_sessions_called_by_dates_and_many_repeats_keep_their_numbers(betas, tmp_path):
    for (side, session), values in betas.items():
        save(
            tmp_path / f"{side}.session{20240130 + session}.npy",
            np.repeat(values, 20, axis=0) + np.arange(160)[:, None],
        )
    lines = [f"{20240130 + s},{t},{IMAGES[t // 20]},{SPLITS[IMAGES[t // 20]]}" for s in (1, 4) for t in range(160)]
    store = run(write_table(tmp_path, lines), tmp_path / "r.h5")
    assert np.unique(store.session).tolist() == [20240131, 20240134]
    assert store.repeat[store.nsd_id == 30].tolist() == list(range(80))
    lines = [line.replace(",41,validation", ",5,train").replace(",9,train", ",5,train") for line in lines]
    store = run(write_table(tmp_path, lines), tmp_path / "r.h5", validation_images=0)
    assert store.repeat[store.nsd_id == 5].tolist() == list(range(240))


def images_table(folder, *lines, header="image,file,captions,category"):
    (folder / "images.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "images.csv"


def test_images_are_cropped_resized_and_sorted(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.swapaxes(0, 1)).save(tmp_path / "tall.png")
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "flat.png")
    lines = ['30,wide.png,"a grey square | one more, with a comma",square', "5,flat.png,flat,"]
    lines.append("31,tall.png,tall||||| ,")
    table = images_table(tmp_path, *lines)
    import_images(table, PreprocessConfig(image_size=16), tmp_path / "stimuli.h5")
    store = StimulusStore(tmp_path / "stimuli.h5")
    assert store.nsd_id.tolist() == [5, 30, 31] and store.data == "own"
    assert (store.images([30, 31]) == 200).all() and (store.images([5]) == 90).all()
    assert store.captions([30]) == [["a grey square", "one more, with a comma"]]
    assert store.category([30, 5]).tolist() == ["square", ""] and store.background([5]).tolist() == [""]


def test_of_a_folder_only_the_images_that_a_subject_saw_are_taken(betas, tmp_path):
    store = run(scans(tmp_path, betas, ".npy"), tmp_path / "r.h5")
    seen = np.unique(store.nsd_id)
    (tmp_path / "whole/set").mkdir(parents=True)
    for number in (*seen, 90, 91):
        Image.new("RGB", (8, 8), (int(number), 0, 0)).save(tmp_path / f"whole/set/{number}.png")
    given = {"images": tmp_path / "whole", "responses": tmp_path / "r.h5", "captions": "none"}
    import_images(None, PreprocessConfig(image_size=8), tmp_path / "stimuli.h5", **given)
    images = StimulusStore(tmp_path / "stimuli.h5")
    assert images.nsd_id.tolist() == images.images(seen)[:, 0, 0, 0].tolist() == seen.tolist()
    (tmp_path / f"whole/set/{seen[0]}.png").unlink()
    words = rf"whole lacks 1 of the {len(seen)} images that subject MM03 saw by .*r\.h5, number {seen[0]} among them"
    with pytest.raises(ValueError, match=words):
        import_images(None, PreprocessConfig(image_size=8), tmp_path / "s.h5", **given)


def test_images_cover_one_visual_angle_whatever_a_data_set_showed(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 16:48] = 200
    Image.fromarray(pixels).save(tmp_path / "one.png")
    (tmp_path / "images.csv").write_text("file,captions\none.png,a square\n")
    files, out = {"table": tmp_path / "images.csv"}, tmp_path / "stimuli.h5"
    config = PreprocessConfig(image_size=32, visual_angle=8.0)
    for shown, expected in ((16.0, 200), (8.0, None), (4.0, 127)):
        import_images(**files, config=config, out=out, visual_angle=shown)
        image = StimulusStore(out).images(StimulusStore(out).nsd_id)[0]
        assert (image[0, 0] == (expected or 0)).all() and (image[16, 16] == 200).all()
        assert json.loads(record_path(out).read_text())["results"]["visual_angle"] == shown
    with pytest.raises(ValueError, match=r"visual_angle is 8\.0, but nothing tells .* Example: --visual-angle 8\.4"):
        import_images(**files, config=config, out=out)


def test_mistakes_in_images_are_named(tmp_path):
    (tmp_path / "note.txt").write_text("no image")
    for lines, error, words in (
        (["1,gone.png,a"], FileNotFoundError, r"gone\.png is missing; .*images\.csv, line 2, names it"),
        (["1,note.txt,a"], ValueError, r"note\.txt cannot be read as an image .*; allowed: one whole image"),
        (["1,note.txt,"], ValueError, r"line 2: image 1 has 0 captions; allowed: one to 5"),
        (["2,note.txt,b", "1,note.txt,a|b|c|d|e|f"], ValueError, r"line 3: image 1 has 6 captions; allowed: one to 5"),
        (["1,note.txt,a", "1,note.txt,b"], ValueError, r"line 3: image 1 comes twice; allowed: a row an image"),
    ):
        table = images_table(tmp_path, *lines, header="image,file,captions")
        with pytest.raises(error, match=words):
            import_images(table, PreprocessConfig(image_size=16), tmp_path / "stimuli.h5")
    assert not (tmp_path / "stimuli.h5").exists()
    with pytest.raises(
        FileNotFoundError, match=r"absent\.csv is missing; expected a CSV or TSV table with the columns file"
    ):
        import_images(tmp_path / "absent.csv", PreprocessConfig(), tmp_path / "stimuli.h5")


def test_images_that_test_nsd_imagery_do_not_train(tmp_path, betas, caplog):
    caplog.set_level("INFO")
    images = pd.DataFrame({"cocoId": range(100, 150), "nsdId": range(50), "shared1000": False})
    images.loc[[2, 5, 30, 41, 47], "shared1000"] = True  # five shared images are set B
    images.to_csv(tmp_path / "nsd.csv")
    table = scans(tmp_path, betas, ".npy")
    import_betas(table, "MM03", PreprocessConfig(), tmp_path / "all.h5")
    import_betas(table, "MM03", PreprocessConfig(), tmp_path / "r.h5", nsd_images=tmp_path / "nsd.csv")
    everything, store = ResponseStore(tmp_path / "all.h5"), ResponseStore(tmp_path / "r.h5")
    assert everything.images("train").tolist() == [5, 9] and everything.images("validation").tolist() == [41]
    assert store.images("train").tolist() == [9] and not len(store.images("validation"))
    assert store.images("test").tolist() == [30]
    assert "subject MM03: images 5, 41 are left out, as they test NSD-Imagery" in caplog.text
    record = json.loads(record_path(store.path).read_text())
    assert record["results"]["trials_left_out"] == len(everything) - len(store)
