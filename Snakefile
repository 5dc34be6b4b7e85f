# NeuroPictor: from fMRI responses to images. Settings: config.yaml; functions: rules/common.smk; one rules file a stage.
from snakemake.utils import min_version

min_version("9.27")


# The checkout's, from wherever it is called, unless the working directory has one.
configfile: "config.yaml" if Path("config.yaml").is_file() else f"{workflow.basedir}/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"


settings = checked(config)
# For the report's first page: the table of people counts too.
config["subjects"] = {"pretrain": pretraining(), "refine": refined(), "of_nsd": settings.from_nsd()}


pathvars:
    nsd=settings.paths.nsd,
    mosaic=settings.paths.mosaic,
    prepared=settings.paths.prepared,
    responses=training_responses(),
    results=settings.results_folder(),
    logs=settings.logs_folder(),


wildcard_constraints:
    subject=SUBJECT,
    model=r"refined|pretrained",


if settings.from_nsd() and settings.nsd.source == "simulated":

    include: "rules/simulate.smk"

elif settings.from_nsd() and settings.nsd.source == "fetch":

    include: "rules/fetch_nsd.smk"


if settings.from_nsd():

    include: "rules/preprocess.smk"
    include: "rules/test_sets.smk"


if of_mosaic():

    include: "rules/fetch_mosaic.smk"


if imported():

    include: "rules/import.smk"


if frame_entries():

    include: "rules/frames.smk"


include: "rules/fetch_networks.smk"
include: "rules/latents.smk"


if settings.preprocess.hold_out == "clusters":

    include: "rules/hold_out.smk"


include: "rules/calibrate.smk"
include: "rules/align.smk"
include: "rules/pretrain.smk"
include: "rules/refine.smk"
include: "rules/sample.smk"
include: "rules/evaluate.smk"
include: "rules/generalise.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.figures.input,
        "<results>/metrics.csv",
