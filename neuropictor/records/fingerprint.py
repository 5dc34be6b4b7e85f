"""Fingerprints of the configuration and of the code behind a result, so that only results of changes are made again.

Standard library only: the workflow calls this while it reads its rules.
"""

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "neuropictor"
#: Rooms that cannot change a result: settings reach a stage as parameters, which are compared separately, and
#: fetched files are compared with checksums, whatever code fetched them (changing it must not fetch 300 GB again).
WITHOUT_EFFECT = ("__init__", "cli", "config", "fetching", "records", "workflow")
ROOT = Path(__file__).resolve().parents[2]


def canonical(section: Any) -> Any:
    """Return `section` with its keys sorted at every level, so that reordering a file changes nothing.

    Raises
    ------
    TypeError
        If a value is not a number, text, boolean, list or mapping.
    """
    return json.loads(json.dumps(section, sort_keys=True))


def named_keys(
    name: str, section: str, values: Callable[[Any], Mapping[str, Any]], keys: Iterable[str]
) -> dict[str, Callable[..., Any]]:
    """Give a rule keys of a section as one parameter, and each of them as a parameter of its own to compare.

    So a stage runs again when one of them changes, and the reason that Snakemake prints tells which:
    ``refine.steps: 250``. The parameter `name` is not compared, as Snakemake compares no function of `threads`.

    Parameters
    ----------
    name
        Of the parameter that the script reads: a mapping of the keys.
    section
        Name of the section in the configuration.
    values
        Returns the section, given the wildcards of a job.
    keys
        The keys that the stage reads.
    """
    keys = list(keys)

    def section_values(wildcards: Any, threads: int) -> Any:
        settings = values(wildcards)
        return canonical({key: settings[key] for key in keys})

    def labelled(key: str) -> Callable[[Any], str]:
        def of_job(wildcards: Any) -> str:
            return f"{section}.{key}: {canonical(values(wildcards)[key])}"

        return of_job

    return {name: section_values} | {f"{section}.{key}": labelled(key) for key in keys}


def fingerprint(script: str | Path, root: Path = ROOT) -> str:
    """Return a short hash of a script and of all project modules that it imports, directly or through others.

    Comments, docstrings and layout do not count. Imports inside functions do; modules named only at run time
    (``importlib.import_module(name)``) are not seen, so the project does not use them.

    Parameters
    ----------
    script
        Python file, relative to `root` or absolute.
    root
        Folder that holds the package.

    Raises
    ------
    FileNotFoundError
        If the script does not exist.
    SyntaxError
        If a module cannot be parsed.
    """
    root = root.resolve()
    digest = hashlib.sha256()
    for path in sources(script, root):
        digest.update(f"{path.relative_to(root)}\0{_meaning(path, path.stat().st_mtime_ns)}\0".encode())
    return digest.hexdigest()[:16]


def sources(script: str | Path, root: Path = ROOT) -> list[Path]:
    """Return the script and the project's modules behind it, sorted by path, without the rooms of `WITHOUT_EFFECT`."""
    root = root.resolve()
    start = (root / script).resolve()
    if not start.is_file():
        raise FileNotFoundError(
            f"script {start} does not exist; expected a Python file such as workflow_scripts/refine.py"
        )
    seen: set[Path] = set()
    todo = [start]
    while todo:
        path = todo.pop()
        place = path.relative_to(root).with_suffix("").parts
        if path in seen or (place[0] == PACKAGE and place[1] in WITHOUT_EFFECT):
            continue
        seen.add(path)
        todo.extend(_behind(path, root, path.stat().st_mtime_ns))
    return sorted(seen)


@cache
def _tree(path: Path, modified: int) -> ast.Module:
    """Parse a file without its docstrings; `modified` keeps the cache honest."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@cache
def _meaning(path: Path, modified: int) -> str:
    return hashlib.sha256(ast.dump(_tree(path, modified)).encode()).hexdigest()


@cache
def _behind(path: Path, root: Path, modified: int) -> tuple[Path, ...]:
    """Return the files that importing a file runs besides itself; cached, as scripts share most of them."""
    return tuple(dict.fromkeys(file for name in _imported(path, root, modified) for file in _files(name, root)))


def _imported(path: Path, root: Path, modified: int) -> Iterator[str]:
    """Yield the dotted names in the project that a file imports."""
    package = list(path.relative_to(root).parts[:-1])
    for node in ast.walk(_tree(path, modified)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            if module.split(".")[0] == PACKAGE:
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)


def _files(name: str, root: Path) -> Iterator[Path]:
    """Yield the files that importing a dotted name runs: the module and the packages above it."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                yield file
