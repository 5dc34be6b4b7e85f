import json
import threading

import pytest

from neuropictor.fetching import manifest


def test_it_bears_many_writers_and_a_cut_line(tmp_path, caplog):
    for number in range(40):
        (tmp_path / f"key{number}").write_bytes(b"." * number)
    (tmp_path / manifest.NAME).write_text('{"key": "cut')
    threads = [
        threading.Thread(target=manifest.note, args=(tmp_path, f"key{number}", "s" * 64, "e", "md5"))
        for number in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.size for entry in manifest.read(tmp_path).values()) == list(range(40))
    assert "line 1 is cut off or damaged" in caplog.text
    manifest.note(tmp_path, "key0", "t" * 64, "e", "size")
    assert manifest.read(tmp_path)["key0"].sha256 == "t" * 64


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe{", b"\x80\x04]", b"[" * 100_000, b"null", b'{"size": "9"}', b'{"key": [1]}', b'{"sha256": null}'],
)
def test_foreign_lines_are_told_and_left_out(tmp_path, caplog, line):
    (tmp_path / "key").write_bytes(b".")
    manifest.note(tmp_path, "key", "s" * 64, "e", "md5")
    good = (tmp_path / manifest.NAME).read_bytes()
    if line.startswith(b"{"):
        line = json.dumps(json.loads(good) | json.loads(line)).encode()
    (tmp_path / manifest.NAME).write_bytes(good + line + b"\n")
    assert list(manifest.read(tmp_path)) == ["key"] and manifest.read(tmp_path)["key"].size == 1
    assert "manifest.jsonl, line 2 is cut off or damaged, and left out" in caplog.text
