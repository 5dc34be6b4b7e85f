# Stage 2: all networks, on the subjects of subjects.pretrain.


rule pretrain:
    input:
        responses=expand("<responses>/sub-{subject}/responses.h5", subject=pretraining()),
        components=component_files(pretraining()),
        latents=expand("<results>/latents/sub-{subject}.h5", subject=pretraining()),
        autoencoder="<results>/calibrate/autoencoder.safetensors",
        frozen=backbone_files,
        target=target_files() if settings.pretrain.runs_tower else [],
    output:
        pipeline_parts("<results>/pretrain"),
        out="<results>/pretrain/model_index.json",
        history="<results>/pretrain/history.csv",
        run="<results>/pretrain/run.json",
    log:
        "<logs>/pretrain.log",
    benchmark:
        "<results>/benchmarks/pretrain.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        **process_resources(),
        mem_mb=need("pretrain", "mem_mb"),
        runtime=need("pretrain", "runtime"),
        gpu_mem_mb=need("pretrain", "gpu_mem_mb"),
    params:
        **tracked("config", "pretrain"),
        aligned_tokens=settings.align.tokens,
        start=start_weights("pretrain", *pipeline_files()),
        backbone=backbone(),
        content=backbone_content(),
        target=settings.target_folder() if settings.pretrain.runs_tower else "",
        data_sets=settings.data_sets("pretrain"),
        runtime=runtime,
        code=code("pretrain"),
    message:
        "Pretraining the networks on all subjects of subjects.pretrain"
    script:
        "../workflow_scripts/pretrain.py"
