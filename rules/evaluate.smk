# Baselines on the same test pictures, and the scores of all.


rule baselines:
    input:
        responses="<prepared>/sub-{subject}/responses.h5",
        stimuli="<prepared>/sub-{subject}/stimuli.h5",
        latents="<results>/latents/sub-{subject}.h5",
        backbone=backbone_files,
    output:
        ridge="<results>/sample/sub-{subject}/ridge.h5",
        ridge_diffusion="<results>/sample/sub-{subject}/ridge_diffusion.h5",
        mean_picture="<results>/sample/sub-{subject}/mean_picture.h5",
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
        mem_mb=growing(4000),
        runtime=growing(480),
    params:
        config=section("evaluate", "ridge_alphas", "diffusion_strength"),
        sample=section("sample"),
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
        backbone=backbone_files,
    output:
        metrics="<results>/metrics.csv",
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
        mem_mb=growing(3000),
        runtime=growing(240),
    params:
        config=section("evaluate", "bootstrap", "seed"),
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("evaluate"),
    message:
        "Scoring all reconstructions"
    script:
        "../workflow_scripts/evaluate.py"
