# Functions only: people whose own data a lab has, and what only the encoder learns from.


def one_of(subjects):
    """A wildcard's constraint: one of these subjects, or nobody."""
    return "|".join(subjects) or "(?!)"


def imported():
    """Subjects with a folder of their own betas."""
    return [label for label, person in settings.subjects.people.items() if person.path]


def lab_files(wildcards):
    """One subject's file of betas, or all files in the folder of them."""
    folder = Path(settings.subjects.people[wildcards.subject].path)
    if folder.is_file():
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
    return settings.subjects.people[wildcards.subject].path


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


def image_table(wildcards):
    """The table of images that one subject saw: given, in the folder of its betas, or beside that."""
    person = settings.subjects.people[wildcards.subject]
    beside = Path(person.path).parent / "images.csv"
    inside = Path(person.path) / "images.csv"
    return person.images or str(inside if inside.is_file() else beside)


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
