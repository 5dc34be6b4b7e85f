# Reconstructions of the test images, by the refined and by the pretrained networks.


rule sample:
    input:
        parts=lambda wildcards: pipeline_parts(model_folder(wildcards)),
        pipeline=lambda wildcards: f"{model_folder(wildcards)}/model_index.json",
        responses="<responses>/sub-{subject}/responses.h5",
        components=own_components,
        frozen=backbone_files,
    output:
        out="<results>/sample/sub-{subject}/{model}.h5",
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
        "Reconstructing images of subject {wildcards.subject} with the {wildcards.model} networks"
    script:
        "../workflow_scripts/sample.py"
