# NSD's files to stores, for each subject: its images and its responses. Images that all subjects saw (a tenth of each one's) lie in every
# store, so that a further subject is no reason to train anew what does not see it.


rule preprocess_stimuli:
    input:
        shared=image_files(),
        own=own_images,
    output:
        out="<prepared>/sub-{subject}/stimuli.h5",
        run="<prepared>/sub-{subject}/stimuli.run.json",
    log:
        "<logs>/preprocess_stimuli/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/preprocess_stimuli/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        **tracked("config", "preprocess", "image_size"),
        **tracked("nsd", "nsd", "release", "sessions"),
        subjects=lambda wildcards: [int(wildcards.subject)],
        nsd_root=nsd_folder,
        code=code("preprocess_stimuli"),
    message:
        "Collecting images and captions of subject {wildcards.subject}"
    script:
        "../workflow_scripts/preprocess_stimuli.py"


rule preprocess_subject:
    input:
        images=image_files(),
        responses=response_files,
        kept=session_files,
    output:
        out="<prepared>/sub-{subject}/responses.h5",
        run="<prepared>/sub-{subject}/responses.run.json",
    log:
        "<logs>/preprocess_subject/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/preprocess_subject/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        **preprocessing(),
        **tracked("nsd", "nsd", "beta_version", "release", "sessions"),
        nsd_root=nsd_folder,
        code=code("preprocess_subject"),
    message:
        "Preparing the responses of subject {wildcards.subject}"
    script:
        "../workflow_scripts/preprocess_subject.py"
