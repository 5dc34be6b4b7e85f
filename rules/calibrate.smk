# Stage 1: the encoder learns, as an autoencoder, what responses look like.


rule calibrate:
    input:
        responses=expand("<responses>/sub-{subject}/responses.h5", subject=pretraining()),
        extra=extra_stores(),
    output:
        out="<results>/calibrate/autoencoder.safetensors",
        history="<results>/calibrate/history.csv",
        run="<results>/calibrate/run.json",
    log:
        "<logs>/calibrate.log",
    benchmark:
        "<results>/benchmarks/calibrate.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        **process_resources(),
        mem_mb=need("calibrate", "mem_mb"),
        runtime=need("calibrate", "runtime"),
        gpu_mem_mb=need("calibrate", "gpu_mem_mb"),
    params:
        **tracked("config", "calibrate"),
        **tracked("encoder", "encoder"),
        start=start_weights("calibrate", "autoencoder.safetensors"),
        backbone=backbone(),
        data_sets=settings.data_sets("calibrate"),
        runtime=runtime,
        code=code("calibrate"),
    message:
        "Calibrating the encoder"
    script:
        "../workflow_scripts/calibrate.py"
