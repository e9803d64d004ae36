"""Manuals that are like no others: of other encodings, without bounds, damaged, and commands that are interrupted."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from nic_ray.errors import InputError
from nic_ray.manuals import cells, reading
from nic_ray.manuals.blocks import Block, Document
from nic_ray.manuals.extraction import extract_sections
from nic_ray.manuals.folder import find_manuals
from nic_ray.manuals.languages import language_code
from nic_ray.manuals.packing import MOST, packs, sections_of
from nic_ray.manuals.readers import read_document
from nic_ray.manuals.reading import Job, read_manual
from nic_ray.manuals.sections import Section, read_sections, write_sections
from nic_ray.manuals.sentences import sentences

TEXT = "Seals\n=====\n\nTighten the four flange bolts crosswise until the seal no longer moves.\n"
JAPANESE = "<h1>油圧ポンプ</h1><p>ポンプの圧力を確認する。フィルターを交換する。</p>"
RUSSIAN = "<h1>Насос</h1><p class='some-class-of-letters'>Проверьте давление насоса.</p>"
SECTION = {"domain": "d", "section": "Pump", "text": "It must be 5 bar."}


def texts(path: Path) -> list[str]:
    return [
        f"{each.section}|{each.text}" for each in sections_of(read_document(path), domain="d", source="", language="en")
    ]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (f'<meta charset="Shift_JIS">{JAPANESE}'.encode("shift_jis"), JAPANESE),
        (JAPANESE.encode("utf-16"), JAPANESE),
        (JAPANESE.encode("utf-32"), JAPANESE),
        # a page that can be searched for its declaration byte by byte is not in UTF-16
        (f'<meta charset="utf-16">{JAPANESE}'.encode(), JAPANESE),
        (
            "<h1>Réglage</h1><p>La pression à l’arrêt est de 5 bar, comme pour les autres pompes.</p>".encode("cp1252"),
            "Réglage|La pression à l’arrêt",
        ),
    ],
)
def test_pages_are_read_in_their_encoding(tmp_path, content, wanted):
    (tmp_path / "a.html").write_bytes(content)
    found = texts(tmp_path / "a.html")[0]
    plain = wanted.replace("<h1>", "").replace("</h1><p>", "|").replace("</p>", "")
    assert found.startswith(plain)


@pytest.mark.parametrize(("page", "encoding"), [(JAPANESE, "shift_jis"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r")])
def test_a_page_that_names_no_encoding_is_not_read_as_nonsense(tmp_path, page, encoding):
    (tmp_path / "a.html").write_bytes(page.encode(encoding))
    with pytest.raises(InputError, match=r"names no encoding, and is not UTF-8 .*name it in the page: <meta charset"):
        read_document(tmp_path / "a.html")


@pytest.mark.parametrize("name", ["punycode", "undefined", "hex"])
def test_an_encoding_that_is_none_of_texts_is_not_known(tmp_path, name):
    (tmp_path / "a.html").write_text(f'<meta charset="{name}"><p>Text</p>')
    with pytest.raises(InputError, match=f"the encoding that it names, {name} .which is not known"):
        read_document(tmp_path / "a.html")


def test_a_text_in_utf_32_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode("utf-32"))
    assert texts(tmp_path / "a.txt")[0].startswith("Seals|Tighten")


@pytest.mark.parametrize(("ending", "form"), [(".txt", "plain text"), (".rst", "reStructuredText")])
def test_a_page_that_is_named_as_a_text_is_named_for_it(tmp_path, ending, form):
    (tmp_path / f"a{ending}").write_text("<!DOCTYPE html>\n<html><p>Text</p></html>")
    with pytest.raises(InputError, match=f"holds HTML, not {form}; name it "):
        read_document(tmp_path / f"a{ending}")


def test_a_restructured_text_without_a_title_is_called_by_its_file(tmp_path):
    (tmp_path / "pumps.rst").write_text("Check the pressure.\n")
    assert read_document(tmp_path / "pumps.rst").title == "pumps"


def test_a_long_line_of_restructured_text_is_not_lost(tmp_path):
    (tmp_path / "pumps.rst").write_text("Pumps\n=====\n\n" + "Check it. " * 2000 + "\n")
    assert len(read_document(tmp_path / "pumps.rst").blocks[1].text) == 19_999


def test_lists_of_markdown_may_lie_deep_and_are_not_lost_silently(tmp_path):
    place = tmp_path / "a.md"
    place.write_text("# Deep\n\n" + "".join(f"{'  ' * depth}- word{depth}\n" for depth in range(20)))
    assert [block.text for block in read_document(place).blocks[1:]] == [f"word{depth}" for depth in range(20)]
    place.write_text("# Deep\n\n" + "> " * 300 + "x\n")
    with pytest.raises(InputError, match="deep in each other"):
        read_document(place)


@pytest.mark.parametrize("title", ["2024-02-31", "[" * 2000, "&a [x, x]", "{a: b}"])
def test_front_matter_that_names_no_title_costs_no_manual(tmp_path, title):
    (tmp_path / "a.md").write_text(f"---\ntitle: {title}\n---\n# Pumps\n\nCheck the pressure.\n")
    assert read_document(tmp_path / "a.md").title == "Pumps"


def test_a_docx_with_too_much_of_any_part_is_refused_before_it_is_unpacked(tmp_path):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("word/document.xml", "<x/>")
        with packed.open("word/styles.xml", "w", force_zip64=True) as part:
            for _ in range(65):
                part.write(b" " * 2**20)
    (tmp_path / "bomb.docx").write_bytes(held.getvalue())
    with pytest.raises(InputError, match="holds more than 64 MiB of XML; split it"):
        read_document(tmp_path / "bomb.docx")


def test_cells_that_span_everything_do_not_multiply_without_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "MOST_SPANNED", 500)
    row = '<tr><td rowspan="99" colspan="99">x</td><td>y</td></tr>'
    (tmp_path / "a.html").write_text(f"<h1>T</h1><table>{row * 40}</table>")
    assert len(read_document(tmp_path / "a.html").blocks) == 41
    monkeypatch.setattr(cells, "MOST_CELLS", 1000)
    with pytest.raises(InputError, match=r"a table of 40 rows and \d+ columns, too large to read; split it"):
        read_document(tmp_path / "a.html")


def test_a_number_of_any_length_is_text(tmp_path):
    (tmp_path / "a.txt").write_text("page " + "1" * 5000 + "\n")
    assert len(texts(tmp_path / "a.txt")) == 1


def test_texts_without_ends_or_with_nothing_but_ends_take_no_time_that_grows_with_their_square():
    block = Block("paragraph", "!?." * 30_000 + " " + "e.g. " * 30_000 + "1. " * 30_000)
    begun = time.process_time()
    cut = packs([block], "en")
    assert time.process_time() - begun < 20  # minutes before
    assert all(sum(piece.words for piece in pack) <= MOST for pack in cut)
    rows = [Block("row", "–") for _ in range(20_000)]
    packs([*rows, *(Block("row", "a word") for _ in range(200))], "en")
    assert time.process_time() - begun < 20


def test_sentences_end_after_runs_of_marks_once():
    assert sentences('Stop!!! "Now?" Go... Then on.') == ["Stop!!!", '"Now?"', "Go...", "Then on."]
    assert sentences("停止！！检查泵。。更换。") == ["停止！！", "检查泵。。", "更换。"]


def test_a_manual_that_breaks_the_packing_does_not_stop_the_others(tmp_path, monkeypatch):
    def breaks(document: Document, **_: str) -> list[Section]:
        raise ZeroDivisionError("of nothing")

    monkeypatch.setattr(reading, "sections_of", breaks)
    (tmp_path / "a.txt").write_text(TEXT)
    outcome = read_manual(Job(tmp_path / "a.txt", "a.txt", "d", "en", tmp_path))
    assert outcome.fault == (
        "is not understood (ZeroDivisionError: of nothing); leave it out, or convert it to another format"
    )


@pytest.mark.parametrize(
    "kept",
    [
        "", "[]", "{}", "[" * 100_000, '{"source": 3, "title": "", "sections": [], "notes": []}',
        '{"source": "a.txt", "title": "", "sections": [{"domain": "d", "section": "s", "text": 5}], "notes": []}',
    ],
)  # fmt: skip
def test_a_damaged_part_of_an_earlier_start_is_read_anew(tmp_path, kept):
    (tmp_path / "a.txt").write_text(TEXT)
    job = Job(tmp_path / "a.txt", "a.txt", "d", "en", tmp_path)
    whole = read_manual(job)
    (part,) = tmp_path.glob("*.json")
    assert read_manual(job).kept
    part.write_text(kept)
    assert read_manual(job) == whole


def test_a_folder_whose_name_is_not_utf_8_is_named(tmp_path):
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff"))
    try:
        place.mkdir()
    except OSError:
        pytest.skip("this file system knows UTF-8 only")
    (place / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT)
    found = find_manuals(tmp_path)
    assert [each.source for each in found.manuals] == ["b.txt"]
    assert found.faults[0].endswith("the name must be UTF-8; rename it")


def test_a_file_that_would_be_a_manual_the_next_time_is_not_written(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(InputError, match=r"out\.md: would be taken for a manual in Markdown the next time; name it"):
        extract_sections(tmp_path, tmp_path / "out.md")


def test_two_runs_do_not_write_the_same_file_at_once(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    out = tmp_path / "s.jsonl"
    parts = tmp_path / "s.jsonl.parts"
    parts.mkdir()
    with FileLock(parts / ".lock"), pytest.raises(InputError, match="another process is reading these manuals; wait"):
        extract_sections(tmp_path, out)
    extract_sections(tmp_path, out)
    assert (out.exists(), parts.exists()) == (True, False)


@pytest.mark.parametrize(
    ("given", "code"), [("de", "de"), ("EN", "en"), ("de_AT", "de"), ("pt-BR", "pt"), ("nds", "nds")]
)
def test_a_language_is_known_by_its_code(given, code):
    assert language_code(given) == code


@pytest.mark.parametrize("given", ["", "English", "d", "12", "../x"])
def test_what_is_no_code_of_a_language_is_refused(given):
    with pytest.raises(InputError, match='--language: must be a code of ISO 639, such as "en" or "de", got'):
        language_code(given)


@pytest.mark.parametrize("domain", ["a/b", "macro", " d", "a\nb"])
def test_a_section_has_no_domain_that_pairs_would_refuse(tmp_path, domain):
    (tmp_path / "s.jsonl").write_text(json.dumps(SECTION) + "\n" + json.dumps(SECTION | {"domain": domain}))
    with pytest.raises(InputError, match=r'line 2: "domain" must '):
        read_sections(tmp_path / "s.jsonl")


def test_lines_of_sections_are_parted_by_line_feeds_alone(tmp_path):
    section = Section("d", "", "", "Pump", "Check\u2028 the\u0085 pump\x0b.", None, "a\u2029b.md")
    write_sections([section, section], tmp_path / "s.jsonl")
    assert read_sections(tmp_path / "s.jsonl") == [section, section]


def all_ended(group: int) -> bool:
    """Whether no process of a group is left, after a moment."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


START = """
import sys
from nic_ray import sections, console
if __name__ == "__main__":
    console.run(sections.main)
"""


@pytest.mark.parametrize("to_all", [True, False], ids=["the terminal's group", "one process"])
def test_an_interrupted_command_ends_at_once_and_leaves_no_process(tmp_path, to_all):
    (tmp_path / "manuals").mkdir()
    for number in range(40):
        row = "".join(f"<td>cell {place} of {number}</td>" for place in range(8))
        (tmp_path / "manuals" / f"{number:02}.html").write_text(f"<h1>T</h1><table>{f'<tr>{row}</tr>' * 1500}</table>")
    (tmp_path / "start.py").write_text(START)
    command = [sys.executable, "start.py", "manuals", "--out", "s.jsonl"]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # pytest may run in the background, where children do not heed Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("s.jsonl.parts/*.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    (os.killpg if to_all else os.kill)(started.pid, signal.SIGINT)
    try:
        error = started.communicate(timeout=20)[1].decode()
        assert started.returncode == 130
        assert "the same command goes on" in error
        assert "Traceback" not in error
        assert all_ended(started.pid)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
