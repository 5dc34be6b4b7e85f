"""Settings with mistakes: 500 seeded ones, each either valid or refused with a message that names its key."""

import copy
import datetime
import random
from pathlib import Path

import pytest
import yaml

from neuropictor.config import Config, ConfigError, read

ROOT = Path(__file__).resolve().parents[3]
MUTATIONS = 500
ODD = [None, "", " ", "none", "1e-4", "x" * 300, "\u00e9\u0000".strip("\u0000"), "../..", "/", True, False, 0, 1, -1, 2]
ODD += [10**30, -(10**30), 0.0, -0.5, 1.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), [], {}, [None]]
ODD += [[1, 1], [0], [9], ["1"], [1.5], [[1]], {"a": 1}, {1: 2}, {None: None}, datetime.date(2024, 1, 1), b"bytes"]


def places(tree: object, above: tuple = ()) -> list[tuple]:
    """List the paths of all keys of nested mappings."""
    found = []
    if isinstance(tree, dict):
        for name, below in tree.items():
            found += [(*above, name), *places(below, (*above, name))]
    return found


def mutate(settings: dict, chance: random.Random) -> str:
    """Make one mistake; return the key that it is at."""
    *above, name = chance.choice(places(settings))
    part = settings
    for step in above:
        part = part[step]
    kind = chance.choice(["value", "value", "value", "spelling", "key", "type of key", "number", "list"])
    where = ".".join(map(str, (*above, name)))
    if kind == "spelling":
        letters = list(name)
        letters[chance.randrange(len(letters))] = chance.choice("abcxyz_-. ")
        part["".join(letters)] = part.pop(name)
    elif kind == "key":
        part[chance.choice(["new", "__class__", "model_config", "steps", "seed", "", "a.b", "Å"])] = chance.choice(ODD)
        where = ".".join(map(str, above)) or "settings"
    elif kind == "type of key":
        part[chance.choice([1, None, True, 1.5])] = part.pop(name)
        where = ".".join(map(str, above)) or "settings"
    elif kind == "number" and isinstance(part[name], int | float) and not isinstance(part[name], bool):
        part[name] = chance.choice([str, float, lambda n: -n, lambda n: n * 1000, lambda n: n + 0.5, lambda n: [n]])(
            part[name]
        )
    elif kind == "list" and isinstance(part[name], list):
        part[name] = chance.choice([part[name] * 2, part[name][:0], [*part[name], None], dict.fromkeys(part[name], 1)])
    else:
        part[name] = copy.deepcopy(chance.choice(ODD))
    return where


@pytest.fixture(scope="module")
def defaults():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def outcome(path: Path) -> str:
    """Return the message with which settings are refused; empty if they are valid. Anything else is raised."""
    try:
        assert isinstance(read(path), Config)
    except ConfigError as error:
        return str(error)
    return ""


def test_mistakes_are_valid_or_named(defaults, tmp_path):
    refused = 0
    for seed in range(MUTATIONS):
        chance = random.Random(seed)
        settings = copy.deepcopy(defaults)
        keys = [mutate(settings, chance) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
        path = tmp_path / "my.yaml"
        path.write_text(yaml.safe_dump(settings, allow_unicode=True))
        message = outcome(path)
        if message:
            refused += 1
            told = message.replace(str(path), "")
            sections = {key.split(".")[0] for key in keys} | {"settings", "key"}
            assert any(section in told for section in sections), (seed, keys, message)
            for depth in ("Traceback", "pydantic", "input_value", 'File "'):
                assert depth not in message, (seed, message)
    assert MUTATIONS / 4 < refused < MUTATIONS


def test_damaged_text_is_valid_or_named(tmp_path):
    text = (ROOT / "config.yaml").read_text()
    refused = 0
    for seed in range(100):
        chance = random.Random(seed)
        place = chance.randrange(len(text))
        damaged = chance.choice(
            [
                text[:place],
                text[:place] + chance.choice("\t:{}[]&*!|>%@`'\"#,\x00\x07") + text[place:],
                text[:place] + text[place + chance.randrange(1, 80) :],
            ]
        )
        path = tmp_path / "my.yaml"
        path.write_text(damaged)
        message = outcome(path)
        refused += bool(message)
        assert "Traceback" not in message
    assert refused > 10
