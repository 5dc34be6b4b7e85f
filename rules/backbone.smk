# The miniature backbone, trained anew (backbone.source: train); else the shipped one is used.


rule train_backbone:
    output:
        run="<results>/backbone/run.json",
    log:
        "<logs>/train_backbone.log",
    benchmark:
        "<results>/benchmarks/train_backbone.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=growing(8000),
        runtime=growing(2880),
    params:
        **tracked("config", "backbone", "training"),
        runtime=runtime,
        code=code("train_backbone"),
    message:
        "Training the miniature backbone"
    script:
        "../workflow_scripts/train_backbone.py"


rule train_population:
    input:
        backbone=backbone_files,
    output:
        expand("<results>/backbone/population/{file}", file=population_files()),
        run="<results>/backbone/population/run.json",
    log:
        "<logs>/train_population.log",
    benchmark:
        "<results>/benchmarks/train_population.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=growing(8000),
        runtime=growing(2880),
    params:
        **tracked("training", "backbone", "training"),
        **tracked("config", "backbone", "population"),
        **tracked("simulate", "simulate"),
        **tracked("encoder", "encoder"),
        **tracked("align", "align"),
        backbone=backbone(),
        runtime=runtime,
        code=code("train_population"),
    message:
        "Training start weights on other simulated people"
    script:
        "../workflow_scripts/train_population.py"
