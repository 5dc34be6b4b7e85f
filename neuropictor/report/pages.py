"""HTML pages for the report from templates: one look, light and dark, nothing loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neuropictor.records.files import atomic_path

TEMPLATES = Path(__file__).with_name("templates")
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}

NOTHING = "\N{EN DASH}"
"""Placeholder for missing values in tables."""


class Cell(NamedTuple):
    """A cell with more than plain text.

    Attributes
    ----------
    text
        What is shown.
    small
        Lines below it.
    mark
        "b" or "code" (elements), "good" or "bad" (colours), or none.
    """

    text: str
    small: tuple[str, ...] = ()
    mark: str = ""


class Table(NamedTuple):
    """Header and rows of a table; cells are texts or `Cell`."""

    header: list[str]
    rows: list[list[str | Cell]]


def write_page(template: str, out: Path, title: str, **values: Any) -> None:
    """Fill a template of `TEMPLATES`; all values are escaped."""
    text = _ENVIRONMENT.get_template(template).render(title=title, **values)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
