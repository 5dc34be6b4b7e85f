# What all subjects share, and each subject's linear map into it; only if align.tokens is not 0.


rule align_space:
    input:
        responses=expand("<responses>/sub-{subject}/responses.h5", subject=pretraining()),
        latents=expand("<results>/latents/sub-{subject}.h5", subject=pretraining()),
        frozen=backbone_files,
    output:
        out="<results>/align/space.safetensors",
        run="<results>/align/space.run.json",
    log:
        "<logs>/align_space.log",
    benchmark:
        "<results>/benchmarks/align_space.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        mem_mb=need("align_space", "mem_mb"),
        runtime=need("align_space", "runtime"),
    params:
        **tracked("config", "align"),
        **tracked("pretrain", "pretrain", "init"),
        start=start_weights("pretrain", "space.safetensors"),
        population=start_space,
        runtime=runtime,
        code=code("align_space"),
    message:
        "Making the space that all subjects share"
    script:
        "../workflow_scripts/align_space.py"


rule align:
    input:
        responses="<responses>/sub-{subject}/responses.h5",
        latents="<results>/latents/sub-{subject}.h5",
        space="<results>/align/space.safetensors",
    output:
        out="<results>/align/sub-{subject}/components.h5",
        run="<results>/align/sub-{subject}/components.run.json",
    log:
        "<logs>/align/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/align/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        mem_mb=need("align", "mem_mb"),
        runtime=need("align", "runtime"),
    params:
        **tracked("config", "align"),
        runtime=runtime,
        code=code("align"),
    message:
        "Aligning the responses of subject {wildcards.subject}"
    script:
        "../workflow_scripts/align.py"
