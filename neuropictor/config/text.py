"""Texts about the configuration: error messages, the JSON schema and the reference page, all made from the models.

No section is known by name: all functions take the root model.
"""

import difflib
import json
import re
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Model = type[BaseModel]
Names = tuple[str, ...]

_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
#: Meaning of patterns, by a part of them.
_PATTERNS = {
    "http": "that starts with https:// or http://",
    "{40}": "of 40 hexadecimal digits, or empty",
    "a-f": "of 8 to 64 hexadecimal digits, or empty",
    "^[A-Za-z0-9]+$": "of letters and digits",
    "A-Z": "of letters, digits, points, dashes and underscores",
    "<>": "without braces, angle brackets, backquotes and control characters",
}
_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}


def explain(problem: ErrorDetails, root: Model) -> str:
    """Turn one of Pydantic's errors into: key, value found, what is allowed, one example."""
    place, kind, value = problem["loc"], problem["type"], problem["input"]
    key = ".".join(str(part) for part in place)
    names = tuple(part for part in place if isinstance(part, str))
    if kind == "invalid_key":
        parents = [str(part) for part in place[:-1]]
        known = ", ".join(_model(root, parents).model_fields)
        return f"{key or show(value)} has a key that is no text: {show(value)}; allowed: {known}"
    if kind == "extra_forbidden":
        return _unknown_key(names, value, root)
    if kind == "value_error":
        reason = problem.get("ctx", {})["error"]
        return f"{key} is wrong: {reason}" if key else str(reason)
    text = f"{key} is {show(value)}; allowed: {_allowed(root, names)}; example: {_example(root, names)}"
    return text + _number_hint(value, _schema(root, names))


def show(value: Any) -> str:
    """Write a value as found, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unknown_key(names: Names, value: Any, root: Model) -> str:
    *parents, name = names
    known = list(_model(root, parents).model_fields)
    text = f"{'.'.join(names)} (found: {show(value)}) is not a known key"
    near = difflib.get_close_matches(name, known, n=1)
    elsewhere = [".".join(path) for path in _paths(root) if path[-1] == name]
    if near:
        path = (*parents, near[0])
        return f"{text}; did you mean {'.'.join(path)}? Example: {_example(root, path)}"
    if elsewhere:
        return f"{text}; there is {' and '.join(elsewhere)}"
    where = f" in {'.'.join(parents)}" if parents else ""
    return f"{text}; allowed{where}: {', '.join(known)}; example: {_example(root, (*parents, known[0]))}"


def _number_hint(value: Any, schema: dict[str, Any]) -> str:
    if not isinstance(value, str) or schema.get("type") not in {"number", "integer", "array"}:
        return ""
    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        mantissa, exponent = re.split("[eE]", value)
        point = "" if "." in mantissa else ".0"
        sign = "" if exponent[0] in "+-" else "+"
        reason = "it wants a point and a sign of the exponent"
        return f" (YAML reads {value} as text, as {reason}: write {mantissa}{point}e{sign}{exponent})"
    if re.fullmatch(r"0\d+", value):
        return f" (YAML reads {value} as text, as numbers do not begin with 0: write {int(value)})"
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
        advice = "values nested in --config are always text, so put them into a file for --configfile"
        return f" ({show(value)} is text: write it without quotes; {advice})"
    return ""


def _model(root: Model, names: Names | list[str]) -> Any:
    """Return what a key is annotated with: a model, or below one a type."""
    model: Any = root
    for name in names:
        model = model.model_fields[name].annotation
    return model


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _paths(model: Model, above: Names = ()) -> list[Names]:
    """List the paths of all keys at and below a model."""
    paths: list[Names] = []
    for name, field in model.model_fields.items():
        paths.append((*above, name))
        if _is_model(field.annotation):
            paths.extend(_paths(_model(model, [name]), (*above, name)))
    return paths


def _default(root: Model, names: Names) -> Any:
    value: Any = root()
    for name in names:
        value = getattr(value, name)
    return value.model_dump() if isinstance(value, BaseModel) else value


def _example(root: Model, names: Names) -> str:
    """Write a key with its default as in YAML."""
    value = _default(root, names)
    if isinstance(value, dict):
        name = next(iter(value))
        return f"{names[-1]}: {{{name}: {_yaml(value[name])}}}"
    examples = _model(root, names[:-1]).model_fields[names[-1]].examples
    return f"{names[-1]}: {_yaml(examples[0] if examples else value)}"


def _yaml(value: Any) -> str:
    """Write a value so that YAML 1.1 reads it back unchanged (1.0e-05, not 1e-05)."""
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e-?0?", lambda match: match[0].replace("e", ".0e").replace("e-0", "e-"), repr(value))
    return value if isinstance(value, str) else json.dumps(value)


def _shown(root: Model, names: Names) -> str:
    """Write a key's default in Markdown."""
    value = _yaml(_default(root, names))
    return f"`{value}`" if value else "nothing"


def _schema(root: Model, names: Names) -> dict[str, Any]:
    """Return the JSON schema of one key."""
    return _model(root, names[:-1]).model_json_schema()["properties"][names[-1]]


def _allowed(root: Model, names: Names) -> str:
    kind = _model(root, names[:-1]).model_fields[names[-1]].annotation
    if _is_model(kind):
        return f"a mapping with the keys {', '.join(_model(root, names).model_fields)}"
    return _describe(_schema(root, names))


def _describe(schema: dict[str, Any]) -> str:
    """Describe what a JSON schema allows."""
    if "enum" in schema:
        *first, last = map(str, schema["enum"])
        return f"{', '.join(first)} or {last}"
    if "anyOf" in schema:
        return " or ".join(map(_describe, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"a list{' of one or more' if schema.get('minItems') else ''}, each {_describe(schema['items'])}"
    limits = [f"{words} {_yaml(schema[bound])}" for bound, words in _BOUNDS.items() if bound in schema]
    if "pattern" in schema:
        limits.append(next(words for part, words in _PATTERNS.items() if part in schema["pattern"]))
    return f"{_KINDS.get(schema.get('type', ''), 'a value')} {' and '.join(limits)}".strip()


def schema(root: Model) -> str:
    """Return the JSON schema (draft 2020-12) of the whole configuration, for editors that check YAML."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **root.model_json_schema()}
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def reference(root: Model) -> str:
    """Return the reference page of all keys, as Markdown."""
    lines = [
        "# Configuration reference",
        "",
        "Made from the models in `neuropictor/config/` by `neuropictor config --write`; do not edit.",
        "`config.yaml` holds the defaults; put what you change into a file of your own and give it with",
        "`snakemake --configfile my.yaml` (mappings merge, all else replaces). Files of others may be programs:",
        "look at them with `neuropictor config --settings theirs.yaml` first (docs/security.md).",
    ]
    for section, field in root.model_fields.items():
        text = field.description or ""
        lines += [
            "",
            f"## {section}",
            "",
            f"{text[:1].upper()}{text[1:]}.",
            "",
            "| key | default | allowed | meaning |",
            "|---|---|---|---|",
        ]
        nested = _is_model(field.annotation)
        for names in _paths(_model(root, [section]), (section,)) if nested else [(section,)]:
            if not _is_model(_model(root, names)):
                meaning = _model(root, names[:-1]).model_fields[names[-1]].description
                lines.append(f"| `{'.'.join(names)}` | {_shown(root, names)} | {_allowed(root, names)} | {meaning} |")
    return "\n".join(lines) + "\n"
