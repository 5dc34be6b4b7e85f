"""Nothing imports upward or across: the floors of the library, read off every import statement, lazy ones too."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "neuropictor"
FLOORS = {
    **dict.fromkeys(["config", "records", "surface"], 1),
    **dict.fromkeys(["nsd", "models"], 2),
    "fetching": 3,
    **dict.fromkeys(["data", "simulation", "workflow"], 4),
    **dict.fromkeys(["official", "training", "sampling"], 5),
    **dict.fromkeys(["evaluation", "miniature"], 6),
    "report": 7,
    "controls": 8,
    "cli": 9,
    "__main__": 10,
}
# Settings and records serve all floors above; on their own floor nobody needs them.
LIGHT = ["neuropictor"]
for _names in (
    "config records.fingerprint records.record surface nsd.keys nsd.design nsd.betas fetching.nsd",
    "simulation.writer.nsd data.responses data.stimuli data.preprocess report.comparison",
    "workflow.jobs_table workflow.doctor controls.conditions controls.figures report.figures",
    "evaluation.tables report.scores evaluation.statistics evaluation.judges fetching.weights",
    "report.gallery report.data_card cli.app",
):
    LIGHT += [f"neuropictor.{name}" for name in _names.split()]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    package = ["neuropictor", *path.relative_to(PACKAGE).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names += [f"{module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("neuropictor.")}


NOT_CALLED = {"pickle.load", "pickle.loads", "joblib.load", "importlib.import_module", "__import__"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=[path.relative_to(PACKAGE).as_posix() for path in MODULES])
def test_imports_go_down(path):
    own = room(path)
    assert own in FLOORS, f"{own} has no floor: give it one here and in the design"
    for other in imported_rooms(path) - {own}:
        assert FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"


def test_no_module_needs_itself():
    """Of imports that run, those inside functions too."""
    names = {".".join(path.with_suffix("").relative_to(ROOT).parts).removesuffix(".__init__") for path in MODULES}
    graph = {}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        typing = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        unread = {id(node) for part in typing for node in ast.walk(part)}
        name = ".".join(path.with_suffix("").relative_to(ROOT).parts).removesuffix(".__init__")
        found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and id(n) not in unread]
        modules = {part for n in found for part in (n.module, *(f"{n.module}.{alias.name}" for alias in n.names))}
        graph[name] = {module for module in modules & names if not name.startswith(f"{module}.")} - {name}
    TopologicalSorter(graph).prepare()


def test_light_modules_load_no_torch():
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name"
    )
    done = subprocess.run([sys.executable, "-c", code, *LIGHT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MODULES, ids=[path.relative_to(PACKAGE).as_posix() for path in MODULES])
def test_nothing_is_unpickled_and_no_module_is_named_at_run_time(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in NOT_CALLED, name
            keywords = {item.arg: ast.unparse(item.value) for item in node.keywords}
            if name == "torch.load":
                assert keywords.get("weights_only") == "True", ast.unparse(node)
            assert keywords.get("allow_pickle") != "True", ast.unparse(node)
