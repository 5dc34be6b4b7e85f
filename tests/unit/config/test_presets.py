"""The settings that come with the project: which sizes and counts they ask for."""

from pathlib import Path

from snakemake.utils import update_config

from neuropictor import config

PRESETS = Path(__file__).resolve().parents[3] / "presets"


def test_the_paper():
    paper = config.read(PRESETS / "nsd.yaml")
    encoder = paper.encoder
    assert (encoder.image_size // encoder.patch_size) ** 2 + 1 == 257
    assert (encoder.width, encoder.depth, encoder.heads, encoder.bottleneck) == (1024, 24, 16, 2048)
    assert (encoder.decoder_width, encoder.decoder_depth) == (512, 8)
    assert paper.subjects.pretrain == [f"0{n}" for n in range(1, 9)] and paper.subjects.refine == [
        "01",
        "02",
        "05",
        "07",
    ]
    assert (paper.preprocess.image_size, paper.preprocess.validation_images, paper.align.tokens) == (512, 0, 0)
    for stage in (paper.pretrain, paper.refine):
        assert (stage.learning_rate, stage.weight_decay, stage.schedule) == (1e-4, 0.01, "constant")
        assert (stage.warmup, stage.ema, stage.guidance_dropout, stage.captions) == (0, 0, 0, "random")
    assert (paper.pretrain.batch_size, paper.refine.batch_size) == (96, 32)
    assert (paper.pretrain.semantic_weight, paper.refine.semantic_weight) == (0.0, 0.1)
    assert paper.refine.guidance_adaptation.model_dump() == {"steps": 5537, "learning_rate": 1e-5, "dropout": 0.05}
    assert paper.pretrain.guidance_adaptation.model_dump() == {"steps": 14089, "learning_rate": 1e-5, "dropout": 0.05}
    assert not paper.pretrain.uses_text and paper.refine.runs_tower
    assert (paper.sample.steps, paper.sample.guidance_scale) == (50, 5.0)
    assert {paper.calibrate.init, paper.pretrain.init} == {"scratch"}


def test_one_session_trains_and_all_sessions_test():
    few = config.read(PRESETS / "nsd.yaml", PRESETS / "nsd-1-session.yaml")
    assert few.preprocess_of("01").training_sessions == 1
    assert {few.preprocess_of(subject).training_sessions for subject in few.subjects.pretrain} == {40}
    assert "01" not in few.subjects.pretrain and few.subjects.refine == ["01"]
    assert few.nsd.source == "fetch" and few.nsd.sessions == 40
    paper = config.read(PRESETS / "nsd.yaml")
    assert few.paths.nsd == paper.paths.nsd  # nothing is fetched twice
    assert few.paths.prepared != paper.paths.prepared and few.paths.results != paper.paths.results


def test_the_paper_with_alignment_differs_in_nothing_else():
    paper, aligned = config.read(PRESETS / "nsd.yaml"), config.read(PRESETS / "nsd.yaml", PRESETS / "nsd-aligned.yaml")
    assert aligned.align.tokens and aligned.align.text_components >= 256
    assert aligned.paths.results != paper.paths.results
    changed = {name for name in type(paper).model_fields if getattr(paper, name) != getattr(aligned, name)}
    assert changed == {"align", "paths"}


def test_fast_sampling_lies_over_any_settings():
    fast = config.read(PRESETS / "nsd.yaml", PRESETS / "fast.yaml")
    assert fast.sample.scheduler != "ddim" and fast.sample.steps <= 15
    assert fast.sample.guidance_scale == 5.0 and fast.sample.rounding == "down"  # all else as it was


def test_a_smaller_card_changes_no_result():
    paper, small = config.read(PRESETS / "nsd.yaml"), config.read(PRESETS / "nsd.yaml", PRESETS / "24gb.yaml")
    changed = {name for name in type(paper).model_fields if getattr(paper, name) != getattr(small, name)}
    assert changed == {"runtime"} and small.runtime.gradient_checkpointing
    assert paper.pretrain.batch_size / small.runtime.accumulation == 16


def test_files_are_laid_one_over_the_other_as_snakemake_does(tmp_path):
    import yaml

    found = {}
    for name in ("nsd.yaml", "nsd-1-session.yaml"):
        update_config(found, yaml.safe_load((PRESETS / name).read_text()))
    assert config.load(found) == config.read(PRESETS / "nsd.yaml", PRESETS / "nsd-1-session.yaml")


def test_who_pretrains_has_all_training_sessions():
    settings = {"subjects": {"pretrain": [1], "refine": [1, 2]}, "preprocess": {"training_sessions": 5}}
    loaded = config.load(settings)
    assert [loaded.preprocess_of(subject).training_sessions for subject in ("01", "02")] == [5, 5]
    settings["preprocess"]["refine_sessions"] = 2
    loaded = config.load(settings)
    assert [loaded.preprocess_of(subject).training_sessions for subject in ("01", "02")] == [5, 2]
