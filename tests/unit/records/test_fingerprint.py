"""Fingerprints change with what code does and with nothing else."""

from pathlib import Path

import pytest

from neuropictor.records.fingerprint import ROOT, canonical, fingerprint, sources

FILES = {
    "workflow_scripts/refine.py": "from neuropictor.records import log\nfrom neuropictor.training import loop\n",
    "neuropictor/__init__.py": "",
    "neuropictor/records/log.py": "def start_log():\n    return 1\n",
    "neuropictor/config/__init__.py": "steps = 1\n",
    "neuropictor/training/__init__.py": '"""Training."""\n',
    "neuropictor/training/loop.py": "def fit():\n    from ..models.net import Net\n    return Net\n",
    "neuropictor/models/__init__.py": "",
    "neuropictor/models/net.py": 'class Net:\n    """A net."""\n    width = 3\n',
    "neuropictor/models/other.py": "x = 1\n",
}


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edit(project: Path, name: str, old: str, new: str) -> tuple[str, str]:
    before = fingerprint("workflow_scripts/refine.py", project)
    file = project / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new) + "\n")
    return before, fingerprint("workflow_scripts/refine.py", project)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("workflow_scripts/refine.py", "import loop", "import loop as training_loop"),
        ("neuropictor/training/loop.py", "return Net", "return Net()"),
        ("neuropictor/models/net.py", "width = 3", "width = 4"),
        ("neuropictor/training/__init__.py", '"""Training."""', "threads = 2"),
    ],
)
def test_changes_of_meaning_count(project, name, old, new):
    before, after = edit(project, name, old, new)
    assert before != after


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("neuropictor/models/net.py", '"""A net."""', '"""Another net."""'),
        ("neuropictor/models/net.py", "width = 3", "width = 3  # wide"),
        ("neuropictor/models/net.py", "width = 3", "width   =  3"),
        ("neuropictor/models/other.py", "x = 1", "x = 2"),
        ("neuropictor/config/__init__.py", "steps = 1", "steps = 2"),
        ("neuropictor/records/log.py", "return 1", "return 2"),
    ],
)
def test_comments_layout_and_what_has_no_effect_do_not_count(project, name, old, new):
    before, after = edit(project, name, old, new)
    assert before == after


def test_touching_does_not_count(project):
    before = fingerprint("workflow_scripts/refine.py", project)
    for file in project.rglob("*.py"):
        file.touch()
    assert fingerprint("workflow_scripts/refine.py", project) == before


def test_relative_and_lazy_imports_are_followed(project):
    names = {path.relative_to(project).as_posix() for path in sources("workflow_scripts/refine.py", project)}
    assert "neuropictor/models/net.py" in names
    assert "neuropictor/models/other.py" not in names


def test_the_project_itself_has_a_fingerprint_for_every_script():
    scripts = sorted((ROOT / "workflow_scripts").glob("*.py"))
    marks = {fingerprint(script.relative_to(ROOT)) for script in scripts}
    assert len(marks) == len(scripts) > 10


def test_missing_script_is_named():
    with pytest.raises(FileNotFoundError, match=r"nothing\.py does not exist; expected"):
        fingerprint("workflow_scripts/nothing.py")


def test_canonical_sorts_keys_at_every_level_and_keeps_types():
    section = canonical({"b": 1.0, "a": {"d": True, "c": [2, 1]}})
    assert repr(section) == "{'a': {'c': [2, 1], 'd': True}, 'b': 1.0}"


def test_canonical_refuses_what_params_would_silently_ignore():
    with pytest.raises(TypeError):
        canonical({"path": Path("x")})
