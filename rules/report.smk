# The report's pages and figures.


rule data_card:
    input:
        responses=expand("<responses>/sub-{subject}/responses.h5", subject=everyone()),
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=everyone()),
        metrics="<results>/metrics.csv",
    output:
        out=report(
            "<results>/report/data_card.html",
            caption="../report/data_card.rst",
            category="4 Data",
            labels={"shown": "data card"},
        ),
    log:
        "<logs>/data_card.log",
    benchmark:
        "<results>/benchmarks/data_card.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(60),
    params:
        **tracked("config", "evaluate", "seed"),
        **tracked("sample", "sample", "trial_averaging"),
        **tracked_preprocessing(),
        release=release(),
        templates=checksum(TEMPLATES),
        code=code("data_card"),
    message:
        "Describing the data"
    script:
        "../workflow_scripts/data_card.py"


rule report_scores:
    input:
        metrics="<results>/metrics.csv",
        scores="<results>/scores.csv",
        statistics="<results>/statistics.csv",
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=refined()),
    output:
        metric_page=report(
            "<results>/report/metrics.html",
            caption="../report/metric_table.rst",
            category="2 Scores",
            labels={"shown": "all models"},
        ),
        test_page=report(
            "<results>/report/statistics.html",
            caption="../report/statistics_table.rst",
            category="2 Scores",
            labels={"shown": "tests"},
        ),
        published_page=report(
            "<results>/report/published.html",
            caption="../report/published_table.rst",
            category="2 Scores",
            labels={"shown": "published results"},
        ),
        score_figure=report(
            "<results>/report/scores.png",
            caption="../report/score_figure.rst",
            category="2 Scores",
            labels={"shown": "figure"},
        ),
        category_figure=report(
            "<results>/report/categories.png",
            caption="../report/category_figure.rst",
            category="2 Scores",
            labels={"shown": "by category"},
        ),
    log:
        "<logs>/report_scores.log",
    benchmark:
        "<results>/benchmarks/report_scores.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    params:
        release=release(),
        published=checksum(PUBLISHED_RESULTS),
        templates=checksum(TEMPLATES),
        code=code("report_scores"),
    message:
        "Writing tables and figures of the scores"
    script:
        "../workflow_scripts/report_scores.py"


rule gallery:
    input:
        samples=samples(),
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=refined()),
        scores="<results>/scores.csv",
        controls=control_images(),
    output:
        out="<results>/gallery.html",
    log:
        "<logs>/gallery.log",
    benchmark:
        "<results>/benchmarks/gallery.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        templates=checksum(TEMPLATES),
        code=code("gallery"),
    message:
        "Putting all test images and reconstructions into a page to browse"
    script:
        "../workflow_scripts/gallery.py"


rule contact_sheet:
    input:
        samples=sheet_samples,
        stimuli="<prepared>/sub-{subject}/stimuli.h5",
    output:
        out=report(
            "<results>/report/contact_sheet_sub-{subject}.png",
            caption="../report/contact_sheet.rst",
            category="1 Reconstructions",
            labels={"subject": "{subject}"},
        ),
    log:
        "<logs>/contact_sheet/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/contact_sheet/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        **tracked("config", "evaluate", "contact_sheet_rows"),
        code=code("contact_sheet"),
    message:
        "Drawing the contact sheet of subject {wildcards.subject}"
    script:
        "../workflow_scripts/contact_sheet.py"


rule training_curves:
    input:
        histories=[
            "<results>/calibrate/history.csv",
            "<results>/pretrain/history.csv",
            *expand("<results>/refine/sub-{subject}/history.csv", subject=refined()),
        ],
    output:
        out=report(
            "<results>/report/training_curves.png",
            caption="../report/training_curves.rst",
            category="3 Training",
            labels={"shown": "losses"},
        ),
    log:
        "<logs>/training_curves.log",
    benchmark:
        "<results>/benchmarks/training_curves.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    params:
        code=code("training_curves"),
    message:
        "Drawing the training curves"
    script:
        "../workflow_scripts/training_curves.py"


rule response_map:
    input:
        responses="<prepared>/sub-{subject}/responses.h5",
    output:
        out=report(
            "<results>/report/response_map_sub-{subject}.png",
            caption="../report/response_map.rst",
            category="4 Data",
            labels={"shown": "responses of subject {subject}"},
        ),
    log:
        "<logs>/response_map/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/response_map/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("response_map"),
    message:
        "Drawing responses of subject {wildcards.subject} on the flat cortex"
    script:
        "../workflow_scripts/response_map.py"


# Of all experiments that have scores; not part of a run: `snakemake compare`.
rule compare:
    input:
        metrics=scored_experiments(),
    output:
        out=f"{settings.paths.results}/comparison.html",
        table=f"{settings.paths.results}/comparison.csv",
    log:
        "<logs>/compare.log",
    benchmark:
        "<results>/benchmarks/compare.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    params:
        templates=checksum(TEMPLATES),
        code=code("compare"),
    message:
        "Comparing experiments"
    script:
        "../workflow_scripts/compare.py"


rule figures:
    input:
        expand("<results>/report/contact_sheet_sub-{subject}.png", subject=refined()),
        expand("<results>/report/response_map_sub-{subject}.png", subject=refined()[:1]),
        "<results>/report/metrics.html",
        "<results>/report/statistics.html",
        "<results>/report/published.html",
        "<results>/report/scores.png",
        "<results>/report/categories.png",
        "<results>/gallery.html",
        "<results>/report/training_curves.png",
        "<results>/report/data_card.html",
        control_targets(),
        generalisation_page(),
    localrule: True


# Also of a failed run: its results so far, and their cost.
onstart:
    work_alone(settings.results_folder())


onsuccess:
    list_jobs()


onerror:
    list_jobs()
