# NSD's files to stores, for each subject: its images and its responses. Images that all subjects saw (a tenth of each one's) lie in every
# store, so that adding a subject retrains nothing that does not use it.


if settings.nsd.source == "fetch":

    rule preprocess_session:
        input:
            design=f"<nsd>/{keys.EXPERIMENT_DESIGN}",
            betas=session_betas,
        output:
            out=fetched([keys.kept_session(1, 1, settings.nsd.beta_version)])[0],
        log:
            "<logs>/preprocess_session/sub-{subject}/session-{session}.log",
        benchmark:
            "<results>/benchmarks/preprocess_session/sub-{subject}/session-{session}.jsonl"
        wildcard_constraints:
            session=r"[0-4]\d",
            subject=one_of(settings.from_nsd()),
        priority: 10  # before the next session is fetched: raw betas are large, and removed after this
        conda:
            "../envs/neuropictor.yaml"
        resources:
            sessions=1,
            mem_mb=growing(2000),
            runtime=growing(30),
        params:
            beta_version=settings.nsd.beta_version,
            nsd_root=nsd_folder,
            code=code("preprocess_session"),
        message:
            "Keeping what visual cortex needs of subject {wildcards.subject}, session {wildcards.session}"
        script:
            "../workflow_scripts/preprocess_session.py"


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
    wildcard_constraints:
        subject=one_of(settings.from_nsd()),
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        **tracked("config", "preprocess", "image_size", "visual_angle"),
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
    wildcard_constraints:
        subject=one_of(settings.from_nsd()),
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        **preprocessing("validation_images"),
        **tracked("nsd", "nsd", "beta_version", "release", "sessions"),
        nsd_root=nsd_folder,
        code=code("preprocess_subject"),
    message:
        "Preparing the responses of subject {wildcards.subject}"
    script:
        "../workflow_scripts/preprocess_subject.py"
