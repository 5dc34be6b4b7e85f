"""Logs, progress, whole files and run records."""

import errno
import json
import logging
import os
import subprocess
import sys

import pytest

from neuropictor.config import SampleConfig
from neuropictor.records import checksums, files, log, progress, record


@pytest.fixture(autouse=True)
def _restored_logging():
    root = logging.getLogger()
    before, level, hook = list(root.handlers), root.level, sys.excepthook
    yield
    for handler in [item for item in root.handlers if item not in before]:
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook = hook


def test_log_goes_to_file_and_stderr_with_the_job_in_front(tmp_path, capsys):
    path = tmp_path / "logs" / "refine" / "sub-01.log"
    log.start_log(path)
    logging.getLogger("neuropictor.training").info("hello")
    logging.getLogger("elsewhere").info("chatter")
    assert "[refine sub-01] hello" in capsys.readouterr().err
    text = path.read_text()
    assert "neuropictor.training: hello" in text
    assert "chatter" not in text


def test_prefix_of_a_rule_without_subject(tmp_path, capsys):
    log.start_log(tmp_path / "logs" / "pretrain.log")
    logging.getLogger("neuropictor").info("x")
    assert capsys.readouterr().err == "[pretrain] x\n"


@pytest.mark.parametrize(
    ("error", "options", "shown"),
    [
        ("RuntimeError('no file x.h5')", "", "[job] no file x.h5\n"),
        ("ValueError('x\\x1b[2J.h5')", "", "[job] x\\x1b[2J.h5\n"),
        ("RuntimeError('no file x.h5')", ", debug=True", "Traceback"),
        ("TypeError('a fault')", "", "Traceback"),
        ("MemoryError()", "", "[job] MemoryError: \n"),
    ],
)
def test_uncaught_errors_show_their_message_and_leave_their_traceback_in_the_log(tmp_path, error, options, shown):
    path = tmp_path / "job.log"
    code = f"from neuropictor.records.log import start_log\nstart_log({str(path)!r}{options})\nraise {error}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == shown or (shown == "Traceback" and "Traceback" in done.stderr)
    assert "Traceback" in path.read_text()


def test_atomic_path_writes_whole_files(tmp_path):
    final = tmp_path / "deep" / "table.csv"
    with files.atomic_path(final) as temporary:
        assert temporary.parent.parent == final.parent
        assert temporary.parent.stat().st_mode & 0o777 == 0o700
        assert temporary.name == "table.csv"
        temporary.write_text("a")
        assert not final.exists()
    assert final.read_text() == "a"
    assert [item.name for item in final.parent.iterdir()] == ["table.csv"]


def test_atomic_path_gives_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    with files.atomic_path(tmp_path / "whole") as temporary:
        temporary.touch(mode=0o600)
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_links_that_others_lay_are_never_written_through(tmp_path):
    precious, final = tmp_path / "precious", tmp_path / "a.csv"
    precious.write_text("of somebody else")
    precious.chmod(0o604)
    for name in ("a.csv", f".a.{os.getpid()}.partial.csv", f".a.csv.{os.getpid()}.partial", ".a.csv.4194999.partial"):
        (tmp_path / name).symlink_to(precious)
    with files.atomic_path(final) as temporary:
        temporary.write_text("1")
    assert (precious.read_text(), final.read_text()) == ("of somebody else", "1")
    assert not final.is_symlink()
    assert final.stat().st_mode & 0o777 != 0o604


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "\u00e9" * 125 + ".csv", "[a*].csv"])
def test_whatever_may_be_a_name_may_be_written(tmp_path, name):
    with files.atomic_path(tmp_path / name) as temporary:
        temporary.write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_atomic_path_leaves_the_old_file_after_an_error(tmp_path):
    final = tmp_path / "table.csv"
    final.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(final) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert final.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_atomic_path_complains_when_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "x.csv"):
        pass


def test_progress_lines_have_count_time_left_and_values(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 1000, 11))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    log.start_log(tmp_path / "job.log", prefix="job")
    with progress.progress(100, "Training", start=50, unit="step") as bar:
        bar.advance(10, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("[job] Training: 60 of 100 steps (60 %), ")
    assert "left, loss 0.5" in lines[0]
    assert lines[-1].startswith("[job] Training: 60 of 100 steps (60 %) in ")


def test_progress_writes_no_line_before_ten_seconds(tmp_path, capsys):
    log.start_log(tmp_path / "job.log")
    assert list(progress.progress([1, 2, 3], "Counting")) == [1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "3 of 3 (100 %)" in lines[0]


def test_progress_of_steps_cannot_be_gone_through():
    with pytest.raises(TypeError, match="advance"):
        list(progress.progress(3, "Training"))


def test_time_left_counts_only_what_this_run_did(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress(100, "Training", start=80) as bar:
        assert bar.seconds_left() is None
        now[0] = 5.0
        bar.advance(10)
        assert bar.seconds_left() == 5.0


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_record_says_what_was_made_from_what(tmp_path):
    source = tmp_path / "in.bin"
    source.write_bytes(b"abc")
    path = tmp_path / "out" / "run.json"
    config = SampleConfig(steps=3)
    with record.RunRecord(path, stage="sample", config=config, seed=config.seed, inputs=[source], outputs=[]) as entry:
        entry.add(images=7)
        assert not path.exists()
    found = json.loads(path.read_text())
    assert found["stage"] == "sample"
    assert found["config"]["steps"] == 3
    assert found["results"] == {"images": 7}
    assert found["inputs"][str(source)] == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found["peak_memory_mib"] > 0
    assert "numpy" in found["versions"]
    assert {"seed", "revision", "started", "wall_seconds", "python"} <= found.keys()


def test_whoever_keeps_a_record_says_what_it_wrote(tmp_path):
    with pytest.raises(TypeError, match="outputs"):
        record.RunRecord(tmp_path / "run.json", stage="sample")


def test_no_record_of_a_stage_that_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), record.RunRecord(tmp_path / "run.json", stage="sample", outputs=[]):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ['{"outputs": []}', '{"outputs": {"a": 1}}', "[" * 10**5, "\xff", "null"])
def test_records_that_are_none_are_refused_by_name(tmp_path, text):
    (tmp_path / "a.csv").touch()
    (tmp_path / "a.run.json").write_text(text, encoding="latin-1")
    with pytest.raises(checksums.DamagedFileError, match=r"a\.run\.json is damaged: it is not the JSON"):
        checksums.verify(tmp_path / "a.csv")


def test_large_files_are_known_by_size_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "WHOLE_HASH_LIMIT", 100)
    monkeypatch.setattr(checksums, "_EDGE", 10)
    file = tmp_path / "big.bin"
    file.write_bytes(bytes(200))
    before = checksums.checksum(file)
    assert before.startswith("sha256-edges:")
    file.write_bytes(bytes(199) + b"x")
    assert checksums.checksum(file) != before


def test_a_folder_has_a_checksum_of_names_and_contents(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = checksums.checksum(tmp_path)
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert checksums.checksum(tmp_path) != before


def test_record_path():
    assert record.record_path("results/metrics.csv").as_posix() == "results/metrics.run.json"


WRITERS = {
    "h5": "import h5py, numpy; h5py.File(temporary, 'w').create_dataset('x', data=numpy.zeros(10**6))",
    "safetensors": "import numpy, safetensors.numpy as s; s.save_file({'x': numpy.zeros(10**6)}, temporary)",
    "csv": "temporary.write_bytes(bytes(10**6))",
    # Numpy's own np.save says how much it could not write, and not why.
    "npy": "import numpy; import neuropictor.data.reconstructions as r; r.write_array(temporary, numpy.zeros(10**6))",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_named_loses_nothing_and_goes_on_when_there_is_room(tmp_path, kind):
    """The limit on a file's size stands for the disk's: writes fail in the same place."""
    path = tmp_path / f"scores.{kind}"
    path.write_text("before")
    code = f"""
import resource, signal
from pathlib import Path
from neuropictor.records.files import atomic_path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def write():
    with atomic_path({str(path)!r}) as temporary:
        {WRITERS[kind]}
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
try:
    write()
except OSError as error:
    print(type(error).__name__, error)
assert Path({str(path)!r}).read_text() == "before"
assert len(list(Path({str(tmp_path)!r}).iterdir())) == 1
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
write()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"NotWrittenError [Errno 27] {path} could not be written: File too large" in done.stdout
    assert "what was there before is untouched" in done.stdout
    assert path.stat().st_size > 10**5


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_says_why_and_what_to_do(tmp_path, monkeypatch, number):
    def refuse(self, *given, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.Path, "touch", refuse)
    told = rf"a\.csv could not be written: {os.strerror(number)}\. Make"
    with pytest.raises(files.NotWrittenError, match=told), files.atomic_path(tmp_path / "a.csv") as temporary:
        temporary.write_text("1")


def test_what_killed_processes_left_is_removed_and_that_of_running_ones_is_not(tmp_path):
    dead, alive, other = (tmp_path / f".{name}.x.partial" for name in ("a.csv.4194999", "a.csv.1", "b.csv.4194999"))
    for path in (dead, alive, other):
        path.mkdir()
        (path / "half").touch()
    with files.atomic_path(tmp_path / "a.csv") as temporary:
        temporary.write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, other.name, "a.csv"]
