# Stage 3: all networks, on one subject.


rule refine:
    input:
        responses="<responses>/sub-{subject}/responses.h5",
        others=expand("<responses>/sub-{subject}/responses.h5", subject=pretraining()),
        components=own_components,
        latents="<results>/latents/sub-{subject}.h5",
        parts=pipeline_parts("<results>/pretrain"),
        pretrained="<results>/pretrain/model_index.json",
        frozen=backbone_files,
        target=target_files() if settings.refine.runs_tower else [],
    output:
        pipeline_parts("<results>/refine/sub-{subject}"),
        out="<results>/refine/sub-{subject}/model_index.json",
        history="<results>/refine/sub-{subject}/history.csv",
        run="<results>/refine/sub-{subject}/run.json",
    log:
        "<logs>/refine/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/refine/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        **process_resources(),
        mem_mb=need("refine", "mem_mb"),
        runtime=need("refine", "runtime"),
        gpu_mem_mb=need("refine", "gpu_mem_mb"),
    params:
        **tracked("config", "refine"),
        backbone=backbone(),
        content=backbone_content(),
        target=settings.target_folder() if settings.refine.runs_tower else "",
        runtime=runtime,
        code=code("refine"),
    message:
        "Refining the networks on subject {wildcards.subject}"
    script:
        "../workflow_scripts/refine.py"
