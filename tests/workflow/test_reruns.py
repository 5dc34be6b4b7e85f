"""What runs again: every kind of change to a finished tiny run, and exactly the jobs that a dry run plans.

The table of docs/reliability.md is made from the cases here: `pytest tests/workflow/test_reruns.py --write-table`.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

import pytest
from dry_runs import copy_workflow, done, image_files, planned, snakemake_all, variant
from rerun_cases import CASES, KEYS, ORDER, TINY, WITHOUT_CONTROLS, behind, jobs, leaves, nothing, tiny_settings
from tiny_chain import ROOT, snakemake

pytestmark = pytest.mark.workflow
ALONE = {"runtime.gpus"}  # must be the number of processes, which is changed too
TABLE = ROOT / "docs/reliability.md"


def without_controls(chain: Path, folder: Path) -> Path:
    """Copy a finished run, and make its gallery, which shows controls, as if none had been made."""
    for part in ("results", "logs", ".snakemake"):
        shutil.copytree(chain / part, folder / part)
    (folder / "data").symlink_to(chain / "data")
    snakemake(folder, "results/gallery.html", "--config", f"controls={json.dumps(WITHOUT_CONTROLS['controls'])}")
    return folder


def together(keys: Iterable[str]) -> dict:
    """Settings in which all these keys are changed."""
    return reduce(laid_over, (KEYS[key][0] for key in keys if key not in ALONE))


#: Keys that the same rules read are changed at once: each job that runs again because of them names them all.
GROUPS: dict[str, list[str]] = {}
for _key, (_, _readers) in KEYS.items():
    GROUPS.setdefault(f"read by {', '.join(_readers) or 'none'}", []).append(_key)


@pytest.fixture(scope="module")
def plans(chain, tmp_path_factory):
    """What dry runs say to all cases and to all groups of keys, planned together."""
    folder = tmp_path_factory.mktemp("reruns")
    chain = without_controls(chain, folder / "finished")
    unedited = variant(chain, folder / "unedited")
    wanted = {name: (unedited, together(keys)) for name, keys in GROUPS.items()}
    for number, (name, (settings, change, _)) in enumerate(CASES.items()):
        place = unedited
        if change is not nothing:
            place = variant(chain, folder / str(number))
            change(place)
        wanted[name] = (place, settings)
    return snakemake_all(
        {name: (place, ["-n"], settings | WITHOUT_CONTROLS, TINY) for name, (place, settings) in wanted.items()}
    )


@pytest.mark.parametrize("name", CASES)
def test_exactly_what_depends_on_a_change_runs_again(plans, name):
    assert plans[name].jobs == CASES[name][2]


@pytest.mark.parametrize("name", GROUPS)
def test_keys_run_again_what_reads_them_and_are_named_as_the_reason(plans, name):
    readers = KEYS[GROUPS[name][0]][1]
    assert plans[name].jobs == behind(readers)
    found = [
        (rule, *re.search(r"before: (.*) now: (.*)", told).groups())
        for rule, told in plans[name].reasons
        if "now: " in told
    ]
    assert {rule for rule, *_ in found} <= jobs(dict.fromkeys(readers, 1)).keys()
    assert found or not readers
    changed = laid_over(tiny_settings(), together(GROUPS[name]))
    before, now = dict(leaves(tiny_settings())), dict(leaves(changed))
    for key in GROUPS[name]:
        top = re.escape(".".join(key.split(".")[:2]))
        for _, *told in found:
            for said, value in zip(told, (before[key], now[key]), strict=True):
                assert str(value) in re.search(rf"(['\"]){top}: (.*?)\1(?:,| |$)", said)[2]


def laid_over(below: dict, above: dict) -> dict:
    """Lay settings over others, mapping by mapping."""
    mixed = {key: laid_over(below[key], above[key]) for key in below.keys() & above if isinstance(above[key], dict)}
    return {**below, **above, **mixed}


def test_the_table_in_the_documentation_is_made_from_these_cases(request):
    text = TABLE.read_text()
    begin, end = "<!-- reruns:begin -->\n", "<!-- reruns:end -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    made = f"{before}{begin}{table()}{end}{after}"
    if request.config.getoption("write_table"):
        TABLE.write_text(made)
    assert text == made, "run: python -m pytest tests/workflow/test_reruns.py -k table --write-table"


def told(counts: Counter) -> str:
    everything = behind(["simulate_images"])
    if not counts:
        return "nothing"
    if counts == everything:
        return "everything"
    missing = everything - counts
    if not counts - everything and len(missing) < len(counts) / 2:
        return f"everything but {', '.join(sorted(missing, key=ORDER.index))}"
    shown = sorted(counts.items(), key=lambda item: ORDER.index(item[0]))
    return ", ".join(f"{rule} x {count}" if count > 1 else rule for rule, count in shown)


def table() -> str:
    lines = ["| what changes | what runs again |", "|---|---|"]
    lines += [f"| {name} | {told(expected)} |" for name, (_, _, expected) in CASES.items()]
    lines += [f"| {name} | {told(expected)} |" for name, expected in OTHER_SOURCES.items()]
    groups: dict[str, list[str]] = {}
    for key, (_, readers) in KEYS.items():
        groups.setdefault(told(behind(readers)), []).append(f"`{key}`")
    lines += [f"| one of {', '.join(names)} | {runs} |" for runs, names in groups.items()]
    return "\n".join([*lines, ""])


# Sessions come one by one only where data are fetched or lie in a folder.

NSD = {"subjects": {"pretrain": [1, 2], "refine": [1, 2]}, "backbone": {"source": "miniature"}, **WITHOUT_CONTROLS}
FETCHED = {"source": "fetch", "terms_accepted": True, "endpoint": "http://127.0.0.1:9", "sessions": 2}
AFTER_SESSION = behind(["preprocess_subject", "preprocess_stimuli"])
OTHER_SOURCES = {
    "a session more of NSD, fetched (`nsd.sessions`), for two subjects": AFTER_SESSION
    + Counter(fetch_betas=2, preprocess_session=2),
    "a session more of one subject in a local folder": behind(["preprocess_subject"])
    - Counter(preprocess_subject=1, baselines=1, response_map=1),
}


def pretend(folder: Path, settings: dict) -> None:
    """Make all results exist, as far as Snakemake can tell."""
    made = [line.split("\t")[0] for line in done(folder, "-n", "--summary", settings=settings).splitlines()[1:]]
    for name in made:
        if "/" in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    done(folder, "--touch", "--forceall", settings=settings)
    for path in folder.glob("data/nsd/**/*.betas_session*"):
        if settings["nsd"]["source"] == "fetch":
            path.unlink()


def test_a_session_more_is_fetched_and_prepared_at_once(tmp_path):
    folder = copy_workflow(tmp_path)
    pretend(folder, NSD | {"nsd": FETCHED})
    assert planned(folder, NSD | {"nsd": FETCHED}) == Counter()
    found = planned(folder, NSD | {"nsd": FETCHED | {"sessions": 3}})
    assert found == OTHER_SOURCES["a session more of NSD, fetched (`nsd.sessions`), for two subjects"]


def local_betas(subject: int, session: int) -> list[str]:
    from neuropictor.nsd import keys

    return [f"data/nsd/{keys.betas(subject, session, side, 'betas_fithrf_GLMdenoise_RR')}" for side in ("lh", "rh")]


def test_a_session_more_in_a_folder_is_noticed(tmp_path):
    folder = copy_workflow(tmp_path)
    files = [f"data/nsd/{name}" for name in image_files()]
    for name in [*files, *local_betas(1, 1), *local_betas(2, 1)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    settings = NSD | {"nsd": {"source": "local"}}
    pretend(folder, settings)
    assert planned(folder, settings) == Counter()
    for name in local_betas(2, 2):
        (folder / name).touch()
    assert planned(folder, settings) == OTHER_SOURCES["a session more of one subject in a local folder"]
