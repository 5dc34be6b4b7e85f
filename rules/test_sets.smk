# Extra test sets of NSD's people (nsd.test_sets), each to stores of its own: NSD-Imagery's seen and imagined targets, and NSD-synthetic.


rule preprocess_test_set:
    input:
        test_set_files,
    output:
        responses="<prepared>/sub-{subject}/{test_set}/responses.h5",
        stimuli="<prepared>/sub-{subject}/{test_set}/stimuli.h5",
        run="<prepared>/sub-{subject}/{test_set}/responses.run.json",
        stimuli_run="<prepared>/sub-{subject}/{test_set}/stimuli.run.json",
    log:
        "<logs>/preprocess_test_set/{test_set}/sub-{subject}.log",
    benchmark:
        "<results>/benchmarks/preprocess_test_set/{test_set}/sub-{subject}.jsonl"
    wildcard_constraints:
        subject=one_of(settings.from_nsd()),
        test_set="|".join(name for names in TEST_SETS.values() for name in names),
    priority: 10  # before other betas are fetched: these are large, and removed after this
    conda:
        "../envs/neuropictor.yaml"
    resources:
        sessions=1,
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        **tracked("config", "preprocess", "clip", "image_size", "visual_angle"),
        **tracked("nsd", "nsd", "beta_version"),
        nsd_root=nsd_folder,
        code=code("preprocess_test_set"),
    message:
        "Preparing the test set {wildcards.test_set} of subject {wildcards.subject}"
    script:
        "../workflow_scripts/preprocess_test_set.py"
