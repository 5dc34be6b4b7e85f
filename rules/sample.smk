# Reconstructions of the test pictures, by the refined and by the pretrained networks.


rule sample:
    input:
        parts=model_parts,
        index=model_index,
        responses="<prepared>/sub-{subject}/responses.h5",
        components=own_components,
        backbone=backbone_files,
    output:
        pictures="<results>/sample/sub-{subject}/{model}.h5",
        run="<results>/sample/sub-{subject}/{model}.run.json",
    log:
        "<logs>/sample/sub-{subject}_{model}.log",
    benchmark:
        "<results>/benchmarks/sample/sub-{subject}_{model}.jsonl"
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
        code=code("sample"),
    message:
        "Reconstructing pictures of subject {wildcards.subject} with the {wildcards.model} networks"
    script:
        "../workflow_scripts/sample.py"
