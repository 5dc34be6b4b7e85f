# People's files of MOSAIC from its public bucket, for people of subjects.table whose path is as mosaic:sub-01_NOD. As fetch_nsd.smk: the plan comes
# first, interrupted files continue from their .part, and every byte is checked before a file gets its name.


# None of its parameters are compared, as of fetch_plan.
rule fetch_mosaic_plan:
    output:
        out="<mosaic>/plan.json",
    log:
        "<logs>/fetch_mosaic_plan.log",
    benchmark:
        "<results>/benchmarks/fetch_mosaic_plan.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        network=1,
        mem_mb=growing(500),
        runtime=growing(30),
    params:
        people=lambda wildcards, threads: list(of_mosaic().values()),
        at_once=lambda wildcards, threads: PEOPLE_AT_ONCE,
        config=mosaic_source,
        root=mosaic_folder,
    message:
        "Looking for all people's files at MOSAIC's endpoint, and for room on the disk"
    script:
        "../workflow_scripts/fetch_mosaic_plan.py"


rule fetch_mosaic:
    input:
        plan=ancient("<mosaic>/plan.json"),
        # What else the import needs: a file that cannot be imported yet would keep its room.
        nsd_images=ancient(nsd_image_table()),
    output:
        raw_mosaic(),
    log:
        "<logs>/fetch_mosaic/{data_set}/{person}.log",
    benchmark:
        "<results>/benchmarks/fetch_mosaic/{data_set}/{person}.jsonl"
    wildcard_constraints:
        data_set=r"\w+",
        person=one_of(of_mosaic().values()),
    conda:
        "../envs/neuropictor.yaml"
    resources:
        network=1,
        people=1,
        mem_mb=growing(500),
        runtime=growing(720),
    params:
        people=lambda wildcards, threads: [wildcards.person],
        config=mosaic_source,
        root=mosaic_folder,
        code=code("fetch_mosaic"),
    message:
        "Fetching the responses of MOSAIC's {wildcards.person}"
    script:
        "../workflow_scripts/fetch_mosaic.py"
