# Whole clusters of images train nobody: what networks draw of kinds that they never learned (docs/generalise.md).


rule clusters:
    input:
        responses=expand("<prepared>/sub-{subject}/responses.h5", subject=everyone()),
        latents=expand("<results>/latents/sub-{subject}.h5", subject=everyone()),
    output:
        out="<results>/hold_out/clusters.csv",
        run="<results>/hold_out/clusters.run.json",
    log:
        "<logs>/clusters.log",
    benchmark:
        "<results>/benchmarks/clusters.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **tracked("config", "preprocess", "clusters", "clusters_held_out", "hold_out_seed"),
        code=code("clusters"),
    message:
        "Finding clusters of images, and those that are held out of training"
    script:
        "../workflow_scripts/clusters.py"


rule leave_out_clusters:
    input:
        responses="<prepared>/sub-{subject}/responses.h5",
        clusters="<results>/hold_out/clusters.csv",
    output:
        out="<results>/hold_out/sub-{subject}/responses.h5",
        run="<results>/hold_out/sub-{subject}/responses.run.json",
    log:
        "<logs>/leave_out_clusters/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/leave_out_clusters/sub-{subject}.jsonl"
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("leave_out_clusters"),
    message:
        "Leaving held-out clusters out of the training images of subject {wildcards.subject}"
    script:
        "../workflow_scripts/leave_out_clusters.py"
