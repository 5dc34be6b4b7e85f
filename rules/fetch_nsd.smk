# NSD's files from its public bucket (nsd.source: fetch). Interrupted files continue from their .part; every byte is checked before a file gets its
# name. The plan comes first: whether all files exist at the endpoint, and whether there is room for them.


# None of its parameters are compared: where a job must run again, Snakemake checks no job behind it, not even for reasons of its own, though its
# output is `ancient` there. Otherwise another session would be planned now, and fetched only by the next run.
rule fetch_plan:
    output:
        out="<nsd>/plan.json",
    log:
        "<logs>/fetch_plan.log",
    benchmark:
        "<results>/benchmarks/fetch_plan.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        network=1,
        mem_mb=growing(500),
        runtime=growing(30),
    params:
        kept=lambda wildcards, threads: planned_files()["kept"],
        passing=lambda wildcards, threads: planned_files()["passing"],
        at_once=lambda wildcards, threads: planned_files()["at_once"],
        config=fetch_source,
        root=nsd_folder,
    message:
        "Looking for all files at the endpoint, and for room on the disk"
    script:
        "../workflow_scripts/fetch_plan.py"


rule fetch_design:
    input:
        ancient("<nsd>/plan.json"),
    output:
        fetched([keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO]),
    log:
        "<logs>/fetch_design.log",
    benchmark:
        "<results>/benchmarks/fetch_design.jsonl"
    priority: 20  # sessions can be prepared, and their betas removed, only with it
    conda:
        "../envs/neuropictor.yaml"
    resources:
        network=1,
        mem_mb=growing(500),
        runtime=growing(60),
    params:
        file_keys=lambda wildcards, output, threads: [
            Path(file).relative_to(settings.paths.nsd).as_posix() for file in output
        ],
        config=fetch_source,
        root=nsd_folder,
        code=code("fetch_files"),
    message:
        "Fetching the order of trials and the table of images"
    script:
        "../workflow_scripts/fetch_files.py"


use rule fetch_design as fetch_images with:
    output:
        fetched([keys.STIMULI]),
    log:
        "<logs>/fetch_images.log",
    benchmark:
        "<results>/benchmarks/fetch_images.jsonl"
    priority: 0
    resources:
        network=1,
        mem_mb=growing(500),
        runtime=growing(1440),
    message:
        "Fetching the 73,000 images"


rule fetch_annotations:
    input:
        ancient("<nsd>/plan.json"),
    output:
        annotation_files(),
    log:
        "<logs>/fetch_annotations.log",
    benchmark:
        "<results>/benchmarks/fetch_annotations.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        network=1,
        mem_mb=growing(500),
        runtime=growing(240),
    params:
        config=fetch_source,
        root=nsd_folder,
        code=code("fetch_annotations"),
    message:
        "Fetching COCO's captions and objects of the images"
    script:
        "../workflow_scripts/fetch_annotations.py"


use rule fetch_design as fetch_betas with:
    output:
        raw(fetched(beta_keys(1, [1]))),
    log:
        "<logs>/fetch_betas/sub-{subject}/session-{session}.log",
    benchmark:
        "<results>/benchmarks/fetch_betas/sub-{subject}/session-{session}.jsonl"
    wildcard_constraints:
        session=r"[0-4]\d",
    priority: 0
    resources:
        network=1,
        sessions=1,
        mem_mb=growing(500),
        runtime=growing(240),
    message:
        "Fetching the betas of subject {wildcards.subject}, session {wildcards.session}"


use rule fetch_design as fetch_test_betas with:
    output:
        raw(fetched(experiment_betas("any"))),
    log:
        "<logs>/fetch_test_betas/{experiment}/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/fetch_test_betas/{experiment}/sub-{subject}.jsonl"
    wildcard_constraints:
        experiment="|".join(experiments.ROWS),
    priority: 0
    resources:
        network=1,
        sessions=1,
        mem_mb=growing(500),
        runtime=growing(240),
    message:
        "Fetching the betas of NSD-{wildcards.experiment} of subject {wildcards.subject}"


use rule fetch_design as fetch_imagery_images with:
    output:
        fetched(experiments.shared_keys("imagery")),
    log:
        "<logs>/fetch_imagery_images.log",
    benchmark:
        "<results>/benchmarks/fetch_imagery_images.jsonl"
    priority: 0
    message:
        "Fetching the target images of NSD-Imagery"


use rule fetch_design as fetch_imagery_trials with:
    output:
        fetched(experiments.subject_keys("imagery", 1)),
    log:
        "<logs>/fetch_imagery_trials/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/fetch_imagery_trials/sub-{subject}.jsonl"
    priority: 0
    message:
        "Fetching the tables of trials of NSD-Imagery of subject {wildcards.subject}"


use rule fetch_design as fetch_synthetic_images with:
    output:
        fetched(experiments.shared_keys("synthetic")),
    log:
        "<logs>/fetch_synthetic_images.log",
    benchmark:
        "<results>/benchmarks/fetch_synthetic_images.jsonl"
    priority: 0
    message:
        "Fetching the images of NSD-synthetic and their order"


use rule fetch_design as fetch_synthetic_colours with:
    output:
        fetched(experiments.subject_keys("synthetic", 1)),
    log:
        "<logs>/fetch_synthetic_colours/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/fetch_synthetic_colours/sub-{subject}.jsonl"
    priority: 0
    message:
        "Fetching the coloured images of NSD-synthetic of subject {wildcards.subject}"
