# Weights from the Hugging Face hub (or a mirror of it, HF_ENDPOINT), at a pinned commit; afterwards no job needs the network.


rule fetch_hub:
    output:
        "<weights>/{repository}/{commit}/fetched.json",
    log:
        "<logs>/fetch_hub/{repository}_{commit}.log",
    benchmark:
        "<results>/benchmarks/fetch_hub/{repository}_{commit}.jsonl"
    wildcard_constraints:
        repository=r"[\w.-]+--[\w.-]+",
        commit=r"[0-9a-f]{40}",
    conda:
        "../envs/neuropictor.yaml"
    threads: 1
    resources:
        network=1,
        mem_mb=growing(1000),
        runtime=growing(240),
    message:
        "Fetching {wildcards.repository} at {wildcards.commit}"
    script:
        "../workflow_scripts/fetch_hub.py"
