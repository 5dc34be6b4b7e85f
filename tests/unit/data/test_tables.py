"""Tables of trials and images as labs have them: separators, names, BIDS' events, splits."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from neuropictor.config import PreprocessConfig
from neuropictor.data.image_names import FIRST_HASHED, ImageNames
from neuropictor.data.own_data import import_images
from neuropictor.data.stimuli import StimulusStore
from neuropictor.data.stores import held
from neuropictor.data.tables import Splits, number_trials, read_nsd_images, read_trials

NAMES = ImageNames()


def trials(path, text, names=NAMES, splits=None, **options):
    path.write_text(text, encoding="utf-8")
    return number_trials(read_trials(path, **options)[0], path, names, splits or Splits(validation_share=0))


def events(folder, name, *rows, header="onset\tduration\ttrial_type\tstim_file"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join([header, *rows]) + "\n")


def test_digits_are_numbers_and_names_are_hashed_without_folder_and_ending():
    number = NAMES.image_number
    assert [number(name) for name in ("17", "0017", "17.png", "stimuli/17.jpg")] == [17] * 4
    dog = number("dog.png")
    assert FIRST_HASHED <= dog < FIRST_HASHED + 2**48 and dog == 34978708393987
    assert {number(name) for name in ("images/dog.JPG", "C:\\stimuli\\dog.png", " dog ")} == {dog}
    assert number("dogs.png") != dog != ImageNames(data_set="lab").image_number("dog.png")
    assert number(unicodedata.normalize("NFD", "müde.png")) == number(unicodedata.normalize("NFC", "müde.png"))


def test_images_of_coco_have_one_number_in_all_data_sets_and_that_of_nsd(tmp_path):
    (tmp_path / "info.csv").write_text(",cocoId,cocoSplit,nsdId\n0,532481,val2017,0\n7,245764,val2017,7\n")
    nsd = read_nsd_images(tmp_path / "info.csv")
    for names in (ImageNames(nsd), ImageNames(nsd, "lab")):
        files = ("COCO_train2014_000000245764.jpg", "stimuli/coco/000000245764.jpg", "COCO_val2014_000000245764")
        assert {names.image_number(name) for name in files} == {7}
    assert ImageNames({}, "lab").image_number("000000245764.jpg") == NAMES.image_number("a/000000245764.png") > 10**9
    assert NAMES.image_number("000000245764") == 245764


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_separators_follow_from_the_header(tmp_path, mark):
    lines = ['session,trial,"image",split', '1,0, "a,b.png" ,train'.replace('"a,b.png" ', '"ab.png"'), "1,1,c.png,test"]
    table = trials(tmp_path / "t", "\ufeff" + "\r\n".join(lines).replace(",", mark))
    assert table["nsd_id"].tolist() == [NAMES.image_number("ab"), NAMES.image_number("c")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("session\ttrial,image,split\n1,0,a,test\n", r"commas and tabs separate the columns .*; allowed: one of them"),
        ("session\ttrial\timage\n1,0,a\n", r"line 2: 1 fields, but 3 columns separated by tabs"),
        ("session,trial,stim\n1,0,a\n", r"the columns session, trial, stim; allowed: .*--image-column stim_file"),
        (
            "session,trial,image,split\n1,0,faces/01a.png,test\n1,1,houses/01a.png,train\n",
            r"line 3: 'houses/01a.png' and 'faces/01a.png' of line 2 would both be image \d+, .*; allowed: one name an",
        ),
        ("session,trial,image,split\n1,0,1.5,test\n", r"line 2: image is '1.5'; allowed: whole numbers from 0 to 9999"),
        (
            "session,trial,image\n1,0,a\n",
            r"which images test is said by nothing; allowed: one of the column split, --t",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        trials(tmp_path / "trials.csv", text)


def test_events_are_ordered_by_session_run_and_onset_and_rows_without_image_left_out(tmp_path):
    folder = tmp_path / "sub-01"
    for session, run in (("10", "2"), ("10", "10"), ("2", "1")):
        name = f"{session}x{run}"
        events(
            folder / f"ses-{session}" / "func",
            f"sub-01_ses-{session}_task-images_run-{run}_events.tsv",
            *(f"8\t3\tseen\t{name}b.png", f"0\t3\tseen\t{name}a.png", "4\t3\tblank\tn/a"),
        )
    table, labels = read_trials(folder, "stim_file")
    assert labels == {1: "2", 2: "10"}
    expected = ["2x1a.png", "2x1b.png", "10x2a.png", "10x2b.png", "10x10a.png", "10x10b.png"]
    assert table["image"].tolist() == expected
    assert table["session"].tolist() == [1, 1, 2, 2, 2, 2] and table["trial"].tolist() == [0, 1, 0, 1, 2, 3]
    events(folder, "sub-01_ses-2_task-words_events.tsv", "0\t1\tx\ty.png")
    with pytest.raises(
        ValueError, match=r"files of events of task- images, words; allowed: of one, for example --task"
    ):
        read_trials(folder, "stim_file")
    assert read_trials(folder, "stim_file", "images")[0]["image"].tolist() == expected
    events(tmp_path / "sub-02", "sub-02_task-images_events.tsv", "0\t1\tx\ty.png")
    with pytest.raises(ValueError, match=r"events of sub- 01, 02; allowed: of one, for example --table bids/sub-01"):
        read_trials(tmp_path, "stim_file", "images")
    events(tmp_path / "sub-03", "sub-03_events.tsv", "0\t1\tx\tn/a")
    with pytest.raises(ValueError, match=r"no row of 1 files has an image in the column stim_file; allowed: names"):
        read_trials(tmp_path / "sub-03", "stim_file")
    with pytest.raises(
        FileNotFoundError, match=r"holds no files \*_events\.tsv of task images; allowed: a folder with a subject's"
    ):
        read_trials(tmp_path / "sub-03", "stim_file", "images")


def test_sessions_may_have_labels(tmp_path):
    (tmp_path / "t.csv").write_text("session,trial,image\npre10,0,a\npre2,0,b\n")
    table, labels = read_trials(tmp_path / "t.csv")
    assert labels == {1: "pre2", 2: "pre10"} and table["session"].tolist() == [2, 1]


def of_images(count, repeats=1):
    rows = [f"1,{trial},{trial % count}" for trial in range(count * repeats)]
    return "\n".join(["session,trial,image", *rows])


def test_shares_choose_by_image_and_further_trials_move_none(tmp_path):
    few = trials(tmp_path / "t", of_images(400, 2), splits=Splits(0.1))
    many = trials(tmp_path / "t", of_images(800), splits=Splits(0.1))
    splits = [dict(zip(table["nsd_id"], table["split"], strict=True)) for table in (few, many)]
    counts = few.drop_duplicates("nsd_id")["split"].value_counts()
    assert 25 < counts["test"] < 60 and 8 < counts["validation"] < 35
    assert all(splits[1][image] == split for image, split in splits[0].items())
    other = trials(tmp_path / "t", of_images(400), splits=Splits(0.1, seed=1))
    assert set(other["nsd_id"][other["split"] == "test"]) != set(few["nsd_id"][few["split"] == "test"])
    with pytest.raises(ValueError, match="no trial has the split test; allowed: at least one of train and one of test"):
        trials(tmp_path / "t", of_images(5), splits=Splits(0.0))
    with pytest.raises(ValueError, match=r"validation share of 1 takes all .* training images; allowed: a share that"):
        trials(tmp_path / "t", of_images(50), splits=Splits(0.1, validation_share=1))


def test_a_list_of_images_tests(tmp_path):
    (tmp_path / "test.txt").write_text("3\n\ndog.png\n99\n")
    table = trials(tmp_path / "t", of_images(5) + "\n1,5,a/dog.png", splits=Splits(test_images=tmp_path / "test.txt"))
    assert table["nsd_id"][table["split"] == "test"].tolist() == [3, NAMES.image_number("dog.png")]
    with pytest.raises(ValueError, match="said by its column split and --test-images; allowed: one of"):
        trials(
            tmp_path / "t", "session,trial,image,split\n1,0,3,test\n", splits=Splits(test_images=tmp_path / "test.txt")
        )


def test_trials_left_out_are_told(tmp_path, caplog):
    text = "session,trial,image,split\n1,0,1,test\n1,1,2,train\n2,0,2,train\n2,3,1,test\n"
    trials(tmp_path / "t.csv", text)
    assert "session 2 has rows for 2 of trials 0 to 3" in caplog.text


def test_numbers_are_stored_in_the_smallest_type_that_holds_them():
    big = NAMES.image_number("dog.png")
    for values, kind in (([3, 9], np.int32), ([3, big], np.int64), ([], np.int32)):
        stored = held(np.array(values, np.int64), np.int32)
        assert stored.dtype == kind and stored.tolist() == values


def images(folder, **options):
    import_images(options.pop("table", None), PreprocessConfig(image_size=16), folder / "stimuli.h5", **options)
    return StimulusStore(folder / "stimuli.h5")


def test_folders_of_images_and_tables_without_numbers_and_captions(tmp_path):
    for name in ("a/dog.png", "b/u\u0308.JPG"):
        (tmp_path / "stimuli" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "stimuli" / name)
    store = images(tmp_path, images=tmp_path / "stimuli", captions="none")
    both = [NAMES.image_number(name) for name in ("dog.png", "\u00fc.jpg")]
    assert store.captions(both) == [[], []] and store.names(both).tolist() == ["a/dog.png", "b/u\u0308.JPG"]
    assert store.images(both).shape == (2, 16, 16, 3)
    table = tmp_path / "images.csv"
    table.write_text("file,category\nstimuli/a/dog.png,dog\nstimuli/b/\u00fc.JPG,\n")
    store = images(tmp_path, table=table, captions="none")
    assert store.captions(both) == [["a photo of a dog"], []]
    with pytest.raises(ValueError, match=r"the columns file, category; allowed: file, captions"):
        images(tmp_path, table=table)
    table.write_text("file,captions\nstimuli/a/dog.png,\n")
    with pytest.raises(
        ValueError, match=r"line 2: image stimuli/a/dog.png has 0 captions; .*--captions none, or a mod"
    ):
        images(tmp_path, table=table)
    with pytest.raises(ValueError, match="needs a table of images or a folder of them; allowed: one of both"):
        images(tmp_path, table=table, images=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no images; allowed: a folder with files \.bmp"):
        images(tmp_path, images=tmp_path / "empty", captions="none")
