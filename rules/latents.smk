# What the frozen backbone makes of the images and captions.


rule cache_latents:
    input:
        stimuli="<prepared>/sub-{subject}/stimuli.h5",
        frozen=backbone_files,
        target=target_files(),
    output:
        out="<results>/latents/sub-{subject}.h5",
        run="<results>/latents/sub-{subject}.run.json",
    log:
        "<logs>/cache_latents/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/cache_latents/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("cache_latents", "mem_mb"),
        runtime=need("cache_latents", "runtime"),
        gpu_mem_mb=need("cache_latents", "gpu_mem_mb"),
    params:
        backbone=backbone(),
        target=settings.target_folder(),
        content=backbone_content(),
        runtime=runtime,
        code=code("cache_latents"),
    message:
        "Encoding images and captions of subject {wildcards.subject} with the backbone"
    script:
        "../workflow_scripts/cache_latents.py"


rule preprocess:
    input:
        expand(
            "<prepared>/sub-{subject}/{store}.h5",
            subject=everyone(),
            store=["responses", "stimuli"],
        ),
        test_set_stores(),
    localrule: True
