"""Anybody's folders: pairing, what is refused and in which words, and what comes out."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_stores import PretendBackbone
from typer.testing import CliRunner

from neuropictor.cli import app as cli
from neuropictor.cli import options as cli_options
from neuropictor.config import EvaluateConfig, RuntimeConfig
from neuropictor.evaluation import folders
from neuropictor.evaluation import metrics as measures
from neuropictor.evaluation.folders import evaluate_folders, imagery_sets, read_pairs, synthetic_classes
from neuropictor.evaluation.tables import read_metrics, read_scores
from neuropictor.report.scores import folder_page

N, SIDE = 9, 32


def image(seed, noise=0.0):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
    drawn = np.random.default_rng(seed + 1000).integers(0, 256, coarse.shape)
    return ((1 - noise) * coarse + noise * drawn).astype(np.uint8)


def save(values, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path):
    for number in range(N):
        save(image(number), tmp_path / f"seen/p{number:02d}.png")
        save(image(number, 0.3), tmp_path / f"good/p{number:02d}.png")
        for sample in range(2):
            save(image(100 * sample + number + 50, 0.3), tmp_path / f"bad/p{number:02d}_{sample}.png")
    (tmp_path / "seen/notes.txt").write_text("not an image")
    return tmp_path


def refusal(root, folder="good"):
    with pytest.raises(ValueError) as error:
        read_pairs([root / folder], root / "seen")
    return str(error.value)


def test_images_are_paired_by_name_with_any_number_of_samples(root):
    save(np.asarray(image(3)), root / "good/p03.webp")
    (root / "good/p03.png").unlink()
    pairs = read_pairs([root / "good", root / "bad"], root / "seen")
    assert pairs.names == [f"p{number:02d}" for number in range(N)]
    assert {name: drawn.shape for name, drawn in pairs.reconstructed.items()} == {
        "good": (N, 1, SIDE, SIDE, 3),
        "bad": (N, 2, SIDE, SIDE, 3),
    }
    assert np.array_equal(pairs.seen[4], image(4))
    assert np.array_equal(pairs.reconstructed["good"][5, 0], image(5, 0.3))
    assert np.array_equal(pairs.reconstructed["bad"][5, 1], image(155, 0.3))


def test_names_that_end_in_numbers_are_names_first(tmp_path):
    for number in range(3):
        save(image(number), tmp_path / f"seen/p_{number}.png")
        save(image(number), tmp_path / f"good/p_{number}.png")
    assert read_pairs([tmp_path / "good"], tmp_path / "seen").reconstructed["good"].shape == (3, 1, SIDE, SIDE, 3)


def test_files_of_macos_and_forms_of_names_do_not_matter(tmp_path):
    for number in range(2):
        save(image(number), tmp_path / f"seen/p\u00fc{number}.png")
        save(image(number), tmp_path / f"good/pu\u0308{number}.png")
        (tmp_path / f"good/._pu\u0308{number}.png").write_bytes(b"\0\5\x16\7")
    assert read_pairs([tmp_path / "good"], tmp_path / "seen").names == ["p\u00fc0", "p\u00fc1"]
    save(image(1), tmp_path / "good/p\u00fc1.png")
    with pytest.raises(ValueError, match="have the same name"):
        read_pairs([tmp_path / "good"], tmp_path / "seen")


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@a", "a\x1b[31m", "a\udcff"])
def test_names_that_are_formulas_or_no_text_are_refused(root, name):
    save(image(1), root / "seen" / f"{name}.png")
    message = refusal(root)
    assert "a formula, or it holds characters that are no text; allowed: names that begin with" in message
    assert message.isprintable()
    (root / "seen" / f"{name}.png").rename(root / "seen/-5.png")
    assert "no reconstruction of -5" in refusal(root)


def test_gaps_and_strangers_are_named(root):
    for number in range(7):
        (root / f"good/p{number:02d}.png").unlink()
    save(image(1), root / "good/other.png")
    message = refusal(root)
    assert "no reconstruction of p00, p01, p02, p03, p04 and 2 more, and no seen image for other.png" in message
    assert "allowed for p00 is p00.png, or p00_0.png" in message


def test_two_files_of_one_name_are_refused(root):
    save(image(1), root / "good/p01.jpg")
    assert "p01.jpg and p01.png have the same name; allowed is one file an image" in refusal(root)
    (root / "good/p01.jpg").unlink()
    save(image(1), root / "good/p01_0.png")
    assert "p01_0.png and p01.png are both reconstructions of p01" in refusal(root)


def test_numbers_of_samples_must_agree(root):
    (root / "bad/p04_1.png").unlink()
    assert "others have 2 samples, but p04 (1) not; allowed is the same number of all" in refusal(root, "bad")


def test_unreadable_files_and_sizes_are_named(root):
    (root / "good/p02.png").write_bytes(b"no image")
    assert "p02.png cannot be read as an image" in refusal(root)
    (root / "good/p02.png").write_bytes((root / "seen/p02.png").read_bytes()[:60])
    assert "p02.png cannot be read as an image" in refusal(root)
    save(image(2)[:16, :16], root / "good/p02.png")
    assert "p02.png is 16 x 16 pixels; allowed: all images of" in refusal(root)
    for path in (root / "good").iterdir():
        save(image(2)[:20], path)
    assert "is 32 x 20 pixels; allowed: all images of" in refusal(root)


def test_empty_and_equal_folders_are_refused(root):
    (root / "nothing").mkdir()
    assert "holds no images; allowed are .bmp, .jpeg" in refusal(root, "nothing")
    with pytest.raises(ValueError, match="have the same name"):
        read_pairs([root / "good", root / "good"], root / "seen")
    save(image(1), root / "one/a.png")
    with pytest.raises(ValueError, match="1 images; identification needs at least 2"):
        read_pairs([root / "one"], root / "one")


@pytest.fixture
def _pretended(monkeypatch):
    monkeypatch.setattr(folders.Backbone, "load", PretendBackbone.load)


@pytest.mark.usefixtures("_pretended")
def test_tables_json_and_page(root):
    config = EvaluateConfig(bootstrap=50, permutations=199)
    config = config.model_copy(update={"protocols": ["ours", "mindeye2"]})
    evaluate_folders([root / "good", root / "bad"], root / "seen", config, RuntimeConfig(device="cpu"), root / "out")
    record = json.loads((root / "out/metrics.run.json").read_text())
    assert set(record["outputs"]) == {"metrics.csv", "scores.csv", "statistics.csv", "metrics.json"}
    folder_page(root / "out", root / "out/index.html")
    frame = read_metrics(root / "out/metrics.csv").set_index(["protocol", "model", "metric"])
    pairs = read_pairs([root / "good", root / "bad"], root / "seen")
    for model, drawn in pairs.reconstructed.items():
        expected = measures.pixcorr(drawn, pairs.seen).mean()
        assert frame.loc[("ours 1", model, "pixcorr"), "value"] == pytest.approx(expected, abs=1e-6)
    assert set(frame.loc["mindeye2 1"].index.get_level_values("metric")) == {"pixcorr", "ssim", "ssim_columns"}
    assert frame.loc[("ours 1", "good", "two_way"), "value"] == 1
    assert 0.2 < frame.loc[("ours 1", "bad", "two_way"), "value"] < 0.8
    assert set(frame["networks"]) == {"miniature"}
    assert set(frame["n_images"]) == {N}
    scores = read_scores(root / "out/scores.csv")
    assert list(scores["nsd_id"][:N]) == pairs.names
    told = json.loads((root / "out/metrics.json").read_text())
    assert told["scores"]["ours 1"]["good"]["two_way"]["p_above_chance"] <= 2 / 200
    assert told["scores"]["ours 1"]["bad"]["two_way"]["p_above_chance"] > 0.02
    assert (told["images"], told["samples"]) == (N, {"good": 1, "bad": 2})
    page = (root / "out/index.html").read_text()
    for part in ("not comparable with published", "fetch-weights", "mindeye2 1", "9 images", "good - bad"):
        assert part in page
    tests = pd.read_csv(root / "out/statistics.csv")
    assert set(tests["test"]) == {"above chance", "difference"}


@pytest.mark.usefixtures("_pretended")
def test_command(root, monkeypatch):
    monkeypatch.setattr(cli_options, "start_log", lambda **given: None)
    given = ["evaluate", "--reconstructions", root / "good", "--images", root / "seen", "--out", root / "out"]
    done = CliRunner().invoke(cli.app, [str(item) for item in given])
    assert done.exit_code == 0, done.output
    assert "PixCorr" in done.output
    assert str(root / "out/index.html") in done.output.replace("\n", "")
    (root / "good/p00.png").unlink()
    done = CliRunner().invoke(cli.app, [str(item) for item in given])
    assert done.exit_code == 1
    assert "no reconstruction of p00" in str(done.exception)
    done = CliRunner().invoke(cli.app, [str(item) for item in [*given, "--protocol", "theirs"]])
    assert done.exit_code != 0
    assert "mindeye2" in done.output


@pytest.mark.usefixtures("_pretended")
def test_sets_of_imagery_and_classes_of_synthetic_images_are_scored_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_options, "start_log", lambda **given: None)
    cues = "HRVLPEWKBCDT"
    for place, cue in enumerate(cues):
        save(image(place), tmp_path / f"seen/{cue}.png")
        for sample in range(2):
            save(image(place, 0.3 + sample / 10), tmp_path / f"mine/{cue}_{sample}.png")
    names = [*cues, *(f"other{number}" for number in range(272))]
    rows = [f"{name},{('even', 'odd')[place % 2]},x" for place, name in enumerate(names)]
    (tmp_path / "classes.csv").write_text("\n".join(["Image,Image class,Image subclass", *rows]))
    given = [
        "evaluate",
        "--reconstructions",
        tmp_path / "mine",
        "--images",
        tmp_path / "seen",
        "--out",
        tmp_path / "out",
    ]
    for protocol, groups in (("nsd-imagery", ("A", "B")), ("nsd-synthetic", ("even", "odd"))):
        asked = [*given, "--protocol", protocol, "--classes", tmp_path / "classes.csv"]
        done = CliRunner().invoke(cli.app, [str(item) for item in asked])
        assert done.exit_code == 0, done.output
        for group in groups:
            scores = read_scores(tmp_path / "out" / group / "scores.csv")
            assert len(scores) == 6
            assert (tmp_path / "out" / group / "index.html").is_file()
    assert read_scores(tmp_path / "out/A/scores.csv")["nsd_id"].tolist() == sorted("HRVLPE")
    done = CliRunner().invoke(cli.app, [str(item) for item in [*given, "--protocol", "nsd-synthetic"]])
    assert "no classes are given; allowed: NSD's table" in " ".join(done.output.replace("│", "").split())
    (tmp_path / "seen/H.png").rename(tmp_path / "seen/h.png")
    with pytest.raises(ValueError, match=r"protocol nsd-imagery needs the twelve .* for example H\.png"):
        imagery_sets(tmp_path / "seen")
    with pytest.raises(ValueError, match=r"h not among the images of .*classes\.csv; allowed"):
        synthetic_classes(tmp_path / "seen", tmp_path / "classes.csv")
