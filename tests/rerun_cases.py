"""Kinds of changes to a finished tiny run of two subjects, and the jobs that each must cause."""

import ast
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import yaml
from tiny_chain import ROOT, command

from neuropictor.config import Config, load

TINY = ("presets/tiny.yaml",)
SAMPLE = ("sample_pretrained", "sample_refined")
#: Of the table.
ORDER = ["fetch_betas", "preprocess_session", "simulate_images", "simulate_own_images", "simulate_subject"]
ORDER += ["simulate_imagery_images", "simulate_imagery_subject", "preprocess_test_set"]
ORDER += ["preprocess_subject", "preprocess_stimuli", "cache_latents", "calibrate", "align_space", "align", "pretrain"]
ORDER += ["refine", "sample", "baselines", "evaluate", "report_scores", "data_card", "gallery", "contact_sheet"]
ORDER += ["training_curves", "response_map", "draw_test_set", "evaluate_test_set", "generalisation"]
#: Rules whose own settings a key is among; the longest beginning counts.
READ_BY = {
    "experiment": [],
    "nsd": [],
    "mosaic": [],
    "nsd.release": ["preprocess_subject", "preprocess_stimuli", "report_scores"],
    "nsd.sessions": ["preprocess_subject", "preprocess_stimuli", "report_scores"],
    "simulate": ["simulate_images", "simulate_subject"],
    "preprocess": ["preprocess_subject"],
    "preprocess.image_size": ["preprocess_stimuli"],
    "preprocess.visual_angle": ["preprocess_stimuli"],
    "preprocess.refine_sessions": [],
    "preprocess.clusters": [],
    "preprocess.clusters_held_out": [],
    "preprocess.hold_out_seed": [],
    "generalise": [],
    "backbone": [],
    "encoder": ["calibrate"],
    "calibrate": ["calibrate"],
    "align": ["align_space", "align"],
    "align.tokens": ["align_space", "align", "pretrain"],
    "pretrain": ["pretrain"],
    "refine": ["refine"],
    "sample": [*SAMPLE, "baselines"],
    "sample.trial_averaging": [*SAMPLE, "baselines", "data_card"],
    "evaluate.bootstrap": ["evaluate"],
    "evaluate.seed": ["evaluate", "data_card"],
    "evaluate.permutations": ["evaluate"],
    "weights": [],
    "evaluate.ridge_alphas": ["baselines"],
    "evaluate.diffusion_strength": ["baselines"],
    "evaluate.contact_sheet_rows": ["contact_sheet"],
    "runtime": [],
}
#: Values for keys that cannot be raised by one or halved.
OTHER_VALUES = {
    "nsd.release": 37,
    "nsd.sessions": 39,
    "simulate.sessions": 2,
    "simulate.trials_per_session": 153,
    "simulate.mesh": "fsaverage",
    "preprocess.training_sessions": 39,
    "preprocess.refine_sessions": 39,
    "encoder.image_size": 32,
    "encoder.patch_size": 8,
    "encoder.width": 64,
    "encoder.heads": 4,
    "encoder.decoder_width": 32,
    "encoder.dropout": 0.1,
    "calibrate.extra": ["data/prepared/sub-02/responses.h5"],
    "pretrain.semantic_steps": 1,
    "refine.semantic_steps": 1,
    "sample.guidance_scale": 2.0,
    "sample.guidance_interval": [0.0, 0.5],
    "generalise.pairs": [0, 10, 20],
    "generalise.refine_pairs": [10],
    "weights.clip_sha256": "0123abcd",
    "weights.swav_sha256": "0123abcd",
}
#: Keys that say where files lie or which rules there are, or go only with another: they have tests of their own.
NOT_HERE = {"experiment", "subjects", "paths", "nsd.source", "backbone.source", "calibrate.init", "pretrain.init"}
NOT_HERE |= {"runtime.track_code", "runtime.nodes", "nsd.beta_version", "evaluate.networks", "evaluate.protocols"}
NOT_HERE |= {
    "nsd.test_sets",
    "preprocess.hold_out",
    "generalise.new_people",
    "backbone.revision",
    "backbone.target",
    "backbone.target_revision",
    "controls",
}
#: Controls are left out: they have rules and tests of their own.
WITHOUT_CONTROLS = {"controls": {"made": []}}


@cache
def graph() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return all jobs of the tiny chain without controls, with their names, and what stands on each, from Snakemake."""
    with tempfile.TemporaryDirectory() as folder:
        changes = Path(folder) / "settings.yaml"
        changes.write_text(yaml.safe_dump(WITHOUT_CONTROLS | {"runtime": {"track_code": False}}))
        plan = [*command(Path(folder), "--nolock", "--dag", "dot", further=[changes])]
        dot = subprocess.run(plan, capture_output=True, text=True, check=True).stdout
    labels = re.findall(r'(\d+)\[label = "(\w+)(?:[^"]*model: (\w+))?', dot)
    names = {job: f"{rule}_{model}" if rule == "sample" else rule for job, rule, model in labels if rule != "all"}
    after: dict[str, list[str]] = {job: [] for job in names}
    for job, other in re.findall(r"(\d+) -> (\d+)", dot):
        if other in names:
            after[job].append(other)
    return names, after


def behind(rules: Iterable[str]) -> Counter:
    """Jobs of these rules and of all that stand on them, for two subjects."""
    names, after = graph()
    found, todo = set(), [job for job, name in names.items() if name in set(rules)]
    while todo:
        job = todo.pop()
        if job not in found:
            found.add(job)
            todo += after[job]
    return jobs(Counter(names[job] for job in found))


def jobs(counts: dict[str, int]) -> Counter:
    """Join the two kinds of sampling, which are one rule."""
    joined = Counter()
    for rule, count in counts.items():
        joined["sample" if rule in SAMPLE else rule] += count
    return joined


def leaves(tree: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def tiny_settings() -> dict:
    merged = yaml.safe_load((ROOT / "config.yaml").read_text())
    for section, values in yaml.safe_load((ROOT / TINY[0]).read_text()).items():
        merged[section] = {**merged.get(section, {}), **values}
    return load(merged).model_dump()


def allowed_texts(key: str) -> list[str]:
    """Return the values of a text setting that the schema lists."""
    schema = Config.model_json_schema()
    part = schema
    for name in key.split("."):
        part = part["properties"][name]
        reference = part.get("$ref") or next((item["$ref"] for item in part.get("allOf", []) if "$ref" in item), None)
        if reference:
            part = schema["$defs"][reference.rpartition("/")[2]]
    return part.get("enum", [])


def another(key: str, value: object) -> object:
    if key in OTHER_VALUES:
        return OTHER_VALUES[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.1
    if isinstance(value, list):
        return value[:-1] or [*value, value[0] + 1]
    return next((text for text in allowed_texts(key) if text != value), f"{value}/other")


def nested(key: str, value: object) -> dict:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def one_key_each() -> dict[str, tuple[dict, list[str]]]:
    """Give each key a change of it, and the rules that read it."""
    found = {}
    for key, value in leaves(tiny_settings()):
        parts = key.split(".")
        beginnings = [".".join(parts[:depth]) for depth in range(len(parts), 0, -1)]
        if NOT_HERE.isdisjoint(beginnings):
            rules = next((READ_BY[name] for name in beginnings if name in READ_BY), ["say so in READ_BY"])
            found[key] = (nested(key, another(key, value)), rules)
    return found


# What is done to a variant of the finished run.


def nothing(folder: Path) -> None:
    pass


def touch_all_code(folder: Path) -> None:
    for pattern in ("neuropictor/*.py", "neuropictor/*/*.py", "workflow_scripts/*.py", "rules/*.smk", "Snakefile"):
        for path in folder.glob(pattern):
            path.touch()


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Expr(ast.Constant("Another docstring."))
    return ast.fix_missing_locations(tree)


def rewrite_all_code(folder: Path) -> None:
    """Give every module another layout, other docstrings, and no comments."""
    for path in [*folder.glob("neuropictor/**/*.py"), *folder.glob("workflow_scripts/*.py")]:
        if "assets" not in path.parts:
            path.write_text(f"# new\n{ast.unparse(without_docstrings(ast.parse(path.read_text())))}\n\n\n# end\n")


def reverse_keys(folder: Path) -> None:
    def reversed_tree(tree: object) -> object:
        return {name: reversed_tree(tree[name]) for name in reversed(tree)} if isinstance(tree, dict) else tree

    for path in (folder / "config.yaml", folder / TINY[0]):
        path.write_text(yaml.safe_dump(reversed_tree(yaml.safe_load(path.read_text())), sort_keys=False))


def more_logic(module: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "neuropictor" / module
        path.write_text(path.read_text() + "\n_ADDED = 1\n")

    return edit


def own_copy(folder: Path, *parts: str) -> None:
    """Replace shared parts of a variant by copies; files in them are linked, so replace them, never write into them."""
    for part in parts:
        shared = (folder / part).resolve()
        (folder / part).unlink()
        shutil.copytree(shared, folder / part, copy_function=os.link)


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replace one file; its time is now, as after a crash or by hand."""

    def edit(folder: Path) -> None:
        own_copy(folder, name.split("/", maxsplit=1)[0])
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(change(content))

    return edit


def deleted(*names: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        own_copy(folder, names[0].split("/")[0])
        for name in names:
            (folder / name).unlink()

    return edit


def flipped(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


FIRST_STAGES = [
    "simulate_own_images",
    "simulate_subject",
    "preprocess_subject",
    "preprocess_stimuli",
    "cache_latents",
]
THIRD = dict.fromkeys([*FIRST_STAGES, "align", "refine", "baselines", "contact_sheet"], 1)
SUMMARIES = dict.fromkeys([*behind(["evaluate"]), "training_curves"], 1)
#: What happens, settings, what is done to the folder, jobs.
CASES: dict[str, tuple[dict, Callable[[Path], None], Counter]] = {
    "nothing": ({}, nothing, Counter()),
    "`git checkout` or `touch` of all code": ({}, touch_all_code, Counter()),
    "all code laid out anew, other docstrings, no comments": ({}, rewrite_all_code, Counter()),
    "order of keys in YAML": ({}, reverse_keys, Counter()),
    "logic of how settings are read (`config/__init__.py`)": ({}, more_logic("config/__init__.py"), Counter()),
    "logic of logs and records (`records/record.py`)": ({}, more_logic("records/record.py"), Counter()),
    "logic of fetching (`fetching/nsd.py`)": ({}, more_logic("fetching/nsd.py"), Counter()),
    "logic of one page (`report/data_card.py`)": ({}, more_logic("report/data_card.py"), behind(["data_card"])),
    "logic of the evaluation (`evaluation/evaluate.py`)": (
        {},
        more_logic("evaluation/evaluate.py"),
        behind(["evaluate"]),
    ),
    "a metric more (`evaluation/metrics.py`)": (
        {},
        more_logic("evaluation/metrics.py"),
        behind(["baselines"]) + Counter(["response_map", "training_curves"]),
    ),
    "logic of sampling (`sampling.py`)": ({}, more_logic("sampling.py"), behind(["baselines", *SAMPLE])),
    "logic of alignment (`data/alignment.py`)": (
        {},
        more_logic("data/alignment.py"),
        behind(["align_space", "baselines", "calibrate", "pretrain", "refine", *SAMPLE]),
    ),
    "logic of the networks (`models/guiding.py`)": (
        {},
        more_logic("models/guiding.py"),
        behind(["calibrate", "baselines", "pretrain", "refine", *SAMPLE]),
    ),
    "logic of preprocessing (`data/z_scores.py`)": (
        {},
        more_logic("data/z_scores.py"),
        behind(["preprocess_subject", "preprocess_stimuli"]),
    ),
    "logic of the simulation (`simulation/scenes/scene.py`)": (
        {},
        more_logic("simulation/scenes/scene.py"),
        behind(["simulate_images"]),
    ),
    "logic shared by all stages that read data (`data/rows.py`)": (
        {},
        more_logic("data/rows.py"),
        behind(["preprocess_subject", "preprocess_stimuli"]),
    ),
    "a test set more (`nsd.test_sets: [imagery]`), for one subject": (
        {"nsd": {"test_sets": ["imagery"]}},
        nothing,
        Counter({"simulate_imagery_images": 1, "simulate_imagery_subject": 1, "preprocess_test_set": 2})
        + Counter({"draw_test_set": 2, "evaluate_test_set": 2, "generalisation": 1}),
    ),
    "a subject more in `subjects.refine`": (
        {"subjects": {"pretrain": [1, 2], "refine": [1, 2, 3]}},
        nothing,
        jobs(THIRD | SUMMARIES | {"sample": 2}),
    ),
    "a subject less in `subjects.refine`": (
        {"subjects": {"pretrain": [1, 2], "refine": [1]}},
        nothing,
        jobs(SUMMARIES),
    ),
    "a subject more in `subjects.pretrain` alone": (
        {"subjects": {"pretrain": [1, 2, 3], "refine": [1, 2]}},
        nothing,
        behind(["calibrate", "align_space", "pretrain"]) + Counter([*FIRST_STAGES, "align"]),
    ),
    "device, threads, workers, checkpoints, logging": (
        {"runtime": {"device": "cpu", "threads": 2, "workers": 1, "checkpoint_interval": 3, "log_interval": 1}},
        nothing,
        Counter(),
    ),
    "sampling guidance (`sample.guidance_scale`)": (
        {"sample": {"guidance_scale": 2.0}},
        nothing,
        behind(["baselines", *SAMPLE]),
    ),
    "bootstrap samples of the metrics (`evaluate.bootstrap`)": (
        {"evaluate": {"bootstrap": 60}},
        nothing,
        behind(["evaluate"]),
    ),
    "one subject's responses deleted": ({}, deleted("data/prepared/sub-02/responses.h5"), Counter()),
    "networks deleted, and new sampling steps": (
        {"sample": {"steps": 3}},
        deleted("results/refine/sub-02/model_index.json"),
        behind(["baselines", *SAMPLE]) + Counter(refine=1, training_curves=1),
    ),
    "the scores deleted": ({}, deleted("results/metrics.csv"), behind(["evaluate"])),
    "one subject's refined reconstructions damaged": (
        {},
        damaged("results/sample/sub-02/refined.h5", flipped),
        behind(["evaluate"]) + Counter(contact_sheet=1),
    ),
    "the scores edited by hand": ({}, damaged("results/metrics.csv", flipped), Counter(["data_card", "report_scores"])),
}


KEYS = one_key_each()
