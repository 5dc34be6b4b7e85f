# Prepared stores (made here, or imported: nsd.source: prepared), and what the frozen backbone makes of the images.


if settings.nsd.source != "prepared":

    include: "stores.smk"


# A backbone or text tower of the Hugging Face hub (or a mirror of it, HF_ENDPOINT); no other job needs the network for it.
rule fetch_hub:
    output:
        out=f"{settings.paths.weights}/{{repository}}/{{commit}}/fetched.json",
    log:
        "<logs>/fetch_hub/{repository}_{commit}.log",
    benchmark:
        "<results>/benchmarks/fetch_hub/{repository}_{commit}.jsonl"
    wildcard_constraints:
        repository=r"[\w.-]+--[\w.-]+",
        commit=r"[0-9a-f]{40}",
    conda:
        "../envs/neuropictor.yaml"
    resources:
        network=1,
        mem_mb=growing(1000),
        runtime=growing(240),
    params:
        repository=lambda wildcards: wildcards.repository.replace("--", "/", 1),
        code=code("fetch_hub"),
    message:
        "Fetching {wildcards.repository} at {wildcards.commit}"
    script:
        "../workflow_scripts/fetch_hub.py"


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
    localrule: True
