# Controls against spurious reconstruction, and images steered on purpose (docs/controls.md).


rule control:
    input:
        parts=pipeline_parts("<results>/refine/sub-{subject}"),
        pipeline="<results>/refine/sub-{subject}/model_index.json",
        responses="<responses>/sub-{subject}/responses.h5",
        components=own_components,
        space=true_components("<results>/align/space.safetensors"),
        latents=true_components("<results>/latents/sub-{subject}.h5"),
        frozen=backbone_files,
    output:
        out="<results>/controls/sub-{subject}/{kind}.h5",
        run="<results>/controls/sub-{subject}/{kind}.run.json",
    log:
        "<logs>/control/sub-{subject}_{kind}.log",
    benchmark:
        "<results>/benchmarks/control/sub-{subject}_{kind}.jsonl"
    wildcard_constraints:
        kind="|".join(CONTROLS),
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("control", "mem_mb"),
        runtime=need("control", "runtime"),
        gpu_mem_mb=need("control", "gpu_mem_mb"),
    params:
        **control_settings(),
        **tracked("sample", "sample"),
        content=backbone_content(),
        runtime=runtime,
        code=code("control"),
    message:
        "Drawing the control {wildcards.kind} of subject {wildcards.subject}"
    script:
        "../workflow_scripts/control.py"


rule score_controls:
    input:
        drawn=control_images(),
        samples=control_samples(),
        responses=expand("<responses>/sub-{subject}/responses.h5", subject=controlled()),
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=controlled()),
        frozen=backbone_files,
        weights=weight_files(),
    output:
        control_figures(),
        out="<results>/controls/controls.csv",
        run="<results>/controls/controls.run.json",
    log:
        "<logs>/score_controls.log",
    benchmark:
        "<results>/benchmarks/score_controls.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("score_controls", "mem_mb"),
        runtime=need("score_controls", "runtime"),
        gpu_mem_mb=need("score_controls", "gpu_mem_mb"),
    params:
        **tracked("config", "controls", "sheet_rows"),
        **tracked("evaluate", "evaluate", "bootstrap", "seed", "networks"),
        figures=lambda wildcards, output: str(Path(output[0]).parent),
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("score_controls"),
    message:
        "Scoring the controls"
    script:
        "../workflow_scripts/score_controls.py"


rule controls:
    input:
        control_targets(),
    localrule: True
