# Time series, of which only the encoder learns (calibrate.extra): frames of all files of an entry, in a store.


rule import_frames:
    output:
        out="<prepared>/frames/{entry}.h5",
        run="<prepared>/frames/{entry}.run.json",
    log:
        "<logs>/import_frames/{entry}.log",
    benchmark:
        "<results>/benchmarks/import_frames/{entry}.jsonl"
    wildcard_constraints:
        entry=one_of(frame_entries()),
    conda:
        "../envs/neuropictor.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(1440),  # 10,000 runs; the next try goes on where this one ended
    params:
        **tracked("config", "preprocess", "clip"),
        files=series_files,
        series=series_state,
        frames=settings.calibrate.extra_frames,
        code=code("import_frames"),
    message:
        "Taking frames of the time series of {wildcards.entry}"
    script:
        "../workflow_scripts/import_frames.py"
