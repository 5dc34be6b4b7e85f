"""The report's first page."""

from pathlib import Path

import jinja2
import pytest

from neuropictor.config import Config

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("source", "of_nsd", "told"),
    [
        ("simulated", ["01", "02"], "**All data behind this report are SIMULATED**"),
        ("simulated", ["01"], "**Data of subjects 01 are SIMULATED**"),
        ("fetch", ["01", "02"], "NSD was read from ``data/nsd``"),
        ("prepared", [], "Data of subjects 01, 02 were imported"),
    ],
)
def test_the_report_begins_with_where_its_data_are_from(source, of_nsd, told):
    config = Config(nsd={"source": source}).model_dump(mode="json")
    config["subjects"] = {"pretrain": ["01"], "refine": ["02", "01"], "of_nsd": of_nsd}
    text = jinja2.Template((ROOT / "report/workflow.rst").read_text()).render(snakemake={"config": config})
    assert told in text and "knows 12 cartoon objects" in text and "6 steps of dpm++" in text
    assert ("SIMULATED" in text) == (source == "simulated")
    assert ("data/nsd" in text) == (source == "fetch")
    assert ("were imported" in text) == (of_nsd != ["01", "02"])
