"""Pages from templates: what data bring along is shown and not run, by escapes and by what a browser may load."""

from neuropictor.report.pages import Cell, Table, write_page

PAYLOAD = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_texts_from_data_are_shown_and_nothing_runs(tmp_path):
    table = Table([PAYLOAD], [[PAYLOAD, Cell(PAYLOAD, (PAYLOAD,), "code")]])
    values = {"scores": table, "settings": table, "tested": {PAYLOAD: (PAYLOAD, PAYLOAD)}}
    write_page("comparison.html", tmp_path / "page.html", PAYLOAD, **values)
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;alert(1)") == 13
    head = text[: text.index("<title>")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\">" in head
