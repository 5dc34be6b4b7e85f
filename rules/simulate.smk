# The stand-in for NSD: pictures and order of trials, the same whoever is simulated; then each subject's own pictures and responses.


rule simulate_pictures:
    output:
        picture_files(),
    log:
        "<logs>/simulate_pictures.log",
    benchmark:
        "<results>/benchmarks/simulate_pictures.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_pictures"),
    message:
        "Drawing the pictures of a simulated NSD"
    script:
        "../workflow_scripts/simulate_pictures.py"


rule simulate_own_pictures:
    output:
        simulated_pictures(),
    log:
        "<logs>/simulate_own_pictures/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/simulate_own_pictures/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        **tracked("config", "simulate"),
        root=nsd_folder,
        code=code("simulate_own_pictures"),
    message:
        "Drawing the pictures that only subject {wildcards.subject} of a simulated NSD sees"
    script:
        "../workflow_scripts/simulate_own_pictures.py"


rule simulate_subject:
    input:
        shared=picture_files(),
        own=own_pictures,
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
