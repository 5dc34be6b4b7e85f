import threading

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
