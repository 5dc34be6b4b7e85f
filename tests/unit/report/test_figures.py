import json
import re

import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from small_stores import TEST, smooth_images, write_responses, write_samples, write_stimuli

from neuropictor.config import EvaluateConfig, PreprocessConfig, SampleConfig
from neuropictor.evaluation.tables import METRIC_COLUMNS, of_kind, write_table
from neuropictor.nsd.constants import describe_release
from neuropictor.report import figures
from neuropictor.report.data_card import data_card, measure
from neuropictor.surface import load_geometry


@pytest.fixture
def texts(monkeypatch):
    """All texts of the figures that are written."""
    found = []
    kept = Figure.savefig

    def savefig(self, *arguments, **options):
        found.extend(item.get_text() for item in self.findobj(match=lambda item: hasattr(item, "get_text")))
        return kept(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found


@pytest.fixture
def samples(tmp_path):
    seen = smooth_images(TEST)[:, None]
    models = ("ridge", "refined", "ridge_diffusion", "pretrained")
    return {
        model: write_samples(tmp_path / f"{model}.h5", model, "05", seen // (2 + i)) for i, model in enumerate(models)
    }


def test_contact_sheet(samples, tmp_path, texts):
    stimuli = write_stimuli(tmp_path / "stimuli.h5")
    for name in ("a.png", "b.png"):
        figures.contact_sheet(samples, stimuli, EvaluateConfig(contact_sheet_rows=4), tmp_path / name)
    assert any("SIMULATED" in text and "Subject 05" in text for text in texts)
    heads = ["seen", "refined", "pretrained only", "ridge + diffusion", "ridge"]
    assert [text for text in texts if text in heads][:5] == heads
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    width, height = Image.open(tmp_path / "a.png").size
    assert 700 < width < 1400
    assert 600 < height < 1100


def test_contact_sheet_refuses_other_images(samples, tmp_path):
    samples["ridge"] = write_samples(tmp_path / "x.h5", "ridge", "05", np.zeros((1, 1, 16, 16, 3), np.uint8), [100])
    with pytest.raises(ValueError, match=r"x\.h5: not the same images"):
        figures.contact_sheet(samples, write_stimuli(tmp_path / "s.h5"), EvaluateConfig(), tmp_path / "a.png")


def test_training_curves(tmp_path, texts):
    histories = [tmp_path / stage / "history.csv" for stage in ("calibrate", "refine/sub-01", "refine/sub-02")]
    for path in histories:
        path.parent.mkdir(parents=True)
        lines = [f"{step},train,loss,{1 / (step + 1)}" for step in range(0, 100, 10)]
        lines += ["50,validation,loss,0.4", "90,validation,loss,0.3", "90,validation,score,-0.2"]
        path.write_text("\n".join(["step,split,name,value", *lines]))
    figures.training_curves(histories, tmp_path / "curves.png")
    assert "Training" in texts
    assert {"calibrate: loss", "refine: score", "sub-01 train", "sub-02 validation"} <= set(texts)
    (tmp_path / "calibrate" / "run.json").write_text(json.dumps({"results": {"data": "simulated"}}))
    figures.training_curves(histories, tmp_path / "curves.png")
    assert "Training (SIMULATED data)" in texts
    histories[0].write_text("step,value\n1,2\n")
    with pytest.raises(ValueError, match="columns split, name missing"):
        figures.training_curves(histories, tmp_path / "curves.png")


def test_response_map(tmp_path, texts):
    vertices = load_geometry().n_vertices
    ncsnr = np.linspace(0, 0.6, vertices)
    ncsnr[:9] = np.nan
    path = write_responses(tmp_path / "responses.h5", subject="03", vertices=vertices, ncsnr=ncsnr)
    figures.response_map(path, tmp_path / "map.png")
    assert any("SIMULATED" in text and "Subject 03" in text for text in texts)
    assert "Response to test image 119 (mean of 3)" in texts
    assert Image.open(tmp_path / "map.png").size[0] > 1000


def write_ceilings(path, scores):
    keys = {"subject": "mean", "protocol": "ours 1", "data": "simulated", "networks": "miniature", "n_images": 20}
    rows = [keys | {"model": m, "metric": name, "value": v} for m in of_kind("ceiling") for name, v in scores.items()]
    write_table(rows, METRIC_COLUMNS, path)


def test_data_card(tmp_path):
    stimuli = [write_stimuli(tmp_path / "stimuli.h5")]
    responses = {s: write_responses(tmp_path / f"{s}.h5", subject=s) for s in ("01", "02")}
    facts = measure(responses, stimuli, 0)
    assert facts["subjects"]["02"]["splits"]["validation"] == {"trials": 45, "images": 15}
    assert facts["subjects"]["01"]["ncsnr_quartiles"] == [0.4, 0.4, 0.4]
    assert (facts["images"]["train"], facts["images"]["train_and_test"]) == (60, 0)
    assert facts["images"]["left_out"] == 0
    seen, mean = smooth_images(TEST), smooth_images(range(60)).mean(0)
    expected = np.mean([np.corrcoef(mean.ravel(), image.ravel())[0, 1] for image in seen])
    assert facts["images"]["mean_training_image_pixcorr"] == pytest.approx(expected, abs=1e-4)
    data_card(responses, stimuli, EvaluateConfig(), SampleConfig(), tmp_path / "card.html")
    text = (tmp_path / "card.html").read_text()
    assert "Data card (SIMULATED data)" in text
    assert "mean colour" not in text and "Release" not in text
    told = {"release": describe_release(37, 2), "preprocess": PreprocessConfig()}
    data_card(responses, stimuli, EvaluateConfig(), SampleConfig(), tmp_path / "card.html", **told)
    text = (tmp_path / "card.html").read_text()
    assert "Test images of NSD are those that all its subjects were to see" in text
    assert "Release 37: without each subject&#39;s last three sessions; only the first 2 count." in text
    assert "training: " not in text
    assert "z-scored over trials of no test image of a session and end at 8 standard deviations" in text
    with h5py.File(responses["01"], "r+") as file:
        file["split"][150:] = 2
    assert measure(responses, stimuli, 0)["subjects"]["01"]["training_sessions"] == 1
    data_card(responses, stimuli, EvaluateConfig(), SampleConfig(), tmp_path / "card.html")
    assert "2<small>training: 1</small>" in (tmp_path / "card.html").read_text()
    write_ceilings(tmp_path / "metrics.csv", {"two_way": 0.81, "category": 0.9, "pixcorr": 0.8})
    data_card(
        responses, stimuli, EvaluateConfig(), SampleConfig(), tmp_path / "card.html", metrics=tmp_path / "metrics.csv"
    )
    text = (tmp_path / "card.html").read_text()
    assert "below 0.75 - missed" in text
    assert '<span class="good">at least 0.90' in text
    assert "Test images are those that the tables of trials or the import's options name" in text
    assert "reconstructed from the mean response over their repeats" in text
    single = SampleConfig(trial_averaging="single")
    data_card(responses, stimuli, EvaluateConfig(), single, tmp_path / "card.html")
    assert "reconstructed from a single trial, the first" in (tmp_path / "card.html").read_text()


def test_a_data_card_shows_what_stores_say_and_runs_nothing_of_it(tmp_path):
    """Origin, betas and mesh are texts of the stores, which may come from elsewhere."""
    stimuli, responses = write_stimuli(tmp_path / "stimuli.h5"), write_responses(tmp_path / "1.h5")
    for path, names in ((stimuli, ["data"]), (responses, ["data", "beta_version", "mesh"])):
        with h5py.File(path, "r+") as file:
            file.attrs.update({name: f"</pre><script>{name}</script>" for name in names})
    told = {"release": "<script>release</script>", "preprocess": PreprocessConfig()}
    data_card({"01": responses}, [stimuli], EvaluateConfig(), SampleConfig(), tmp_path / "card.html", **told)
    text = (tmp_path / "card.html").read_text()
    assert "<script" not in text and text.count("</pre>") == 1
    for name in ("data", "beta_version", "mesh", "release"):
        assert f"&lt;script&gt;{name}&lt;/script&gt;" in text


def test_a_data_card_of_images_without_categories(tmp_path):
    """As a lab's own may be: nothing is scored by categories then."""
    stimuli = write_stimuli(tmp_path / "stimuli.h5")
    write_ceilings(tmp_path / "metrics.csv", {"two_way": 0.8, "pixcorr": 0.9})
    responses, out = {"01": write_responses(tmp_path / "1.h5")}, tmp_path / "card.html"
    data_card(responses, [stimuli], EvaluateConfig(), SampleConfig(), out, metrics=tmp_path / "metrics.csv")
    assert re.search(r"category read off true images</td>\s*<td[^>]*>unknown", out.read_text())
