# Functions only: further test sets, and people on whom no network was trained.


def test_sets():
    """Further test sets that are made and scored."""
    return (
        [name for chosen in settings.nsd.test_sets for name in TEST_SETS[chosen]] if settings.tested_further() else []
    )


def test_set_sampling():
    """Settings of sampling a test set: those of stage sample, but for the number of samples of NSD-Imagery."""
    usual = settings.sample.model_dump()

    def of_set(wildcards):
        many = wildcards.test_set in TEST_SETS["imagery"]
        return usual | ({"samples": settings.generalise.samples} if many else {})

    return fingerprint.named_keys("config", "sample", of_set, usual)


def new_people():
    """Whom the networks are to draw without having been trained on them: those who only refine, or else all."""
    if not settings.generalise.new_people:
        return []
    return (unknown_people() or refined())[: settings.generalise.subjects]


def unknown_people():
    """People who are refined without having pretrained."""
    return [subject for subject in refined() if subject not in pretraining()]


def general_networks():
    """The folder of the networks that draw new people: the pretrained ones, or start weights if those know everybody."""
    if known_to() != "start":
        return f"{settings.results_folder()}/pretrain"
    return str((SHIPPED if settings.backbone.source == "miniature" else Path(backbone())) / "population")


def general_parts():
    """Their files, where a stage trains them; the content of start weights is compared instead."""
    return [] if known_to() == "start" else [f"{general_networks()}/{file}" for file in pipeline_files()]


def known_to():
    """What the networks that draw new people were trained on: "start", "pretrained", or new people "themselves" too."""
    if unknown_people():
        return "pretrained"
    return "start" if settings.pretrain.init == "population" else "themselves"


def others(wildcards):
    """Components of other people in the same space, of those who pretrained."""
    return component_files([subject for subject in pretraining() if subject != wildcards.subject])


def scored_pairs():
    """Images of all new people from all numbers of pairs, and those of what they are compared with."""
    folder = "<results>/new_people/pairs-{pairs}/sub-{subject}/{model}.h5"
    config, drawn = settings.generalise, []
    for model, pairs in (
        ("adapted", [*config.pairs, "all"]),
        ("ridge_diffusion", [*filter(None, config.pairs), "all"]),
        ("refined", [*config.refine_pairs, "all"] if config.refine_pairs else []),
    ):
        drawn += expand(folder, pairs=pairs, subject=new_people(), model=model)
    return drawn


def generalisation_page():
    """The page on generalisation, if any of its questions is asked."""
    asked = test_sets() or new_people() or settings.preprocess.hold_out == "clusters"
    return "<results>/report/generalisation.html" if asked else []
