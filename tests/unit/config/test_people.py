"""The table of people: labels of any data set in place of NSD's numbers."""

import re

import pytest

from neuropictor import config
from neuropictor.config import mosaic
from neuropictor.config.people import Person, read_people

TABLE = """subject\tdataset\tpath\timages\tcaptions\tpretrain\trefine\tsessions\tvisual_angle\tage
1\t\t\t\t\t\tno\t\t\t31
02\tnsd\t\t\t\tyes\t\t3\t\t
MM01\tmylab\tscans/sub-MM01\tscans/images.csv\tnone\tno\tyes\t2\t16.5\t40

NOD07\tNOD\t\t\t\tno\tno\t\t\t
"""


def test_a_table_replaces_both_lists(tmp_path):
    path = tmp_path / "subjects.tsv"
    path.write_text("\ufeff" + TABLE.replace("\n", "\r\n"), encoding="utf-8")
    lab = Person("MM01", "mylab", "scans/sub-MM01", "scans/images.csv", "none", False, True, 2, 16.5)
    assert read_people(path)[:3] == [Person("01", refine=False), Person("02", sessions=3), lab]
    loaded = config.load({"subjects": {"table": str(path), "pretrain": [5]}})
    assert (loaded.subjects.pretrain, loaded.subjects.refine) == (["01", "02"], ["02", "MM01"])
    assert loaded.subjects.everyone() == ["01", "02", "MM01"]  # whoever does neither takes no part
    assert loaded.subjects.of_nsd() == ["01", "02"]
    assert [loaded.preprocess_of(label).training_sessions for label in loaded.subjects.everyone()] == [40, 3, 2]


def test_data_sets_are_those_of_the_table_and_known_where_a_stage_balances_by_them(tmp_path):
    path = tmp_path / "subjects.tsv"
    path.write_text(TABLE)
    settings = {"subjects": {"table": str(path)}, "pretrain": {"balance": "data_sets"}}
    loaded = config.load(settings)
    assert loaded.data_sets("pretrain") == {"01": "nsd", "02": "nsd"}
    assert loaded.data_sets("calibrate") is None
    with pytest.raises(
        config.ConfigError, match=r"pretrain\.balance is data_sets, but without subjects\.table nothing"
    ):
        config.load({"pretrain": {"balance": "data_sets"}})
    with pytest.raises(
        config.ConfigError, match=r'calibrate\.balance is "equal"; allowed: images, people or data_sets'
    ):
        config.load({"calibrate": {"balance": "equal"}})


def test_commas_may_stand_between(tmp_path):
    path = tmp_path / "subjects.csv"
    path.write_text('subject,path,dataset\nMM01,"scans, old/MM01",mylab\n')
    assert read_people(path) == [Person("MM01", "mylab", "scans, old/MM01")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("subject\t", "person\t", "has the columns person, dataset"),
        ("dataset\tpath", "path\tpath", "once each"),
        ("MM01", "sub-MM01", r"line 4: subject is 'sub-MM01'; allowed: letters and digits, e\.g\. MM01"),
        ("mylab", "my lab", "line 4: dataset is 'my lab'; allowed: nsd, or any other name without spaces"),
        ("02\tnsd\t", "02\tnsd\tscans/02", "line 3: subject 02 is of data set nsd and has a path"),
        ("\tno\tyes\t2", "\tno\tperhaps\t2", "line 4: refine is 'perhaps'; allowed: yes, no, or nothing for yes"),
        ("\tyes\t2\t", "\tyes\t0\t", "line 4: sessions is '0'; allowed: a number from 1"),
        ("\tnone\t", "\towner/name@main\t", "line 4: captions is 'owner/name@main'; allowed: none, a folder, or a rep"),
        ("16.5", "wide", "line 4: visual_angle is 'wide'; allowed: degrees above 0, up to 180"),
        ("16.5", "0.0", "line 4: visual_angle is '0.0'"),
        ("NOD07", "1", r"has subject 01 twice; allowed: a row a person, and labels .* e\.g\. NOD01"),
        ("MM01", '"MM01', "cannot be read"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path, old, new, message):
    path = tmp_path / "subjects.tsv"
    path.write_text(TABLE.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        read_people(path)
    assert str(error.value).startswith(str(path))
    with pytest.raises(config.ConfigError, match=f"subjects.* {re.escape(str(path))}"):
        config.load({"subjects": {"table": str(path)}})


def test_people_of_mosaic_are_known_by_name(tmp_path):
    assert sum(data_set.people for data_set in mosaic.DATA_SETS.values()) == 93
    path = tmp_path / "subjects.tsv"
    path.write_text("subject\tdataset\tpath\timages\nB4\tB\tmosaic:sub-04_BOLD5000\tstimuli\nMM01\tmylab\tscans\t\n")
    assert [person.mosaic for person in read_people(path)] == ["sub-04_BOLD5000", ""]
    assert [person.visual_angle for person in read_people(path)] == [4.6, None]
    folder = "fMRIPrepv23_2_0/task_fMRI/betas/GLMsinglev1_2"
    assert mosaic.file_key("sub-30_HAD") == f"{folder}/HumanActionsDataset/sub-30_HAD.hdf5"
    for name in ("sub-05_BOLD5000", "sub-00_NOD", "sub-1_NOD", "sub-01_nod", "NOD", "sub-01_NOD.hdf5", ""):
        path.write_text(f"subject\tdataset\tpath\timages\nB4\tB\tmosaic:{name}\tstimuli\n")
        message = rf"line 2: path mosaic:{re.escape(name)} is nobody of MOSAIC; allowed: people of BMD \(01 to 10\), "
        with pytest.raises(ValueError, match=rf"{message}.*e\.g\. mosaic:sub-01_NOD"):
            read_people(path)
    path.write_text("subject\tdataset\tpath\timages\nB4\tB\tmosaic:sub-01_NOD\tstimuli\n")
    settings = {"subjects": {"table": str(path)}}
    tried = {"z_score": "subject", "training_sessions": 2, "statistics": "all"}
    made = config.load(settings | {"preprocess": tried | {"clip": 5.0}}).preprocess_of("B4")
    assert made == config.load(settings | {"preprocess": {"clip": 5.0}}).preprocess_of("B4") and made.clip == 5.0
    path.write_text("subject\tdataset\tpath\timages\tsessions\nB4\tB\tmosaic:sub-01_NOD\tstimuli\t2\n")
    with pytest.raises(
        ValueError, match=r"line 2: sessions is '2', but subject B4 is of MOSAIC, whose files do not say"
    ):
        read_people(path)
    path.write_text("subject\tdataset\tpath\nB4\tB\tmosaic:sub-01_NOD\n")
    with pytest.raises(ValueError, match=r"line 2: subject B4 is of MOSAIC, which has no images, .*e\.g\. stimuli/NOD"):
        read_people(path)


def test_somebody_must_take_part(tmp_path):
    path = tmp_path / "subjects.tsv"
    path.write_text("subject\tpretrain\n1\tno\n")
    with pytest.raises(ValueError, match="nobody's pretrain is yes"):
        read_people(path)


def test_a_missing_table_and_people_who_are_not_nsds_are_told():
    with pytest.raises(config.ConfigError, match=r"nothing\.tsv cannot be read \(No such file or directory\); allowed"):
        config.load({"subjects": {"table": "nothing.tsv"}})
    people = {"subjects": {"pretrain": ["MM01"], "refine": ["MM01"]}}
    with pytest.raises(config.ConfigError, match="subjects has MM01, who is none of NSD's"):
        config.load(people)
    assert config.load(people | {"nsd": {"source": "prepared"}}).subjects.everyone() == ["MM01"]
