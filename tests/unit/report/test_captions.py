"""The report's first page."""

from pathlib import Path

import jinja2
import pytest

from neuropictor.config import Config

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("source", ["simulated", "fetch"])
def test_the_report_begins_with_where_its_data_are_from(source):
    config = Config(nsd={"source": source}).model_dump(mode="json")
    text = jinja2.Template((ROOT / "report/workflow.rst").read_text()).render(snakemake={"config": config})
    assert ("SIMULATED" in text) == (source == "simulated")
