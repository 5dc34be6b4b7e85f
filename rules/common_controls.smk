# Functions only: what the controls are made of.


def controlled():
    """Subjects whose controls are made, as in file names."""
    return refined()[: settings.controls.subjects] if settings.controls.made else []


def drawn_controls():
    """Controls that sample images; others look at those of stage sample."""
    return [name for name in settings.controls.made if CONTROLS[name].conditions]


def control_settings():
    """What the images of one control depend on; settings of other controls have their defaults, whatever they are."""
    found = settings.controls.model_dump()
    default = configuration.ControlsConfig().model_dump()
    shared = {"images", "sampling_steps", "seed"}

    def of_control(wildcards):
        used = shared.union(CONTROLS[wildcards.kind].settings)
        return {key: found[key] if key in used else default[key] for key in found}

    keys = sorted(shared.union(*(control.settings for control in CONTROLS.values())))
    return fingerprint.named_keys("config", "controls", of_control, keys)


def control_images():
    """Images of all controls and subjects."""
    return expand(
        "<results>/controls/sub-{subject}/{control}.h5",
        subject=controlled(),
        control=drawn_controls(),
    )


def control_samples():
    """Reconstructions that are compared with training images."""
    wanted = controlled() if "nearest" in settings.controls.made else []
    return expand("<results>/sample/sub-{subject}/refined.h5", subject=wanted)


def control_figures():
    """Contact sheet and scores of each control and subject, for the report."""
    shown, found = {"": "images", "_scores": "scores"}, []
    names = [
        (control, subject, suffix) for control in settings.controls.made for subject in controlled() for suffix in shown
    ]
    for control, subject, suffix in names:
        told = {
            "caption": "../report/controls.rst",
            "category": "5 Controls",
            "labels": {"control": control, "subject": subject, "shown": shown[suffix]},
        }
        name = f"<results>/report/controls/{control}_sub-{subject}{suffix}.png"
        found += [report(name, **told)]
    return found


def control_targets():
    """What all controls come to; nothing if none is made."""
    return "<results>/controls/controls.csv" if settings.controls.made else []
