# What goes into the report.


rule data_card:
    input:
        responses=expand("<prepared>/sub-{subject}/responses.h5", subject=everyone()),
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=everyone()),
        metrics="<results>/metrics.csv",
        run="<results>/metrics.run.json",
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
        code=code("data_card"),
    message:
        "Describing the data"
    script:
        "../workflow_scripts/data_card.py"


rule metric_table:
    input:
        metrics="<results>/metrics.csv",
        run="<results>/metrics.run.json",
    output:
        out=report(
            "<results>/report/metrics.html",
            caption="../report/metric_table.rst",
            category="2 Scores",
            labels={"shown": "all models"},
        ),
    log:
        "<logs>/metric_table.log",
    benchmark:
        "<results>/benchmarks/metric_table.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    params:
        release=constants.describe_release(settings.nsd.release, settings.nsd.sessions),
        code=code("metric_table"),
    message:
        "Tabulating the scores"
    script:
        "../workflow_scripts/metric_table.py"


rule statistics_table:
    input:
        statistics="<results>/statistics.csv",
    output:
        out=report(
            "<results>/report/statistics.html",
            caption="../report/statistics_table.rst",
            category="2 Scores",
            labels={"shown": "tests"},
        ),
    log:
        "<logs>/statistics_table.log",
    benchmark:
        "<results>/benchmarks/statistics_table.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    params:
        code=code("statistics_table"),
    message:
        "Tabulating the tests"
    script:
        "../workflow_scripts/statistics_table.py"


rule published_table:
    input:
        metrics="<results>/metrics.csv",
    output:
        out=report(
            "<results>/report/published.html",
            caption="../report/published_table.rst",
            category="2 Scores",
            labels={"shown": "published results"},
        ),
    log:
        "<logs>/published_table.log",
    benchmark:
        "<results>/benchmarks/published_table.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    params:
        published=checksum(PUBLISHED_RESULTS),
        code=code("published_table"),
    message:
        "Putting published results into tables by test set"
    script:
        "../workflow_scripts/published_table.py"


rule score_figure:
    input:
        metrics="<results>/metrics.csv",
    output:
        out=report(
            "<results>/report/scores.png",
            caption="../report/score_figure.rst",
            category="2 Scores",
            labels={"shown": "figure"},
        ),
    log:
        "<logs>/score_figure.log",
    benchmark:
        "<results>/benchmarks/score_figure.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    params:
        code=code("score_figure"),
    message:
        "Drawing the scores"
    script:
        "../workflow_scripts/score_figure.py"


rule category_figure:
    input:
        scores="<results>/scores.csv",
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=refined()),
    output:
        out=report(
            "<results>/report/categories.png",
            caption="../report/category_figure.rst",
            category="2 Scores",
            labels={"shown": "by category"},
        ),
    log:
        "<logs>/category_figure.log",
    benchmark:
        "<results>/benchmarks/category_figure.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    params:
        code=code("category_figure"),
    message:
        "Drawing scores by category"
    script:
        "../workflow_scripts/category_figure.py"


rule gallery:
    input:
        samples=samples(),
        stimuli=expand("<prepared>/sub-{subject}/stimuli.h5", subject=refined()),
        scores="<results>/scores.csv",
        controls=control_pictures(),
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
        template=checksum(GALLERY),
        code=code("gallery"),
    message:
        "Putting all test pictures and reconstructions into a page to browse"
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
    localrule: True


# Also of a run that failed: what there is, and what it took.
onstart:
    work_alone(settings.results_folder())


onsuccess:
    list_jobs()


onerror:
    list_jobs()
