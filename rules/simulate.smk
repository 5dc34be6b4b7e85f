# The stand-in for NSD: images and order of trials, the same for any choice of subjects; then each subject's own images and responses.


rule simulate_images:
    output:
        image_files(),
    log:
        "<logs>/simulate_images.log",
    benchmark:
        "<results>/benchmarks/simulate_images.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_images"),
    message:
        "Drawing the images of a simulated NSD"
    script:
        "../workflow_scripts/simulate_images.py"


rule simulate_own_images:
    output:
        simulated_images(),
    log:
        "<logs>/simulate_own_images/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/simulate_own_images/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_own_images"),
    message:
        "Drawing the images that only subject {wildcards.subject} of a simulated NSD sees"
    script:
        "../workflow_scripts/simulate_own_images.py"


rule simulate_subject:
    input:
        shared=image_files(),
        own=own_images,
    output:
        directory(simulated_subject()),
    log:
        "<logs>/simulate_subject/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/simulate_subject/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_subject"),
    message:
        "Simulating the responses of subject {wildcards.subject}"
    script:
        "../workflow_scripts/simulate_subject.py"


rule simulate_imagery_images:
    input:
        image_files(),
    output:
        fetched(experiments.shared_keys("imagery")),
    log:
        "<logs>/simulate_imagery_images.log",
    benchmark:
        "<results>/benchmarks/simulate_imagery_images.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_imagery_images"),
    message:
        "Drawing the target images of a simulated NSD-Imagery"
    script:
        "../workflow_scripts/simulate_imagery_images.py"


rule simulate_imagery_subject:
    input:
        image_files(),
    output:
        fetched(experiments.subject_keys("imagery", 1)),
        fetched(experiment_betas("imagery")),
    log:
        "<logs>/simulate_imagery_subject/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/simulate_imagery_subject/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_imagery_subject"),
    message:
        "Simulating NSD-Imagery with subject {wildcards.subject}"
    script:
        "../workflow_scripts/simulate_imagery_subject.py"


rule simulate_synthetic_images:
    input:
        image_files(),
    output:
        fetched(experiments.shared_keys("synthetic")),
    log:
        "<logs>/simulate_synthetic_images.log",
    benchmark:
        "<results>/benchmarks/simulate_synthetic_images.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_synthetic_images"),
    message:
        "Drawing the images of a simulated NSD-synthetic"
    script:
        "../workflow_scripts/simulate_synthetic_images.py"


rule simulate_synthetic_subject:
    input:
        image_files(),
    output:
        fetched(experiments.subject_keys("synthetic", 1)),
        fetched(experiment_betas("synthetic")),
    log:
        "<logs>/simulate_synthetic_subject/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/simulate_synthetic_subject/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_synthetic_subject"),
    message:
        "Simulating NSD-synthetic with subject {wildcards.subject}"
    script:
        "../workflow_scripts/simulate_synthetic_subject.py"
