"""The table of people: who takes part, of which data set, and where the data lie."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from neuropictor.config.mosaic import PREFIX, data_set_of
from neuropictor.config.types import REPOSITORY, SUBJECT, subject_label

NSD = "nsd"
COLUMNS = ("subject", "dataset", "path", "images", "captions", "pretrain", "refine", "sessions", "visual_angle")
_ANSWERS = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Person:
    """A row of the table.

    Attributes
    ----------
    subject
        Label; NSD's are 01 to 08.
    dataset
        ``nsd``: of NSD, from where nsd.source says; else any name of a data set.
    path
        Folder or file of the person's own betas, or somebody of MOSAIC, ``mosaic:sub-01_NOD``; empty: none, the
        stores are prepared already, or the person is of NSD.
    images
        Table or folder of the images that the person saw; empty: images.csv in the folder of betas or the one above.
    captions
        For images that have none there: ``none``, or a model that writes them, a folder or a repository of the Hugging
        Face hub with its commit (owner/name@commit); empty: all have some.
    pretrain, refine
        Whether the person's trials train the shared networks, and whether networks of its own are refined.
    sessions
        First sessions that train and validate; None: as preprocess.training_sessions says.
    visual_angle
        Degrees that the images covered when they were shown; None: not known.
    """

    subject: str
    dataset: str = NSD
    path: str = ""
    images: str = ""
    captions: str = ""
    pretrain: bool = True
    refine: bool = True
    sessions: int | None = None
    visual_angle: float | None = None

    @property
    def mosaic(self) -> str:
        """Name of the person in MOSAIC, e.g. ``sub-01_NOD``; empty: none."""
        return self.path.removeprefix(PREFIX) if self.path.startswith(PREFIX) else ""


def read_people(path: str | Path) -> list[Person]:
    """Read a table of people, tab-separated or CSV; columns other than `COLUMNS` are left out.

    Raises
    ------
    ValueError
        If there is no such file, or something in it is wrong, with the line and what is allowed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        lines = text.splitlines()
        rows = list(csv.reader(lines, delimiter="\t" if lines and "\t" in lines[0] else ",", strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"{path} cannot be read ({reason}); allowed: a table of people, tab-separated, with the columns "
            f"{', '.join(COLUMNS)}, of which only subject is needed (docs/own_data.md)"
        ) from None
    header = [name.strip() for name in rows[0]] if rows else []
    if header.count("subject") != 1 or any(header.count(name) > 1 for name in COLUMNS):
        raise ValueError(
            f"{path} has the columns {', '.join(header[:20]) or 'none'}; allowed: {', '.join(COLUMNS)}, once each, of "
            "which only subject is needed"
        )
    people = [
        _person(dict(zip(header, map(str.strip, row), strict=False)), f"{path}, line {line}")
        for line, row in enumerate(rows[1:], start=2)
        if any(field.strip() for field in row)
    ]
    labels = [person.subject for person in people]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{path} has subject {twice} twice; allowed: a row a person, and labels that tell people of two data sets "
            "apart, e.g. NOD01"
        )
    for name in ("pretrain", "refine"):
        if not any(getattr(person, name) for person in people):
            raise ValueError(f"{path}: nobody's {name} is yes; allowed: at least one person's")
    return people


def _person(row: dict[str, str], place: str) -> Person:
    values = {name: row.get(name, "") for name in COLUMNS}
    label, dataset = str(subject_label(values["subject"])), values["dataset"] or NSD
    if not re.fullmatch(SUBJECT, label):
        raise ValueError(f"{place}: subject is {values['subject']!r}; allowed: letters and digits, e.g. MM01")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", dataset):
        raise ValueError(f"{place}: dataset is {dataset!r}; allowed: nsd, or any other name without spaces, e.g. NOD")
    degrees = None
    if dataset == NSD and (values["path"] or values["images"]):
        raise ValueError(
            f"{place}: subject {label} is of data set nsd and has a path; allowed: none, since NSD's files lie in "
            "paths.nsd, or another name of the data set, e.g. mylab"
        )
    if values["path"].startswith(PREFIX):
        try:
            degrees = data_set_of(values["path"].removeprefix(PREFIX)).visual_angle
        except ValueError as error:
            raise ValueError(f"{place}: path {error}") from None
        if not values["images"]:
            raise ValueError(
                f"{place}: subject {label} is of MOSAIC, which has no images, and images is empty; allowed: a table of "
                "images, or a folder of those that the data set's makers publish, e.g. stimuli/NOD"
            )
        if values["sessions"]:
            raise ValueError(
                f"{place}: sessions is {values['sessions']!r}, but subject {label} is of MOSAIC, whose files do not "
                "say which session a trial is of; allowed: nothing, for all"
            )
    if "@" in values["captions"] and not re.fullmatch(rf"{REPOSITORY.pattern}@[0-9a-f]{{40}}", values["captions"]):
        raise ValueError(
            f"{place}: captions is {values['captions']!r}; allowed: none, a folder, or a repository of the hub and its "
            "commit of 40 hexadecimal digits, e.g. Salesforce/blip-image-captioning-base@<commit>"
        )
    for name in ("pretrain", "refine"):
        if values[name] and values[name].lower() not in _ANSWERS:
            raise ValueError(f"{place}: {name} is {values[name]!r}; allowed: yes, no, or nothing for yes")
    sessions = values["sessions"]
    if sessions and not re.fullmatch(r"[1-9]\d{0,8}", sessions):
        raise ValueError(f"{place}: sessions is {sessions!r}; allowed: a number from 1, or nothing for all")
    angle = values["visual_angle"]
    if angle and not (re.fullmatch(r"\d{1,3}(\.\d{1,6})?", angle) and 0 < float(angle) <= 180):
        raise ValueError(f"{place}: visual_angle is {angle!r}; allowed: degrees above 0, up to 180, or nothing")
    return Person(
        label,
        dataset,
        values["path"],
        values["images"],
        values["captions"],
        _ANSWERS[values["pretrain"].lower() or "yes"],
        _ANSWERS[values["refine"].lower() or "yes"],
        int(sessions) if sessions else None,
        float(angle) if angle else degrees,
    )
