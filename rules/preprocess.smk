# NSD's files to stores: pictures once, responses per subject, and what the frozen backbone makes of the pictures.


rule preprocess_stimuli:
    input:
        picture_files(),
    output:
        store="<prepared>/stimuli.h5",
        run="<prepared>/stimuli.run.json",
    log:
        "<logs>/preprocess_stimuli.log",
    benchmark:
        "<results>/benchmarks/preprocess_stimuli.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        config=section("preprocess", "picture_size"),
        nsd=section("nsd", "release", "sessions"),
        subjects=settings.subjects.everyone(),
        root=nsd_folder,
        code=code("preprocess_stimuli"),
    message:
        "Collecting pictures and captions"
    script:
        "../workflow_scripts/preprocess_stimuli.py"


rule preprocess_subject:
    input:
        pictures=picture_files(),
        responses=response_files,
        sessions=session_files,
    output:
        store="<prepared>/sub-{subject}/responses.h5",
        run="<prepared>/sub-{subject}/responses.run.json",
    log:
        "<logs>/preprocess_subject/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/preprocess_subject/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        config=preprocessing,
        nsd=section("nsd", "beta_version", "release", "sessions"),
        root=nsd_folder,
        code=code("preprocess_subject"),
    message:
        "Preparing the responses of subject {wildcards.subject}"
    script:
        "../workflow_scripts/preprocess_subject.py"


rule cache_latents:
    input:
        stimuli="<prepared>/stimuli.h5",
        backbone=backbone_files,
    output:
        latents="<results>/latents.h5",
        run="<results>/latents.run.json",
    log:
        "<logs>/cache_latents.log",
    benchmark:
        "<results>/benchmarks/cache_latents.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=settings.runtime.gpus,
        mem_mb=growing(3000),
        runtime=growing(60),
    params:
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("cache_latents"),
    message:
        "Encoding pictures and captions with the backbone"
    script:
        "../workflow_scripts/cache_latents.py"


rule preprocess:
    input:
        expand("<prepared>/sub-{subject}/responses.h5", subject=everyone()),
        "<prepared>/stimuli.h5",
    localrule: True
