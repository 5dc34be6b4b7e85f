# Functions only: inputs and outputs of controls.


def controlled():
    """Subjects whose controls are made, as in file names."""
    return refined()[: settings.controls.subjects] if settings.controls.made else []


def drawn_controls():
    """Controls that sample images; others score those of stage sample."""
    return [name for name in settings.controls.made if CONTROLS[name].conditions]


def control_settings():
    """Settings that the images of one control depend on; those of other controls are replaced by their defaults."""
    values = settings.controls.model_dump()
    default = configuration.ControlsConfig().model_dump()
    shared = {"images", "sampling_steps", "seed"}

    def of_control(wildcards):
        used = shared.union(CONTROLS[wildcards.kind].settings)
        return {key: value if key in used else default[key] for key, value in values.items()}

    keys = sorted(shared.union(*(control.settings for control in CONTROLS.values())))
    return fingerprint.named_keys("config", "controls", of_control, keys)


def true_components(file):
    """A file behind the images' own aligned components, for controls that read these."""

    def of_control(wildcards):
        used = settings.align.tokens and CONTROLS[wildcards.kind].of_space
        return expand(file, subject=wildcards.subject) if used else []

    return of_control


def control_images():
    """Images of all controls and subjects."""
    return expand(
        "<results>/controls/sub-{subject}/{control}.h5",
        subject=controlled(),
        control=drawn_controls(),
    )


def control_samples():
    """Reconstructions that are compared with training images."""
    subjects = controlled() if "nearest" in settings.controls.made else []
    return expand("<results>/sample/sub-{subject}/refined.h5", subject=subjects)


def control_figures():
    """Contact sheet and scores of each control and subject, for the report."""
    shown, figures = {"": "images", "_scores": "scores"}, []
    names = [
        (control, subject, suffix) for control in settings.controls.made for subject in controlled() for suffix in shown
    ]
    for control, subject, suffix in names:
        about = {
            "caption": "../report/controls.rst",
            "category": "5 Controls",
            "labels": {"control": control, "subject": subject, "shown": shown[suffix]},
        }
        name = f"<results>/report/controls/{control}_sub-{subject}{suffix}.png"
        figures += [report(name, **about)]
    return figures


def control_targets():
    """The table of all controls' scores; nothing if none is made."""
    return "<results>/controls/controls.csv" if settings.controls.made else []
