"""Sizes and manners of the files themselves."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "workflow_scripts").glob("*.py"))
RULES = sorted((ROOT / "rules").glob("*.smk"))
PYTHON = sorted(
    path for folder in ("neuropictor", "workflow_scripts", "tests") for path in (ROOT / folder).rglob("*.py")
)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def rules_in(path: Path) -> dict[str, str]:
    """Text of each rule of a file that runs a script."""
    parts = re.split(r"^rule (\w+):$", path.read_text(), flags=re.MULTILINE)[1:]
    return {rule: text for rule, text in zip(parts[::2], parts[1::2], strict=True) if "script:" in text}


ALL_RULES = {rule: text for path in RULES for rule, text in rules_in(path).items()}


def test_the_snakefile_is_short_and_holds_no_functions():
    text = (ROOT / "Snakefile").read_text()
    assert lines(ROOT / "Snakefile") < 60
    assert not re.search(r"^\s*def |lambda", text, re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_are_thin(path):
    text = path.read_text()
    assert lines(path) <= 40
    assert "snakemake.config" not in text
    assert "start_log(snakemake.log[0])" in text
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in ast.walk(ast.parse(text)))


def test_each_script_has_its_rule():
    assert {path.stem for path in SCRIPTS} == {script_of(text) for text in ALL_RULES.values()}


def script_of(rule: str) -> str:
    return re.search(r'script:\n        "\.\./workflow_scripts/(\w+)\.py"', rule)[1]


@pytest.mark.parametrize("rule", ALL_RULES)
def test_rules_are_complete(rule):
    text = ALL_RULES[rule]
    for part in ("output:", "log:", "conda:", "threads:", "mem_mb=", "runtime=", "params:", "message:"):
        assert part in text, part
    tracked = f'code=code("{script_of(text)}")' in text
    assert tracked != (rule == "fetch_plan")  # which says why its code is not compared
    # Snakemake's cache between workflows takes no rule with a benchmark, and tells jobs apart by parameters alone.
    cached = rule.startswith(("fetch_", "preprocess_")) and rule not in {"fetch_hub", "fetch_weights", "fetch_plan"}
    assert bool(re.search(r'benchmark:\n.*\.jsonl"', text)) != cached
    assert ("job=told_apart" in text) == cached


def test_only_common_holds_functions_and_nobody_uses_lambdas():
    for path in RULES:
        text = path.read_text()
        assert "lambda" not in text
        assert path.name.startswith("common") or "def " not in text


def test_no_utils_and_no_changed_search_path():
    for path in PYTHON:
        assert path.name not in {"utils.py", "helpers.py", "misc.py"}
        if path != Path(__file__):
            assert "sys.path." not in path.read_text(), name(path)
