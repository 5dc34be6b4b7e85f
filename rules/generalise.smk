# Does it generalise: further test sets, and people on whom no network was trained (docs/generalise.md).


rule draw_test_set:
    input:
        tested="<prepared>/sub-{subject}/{test_set}/responses.h5",
        parts=pipeline_parts("<results>/refine/sub-{subject}"),
        pipeline="<results>/refine/sub-{subject}/model_index.json",
        responses="<responses>/sub-{subject}/responses.h5",
        stimuli="<prepared>/sub-{subject}/stimuli.h5",
        latents="<results>/latents/sub-{subject}.h5",
        components=own_components,
        frozen=backbone_files,
        weights=weight_files(),
    output:
        out=expand(
            "<results>/test_sets/{test_set}/sub-{subject}/{model}.h5",
            model=["refined", *BASELINES],
            allow_missing=True,
        ),
        aligned=("<results>/test_sets/{test_set}/sub-{subject}/components.h5" if settings.align.tokens else []),
        run="<results>/test_sets/{test_set}/sub-{subject}/refined.run.json",
    log:
        "<logs>/draw_test_set/{test_set}_sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/draw_test_set/{test_set}_sub-{subject}.jsonl"
    wildcard_constraints:
        test_set=one_of(test_sets()),
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("draw_test_set", "mem_mb"),
        runtime=need("draw_test_set", "runtime"),
        gpu_mem_mb=need("draw_test_set", "gpu_mem_mb"),
    params:
        **test_set_sampling(),
        **tracked("evaluate", "evaluate", "ridge_alphas", "diffusion_strength", "networks"),
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("draw_test_set"),
    message:
        "Reconstructing the test set {wildcards.test_set} of subject {wildcards.subject}"
    script:
        "../workflow_scripts/draw_test_set.py"


rule evaluate_test_set:
    input:
        samples=expand(
            "<results>/test_sets/{test_set}/sub-{subject}/{model}.h5",
            subject=settings.tested_further(),
            model=["refined", *BASELINES],
            allow_missing=True,
        ),
        stimuli=expand(
            "<prepared>/sub-{subject}/{test_set}/stimuli.h5",
            subject=settings.tested_further(),
            allow_missing=True,
        ),
        frozen=backbone_files,
        weights=weight_files(),
    output:
        out="<results>/test_sets/{test_set}/metrics.csv",
        scores="<results>/test_sets/{test_set}/scores.csv",
        statistics="<results>/test_sets/{test_set}/statistics.csv",
        run="<results>/test_sets/{test_set}/metrics.run.json",
    log:
        "<logs>/evaluate_test_set/{test_set}.log",
    benchmark:
        "<results>/benchmarks/evaluate_test_set/{test_set}.jsonl"
    wildcard_constraints:
        test_set=one_of(test_sets()),
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("evaluate_test_set", "mem_mb"),
        runtime=need("evaluate_test_set", "runtime"),
        gpu_mem_mb=need("evaluate_test_set", "gpu_mem_mb"),
    params:
        **tracked("config", "evaluate", "bootstrap", "permutations", "seed", "networks", "protocols"),
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("evaluate_test_set"),
    message:
        "Scoring the test set {wildcards.test_set}"
    script:
        "../workflow_scripts/evaluate_test_set.py"


rule draw_new_person:
    input:
        parts=general_parts(),
        responses="<responses>/sub-{subject}/responses.h5",
        latents="<results>/latents/sub-{subject}.h5",
        space="<results>/align/space.safetensors",
        others=others,
        frozen=backbone_files,
    output:
        chosen="<results>/new_people/pairs-{pairs}/sub-{subject}/responses.h5",
        aligned="<results>/new_people/pairs-{pairs}/sub-{subject}/components.h5",
        out="<results>/new_people/pairs-{pairs}/sub-{subject}/adapted.h5",
        run="<results>/new_people/pairs-{pairs}/sub-{subject}/adapted.run.json",
    log:
        "<logs>/draw_new_person/pairs-{pairs}_sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/draw_new_person/pairs-{pairs}_sub-{subject}.jsonl"
    wildcard_constraints:
        pairs=r"\d+|all",
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("draw_new_person", "mem_mb"),
        runtime=need("draw_new_person", "runtime"),
        gpu_mem_mb=need("draw_new_person", "gpu_mem_mb"),
    params:
        **tracked("config", "generalise", "seed"),
        **tracked("align", "align", "seed"),
        **tracked("sample", "sample"),
        pipeline=lambda wildcards, threads: f"{general_networks()}/model_index.json",
        start=start_weights("pretrain", "model_index.json") if known_to() == "start" else "",
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("draw_new_person"),
    message:
        "Adapting to subject {wildcards.subject} from {wildcards.pairs} image-response pairs"
    script:
        "../workflow_scripts/draw_new_person.py"


use rule baselines as baselines_of_pairs with:
    input:
        responses="<results>/new_people/pairs-{pairs}/sub-{subject}/responses.h5",
        stimuli="<prepared>/sub-{subject}/stimuli.h5",
        latents="<results>/latents/sub-{subject}.h5",
        frozen=backbone_files,
        weights=weight_files(),
    output:
        out=expand(
            "<results>/new_people/pairs-{pairs}/sub-{subject}/{model}.h5",
            model=FITTED,
            allow_missing=True,
        ),
        run="<results>/new_people/pairs-{pairs}/sub-{subject}/baselines.run.json",
    log:
        "<logs>/baselines_of_pairs/pairs-{pairs}_sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/baselines_of_pairs/pairs-{pairs}_sub-{subject}.jsonl"
    message:
        "Fitting the linear baselines of subject {wildcards.subject} to {wildcards.pairs} image-response pairs"


use rule refine as refine_on_pairs with:
    input:
        responses="<results>/new_people/pairs-{pairs}/sub-{subject}/responses.h5",
        components="<results>/new_people/pairs-{pairs}/sub-{subject}/components.h5",
        latents="<results>/latents/sub-{subject}.h5",
        parts=general_parts(),
        frozen=backbone_files,
        target=target_files() if settings.refine.runs_tower else [],
    output:
        pipeline_parts("<results>/new_people/pairs-{pairs}/sub-{subject}/refine"),
        out="<results>/new_people/pairs-{pairs}/sub-{subject}/refine/model_index.json",
        history="<results>/new_people/pairs-{pairs}/sub-{subject}/refine/history.csv",
        run="<results>/new_people/pairs-{pairs}/sub-{subject}/refine/run.json",
    log:
        "<logs>/refine_on_pairs/pairs-{pairs}_sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/refine_on_pairs/pairs-{pairs}_sub-{subject}.jsonl"
    params:
        **tracked("config", "refine"),
        pretrained=lambda wildcards, threads: f"{general_networks()}/model_index.json",
        start=start_weights("pretrain", "model_index.json") if known_to() == "start" else "",
        backbone=backbone(),
        content=backbone_content(),
        target=settings.target_folder() if settings.refine.runs_tower else "",
        runtime=runtime,
        code=code("refine"),
    message:
        "Refining the networks on {wildcards.pairs} image-response pairs of subject {wildcards.subject}"


use rule sample as sample_of_pairs with:
    input:
        parts=pipeline_parts("<results>/new_people/pairs-{pairs}/sub-{subject}/refine"),
        pipeline="<results>/new_people/pairs-{pairs}/sub-{subject}/refine/model_index.json",
        responses="<results>/new_people/pairs-{pairs}/sub-{subject}/responses.h5",
        components="<results>/new_people/pairs-{pairs}/sub-{subject}/components.h5",
        frozen=backbone_files,
    output:
        out="<results>/new_people/pairs-{pairs}/sub-{subject}/{model}.h5",
        run="<results>/new_people/pairs-{pairs}/sub-{subject}/{model}.run.json",
    log:
        "<logs>/sample_of_pairs/pairs-{pairs}_sub-{subject}_{model}.log",
    benchmark:
        "<results>/benchmarks/sample_of_pairs/pairs-{pairs}_sub-{subject}_{model}.jsonl"
    message:
        "Reconstructing images of subject {wildcards.subject} with the networks refined on {wildcards.pairs} pairs"


rule evaluate_pairs:
    input:
        samples=scored_pairs(),
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=new_people()),
        frozen=backbone_files,
        weights=weight_files(),
    output:
        out="<results>/new_people/metrics.csv",
        scores="<results>/new_people/scores.csv",
        statistics="<results>/new_people/statistics.csv",
        run="<results>/new_people/metrics.run.json",
    log:
        "<logs>/evaluate_pairs.log",
    benchmark:
        "<results>/benchmarks/evaluate_pairs.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    threads: cores()
    resources:
        gpu=min(1, settings.runtime.gpus),
        mem_mb=need("evaluate_pairs", "mem_mb"),
        runtime=need("evaluate_pairs", "runtime"),
        gpu_mem_mb=need("evaluate_pairs", "gpu_mem_mb"),
    params:
        **tracked("config", "evaluate", "bootstrap", "permutations", "seed", "networks", "protocols"),
        backbone=backbone(),
        content=backbone_content(),
        runtime=runtime,
        code=code("evaluate_pairs"),
    message:
        "Scoring images of new people"
    script:
        "../workflow_scripts/evaluate_pairs.py"


rule generalisation:
    input:
        scores="<results>/scores.csv",
        metrics="<results>/metrics.csv",
        test_sets=expand("<results>/test_sets/{test_set}/metrics.csv", test_set=test_sets()),
        test_images=expand(
            "<prepared>/sub-{subject}/{test_set}/stimuli.h5",
            subject=settings.tested_further()[:1],
            test_set=test_sets(),
        ),
        new_people="<results>/new_people/metrics.csv" if new_people() else [],
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=new_people()),
        clusters=("<results>/hold_out/clusters.csv" if settings.preprocess.hold_out == "clusters" else []),
        controls=control_targets(),
    output:
        out=report(
            "<results>/report/generalisation.html",
            caption="../report/generalisation.rst",
            category="2 Scores",
            labels={"shown": "generalisation"},
        ),
    log:
        "<logs>/generalisation.log",
    benchmark:
        "<results>/benchmarks/generalisation.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        trained_on=known_to(),
        templates=checksum(TEMPLATES),
        code=code("generalisation"),
    message:
        "Writing the page on generalisation"
    script:
        "../workflow_scripts/generalisation.py"
