# Baselines on the same test images, published judging networks where they are used, and the scores of all.


rule baselines:
    input:
        responses="<responses>/sub-{subject}/responses.h5",
        stimuli="<prepared>/sub-{subject}/stimuli.h5",
        latents="<results>/latents/sub-{subject}.h5",
        frozen=backbone_files,
        weights=weight_files(),
    output:
        out=expand(
            "<results>/sample/sub-{subject}/{model}.h5",
            model=FITTED,
            allow_missing=True,
        ),
        run="<results>/sample/sub-{subject}/baselines.run.json",
    log:
        "<logs>/baselines/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/baselines/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("baselines", "mem_mb"),
        runtime=need("baselines", "runtime"),
        gpu_mem_mb=need("baselines", "gpu_mem_mb"),
    params:
        **tracked("config", "evaluate", "ridge_alphas", "diffusion_strength", "networks"),
        **tracked("sample", "sample"),
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("baselines"),
    message:
        "Fitting the linear baselines of subject {wildcards.subject}"
    script:
        "../workflow_scripts/baselines.py"


rule evaluate:
    input:
        samples=samples(),
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=refined()),
        frozen=backbone_files,
        weights=weight_files(),
    output:
        out="<results>/metrics.csv",
        scores="<results>/scores.csv",
        statistics="<results>/statistics.csv",
        run="<results>/metrics.run.json",
    log:
        "<logs>/evaluate.log",
    benchmark:
        "<results>/benchmarks/evaluate.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("evaluate", "mem_mb"),
        runtime=need("evaluate", "runtime"),
        gpu_mem_mb=need("evaluate", "gpu_mem_mb"),
    params:
        **tracked("config", "evaluate", "bootstrap", "permutations", "seed", "networks", "protocols"),
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("evaluate"),
    message:
        "Scoring all reconstructions"
    script:
        "../workflow_scripts/evaluate.py"


include: "controls.smk"
