# Sampling of one subject and model in several jobs (runtime.sample_jobs): each draws some of the batches, so that the pictures are the same.


rule sample_share:
    input:
        parts=model_parts,
        index=model_index,
        responses="<prepared>/sub-{subject}/responses.h5",
        components=own_components,
        backbone=backbone_files,
    output:
        temp("<results>/sample/sub-{subject}/{model}.{share}-of-{jobs}.npy"),
    log:
        "<logs>/sample_share/sub-{subject}_{model}_{share}-of-{jobs}.log",
    benchmark:
        "<results>/benchmarks/sample_share/sub-{subject}_{model}_{share}-of-{jobs}.jsonl"
    wildcard_constraints:
        share=r"\d+",
        jobs=r"\d+",
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        **process_resources(),
        mem_mb=need("sample", "mem_mb"),
        runtime=need("sample", "runtime"),
        gpu_mem_mb=need("sample", "gpu_mem_mb"),
    params:
        **tracked("config", "sample"),
        content=backbone_content(),
        runtime=runtime,
        code=code("sample_share"),
    message:
        "Reconstructing pictures of subject {wildcards.subject} with the {wildcards.model} networks, {wildcards.share} of {wildcards.jobs}"
    script:
        "../workflow_scripts/sample_share.py"


rule join_shares:
    input:
        parts=model_parts,
        index=model_index,
        responses="<prepared>/sub-{subject}/responses.h5",
        components=own_components,
        shares=sample_shares,
    output:
        pictures="<results>/sample/sub-{subject}/{model}.h5",
        run="<results>/sample/sub-{subject}/{model}.run.json",
    log:
        "<logs>/sample/sub-{subject}_{model}.log",
    benchmark:
        "<results>/benchmarks/sample/sub-{subject}_{model}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **tracked("config", "sample"),
        code=code("join_shares"),
    message:
        "Putting together the pictures of subject {wildcards.subject} with the {wildcards.model} networks"
    script:
        "../workflow_scripts/join_shares.py"
