# Functions only: people whose own data a lab has, and what only the encoder learns from.


def one_of(subjects):
    """A wildcard's constraint: one of these subjects, or nobody."""
    return "|".join(subjects) or "(?!)"


def imported():
    """Subjects with a folder of their own betas."""
    return [label for label, person in settings.subjects.people.items() if person.path]


def of_mosaic():
    """People of MOSAIC: the name there of each subject."""
    people = settings.subjects.people.items()
    return {label: person.mosaic for label, person in people if person.mosaic}


def mosaic_folder(wildcards, threads):
    """The folder of MOSAIC's files; their content is compared, so that it is no reason to fetch them again."""
    return settings.paths.mosaic


def mosaic_source(wildcards, threads):
    """Where and how to fetch; as fetch_source."""
    return settings.mosaic.model_dump()


def raw_mosaic():
    """A person's file of MOSAIC, with its data set's folder and its name as wildcards; removed after use unless mosaic.keep_raw."""
    file = f"<mosaic>/{mosaic.FOLDER}/{{data_set}}/{{person}}.hdf5"
    return file if settings.mosaic.keep_raw else temp(file)


def lab_files(wildcards):
    """One subject's file of betas, or all files in the folder of them."""
    folder = Path(betas_place(wildcards))
    if folder.is_file() or wildcards.subject in of_mosaic():
        return [str(folder)]
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    if not files:
        raise WorkflowError(
            f"No files of subject {wildcards.subject} in {folder}, its path in {settings.subjects.table}. Allowed: a folder"
            " with betas, see docs/own_data.md"
        )
    return files


def betas_place(wildcards):
    """The folder or file of one subject's betas."""
    person = settings.subjects.people[wildcards.subject]
    return f"{settings.paths.mosaic}/{mosaic.file_key(person.mosaic)}" if person.mosaic else person.path


def trial_table(wildcards):
    """One subject's table of trials; None where the betas name theirs themselves."""
    table = Path(betas_place(wildcards)) / "trials.csv"
    return str(table) if table.is_file() else None


def nsd_image_table():
    """NSD's table of images, by which images of COCO have the same numbers for all people, if NSD takes part."""
    return f"<nsd>/{keys.STIMULUS_INFO}" if settings.from_nsd() else []


def missing_captions(wildcards):
    """What is done for images of one subject that have no captions."""
    return settings.captions_of(wildcards.subject)


def captions_model(wildcards):
    """A file that exists once the model that writes one subject's captions is fetched, if it is."""
    fetched = "@" in settings.subjects.people[wildcards.subject].captions
    return f"{settings.captions_of(wildcards.subject)}/fetched.json" if fetched else []


def visual_angle(wildcards):
    """Degrees under which one subject saw the images, where known."""
    return settings.subjects.people[wildcards.subject].visual_angle


def image_folder(wildcards):
    """The folder of images in the table's place, if one is given."""
    images = settings.subjects.people[wildcards.subject].images
    return images if images and Path(images).is_dir() else []


def image_table(wildcards):
    """The table of images that one subject saw: given, in the folder of its betas, or beside that."""
    person = settings.subjects.people[wildcards.subject]
    beside = Path(person.path).parent / "images.csv"
    inside = Path(person.path) / "images.csv"
    return [] if image_folder(wildcards) else person.images or str(inside if inside.is_file() else beside)


def seen_images(wildcards):
    """Of a folder, which may be a whole data set's, only what the subject saw."""
    return "<prepared>/sub-{subject}/responses.h5" if image_folder(wildcards) else []


def frame_entries():
    """Entries of calibrate.extra that are time series, by the name of their store."""
    return {extra.frames_name(entry): entry for entry in settings.calibrate.extra if not extra.response_stores(entry)}


def series_files(wildcards, threads):
    """Time series of one entry; tens of thousands of inputs would stand in every message, so `series_state` is compared."""
    return [str(path) for path in extra.series_files(frame_entries()[wildcards.entry])]


def series_state(wildcards):
    """What changes when time series of one entry do."""
    return extra.series_state(frame_entries()[wildcards.entry])


def extra_stores():
    """Stores of which only the encoder learns: of responses, and of frames."""
    stores = [store for entry in settings.calibrate.extra for store in extra.response_stores(entry)]
    return [*dict.fromkeys(stores), *expand("<prepared>/frames/{entry}.h5", entry=frame_entries())]
