# A lab's own betas and images to stores, for each subject of subjects.table that has a path.


rule import_betas:
    input:
        files=lab_files,
        nsd_images=nsd_image_table(),
    output:
        out="<prepared>/sub-{subject}/responses.h5",
        run="<prepared>/sub-{subject}/responses.run.json",
    log:
        "<logs>/import_betas/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/import_betas/sub-{subject}.jsonl"
    wildcard_constraints:
        subject=one_of(imported()),
    priority: 10  # before the next person is fetched: MOSAIC's files are large, and removed after this
    conda:
        "../envs/neuropictor.yaml"
    resources:
        people=lambda wildcards: int(wildcards.subject in of_mosaic()),
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        **preprocessing(),
        table=trial_table,
        betas=betas_place,
        code=code("import_betas"),
    message:
        "Importing the responses of subject {wildcards.subject}"
    script:
        "../workflow_scripts/import_betas.py"


rule import_images:
    input:
        table=image_table,
        images=image_folder,
        responses=seen_images,
        nsd_images=nsd_image_table(),
        model=captions_model,
    output:
        out="<prepared>/sub-{subject}/stimuli.h5",
        run="<prepared>/sub-{subject}/stimuli.run.json",
    log:
        "<logs>/import_images/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/import_images/sub-{subject}.jsonl"
    wildcard_constraints:
        subject=one_of(imported()),
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        **tracked("config", "preprocess", "image_size", "visual_angle"),
        captions=missing_captions,
        visual_angle=visual_angle,
        runtime=runtime,
        code=code("import_images"),
    message:
        "Collecting images and captions of subject {wildcards.subject}"
    script:
        "../workflow_scripts/import_images.py"
