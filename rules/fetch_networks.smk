# Networks that are not made here: backbones, and those that judge images.


# A backbone, text tower or captioning model of the Hugging Face hub (or a mirror of it, HF_ENDPOINT); no other job needs the network for it.
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


rule fetch_weights:
    output:
        out=f"{settings.paths.weights}/weights.json",
    log:
        "<logs>/fetch_weights.log",
    benchmark:
        "<results>/benchmarks/fetch_weights.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        network=1,
        mem_mb=growing(500),
        runtime=growing(240),
    params:
        files=WEIGHT_FILES,
        # Checksums are compared when it is fetched, so that where it comes from is no reason to fetch it again.
        config=lambda wildcards, threads: settings.weights.model_dump(),
        code=code("fetch_weights"),
    message:
        "Fetching the networks that judge images"
    script:
        "../workflow_scripts/fetch_weights.py"
