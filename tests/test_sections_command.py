"""From a folder of manuals to a file of sections: domains, repeats, resuming, and files that cannot be read."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nic_ray import console, sections
from nic_ray.dataset.pairs import read_pairs
from nic_ray.dataset.passage_files import Passage
from nic_ray.dataset.passages import read_corpus
from nic_ray.errors import InputError
from nic_ray.manuals import readers
from nic_ray.manuals.extraction import extract_sections
from nic_ray.manuals.folder import find_manuals
from nic_ray.manuals.parallel import in_processes, one_by_one
from nic_ray.manuals.sections import read_sections
from tests.rendered_manuals import WRITERS, reference_manual

REFERENCE = Path(__file__).parent.parent / "data" / "reference"
TEXT = "Seals\n=====\n\nTighten the four flange bolts crosswise until the seal no longer moves.\n"
OTHER = "Belts\n=====\n\nPress the belt between the pulleys; it gives way by nine millimetres at most.\n"
PAGE = "<title>Pumps</title><h1>Pumps</h1><p>The pump of the unit delivers oil to both axles at once.</p>"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path) -> Run:
    """Runs the command on the folder "manuals", in this process: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nic_ray.manuals.extraction.in_processes", one_by_one)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sections", "manuals", "--out", "sections.jsonl", *arguments])
        with pytest.raises(SystemExit) as ended:
            console.run(sections.main)
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run


def folder(tmp_path: Path, **files: str | bytes) -> Path:
    """Write files, named with "__" for "/", into the folder "manuals"."""
    place = tmp_path / "manuals"
    for name, content in files.items():
        path = place / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return place


def found(tmp_path: Path) -> list[tuple[str, str, str]]:
    return [(each.domain, each.source, each.section) for each in read_sections(tmp_path / "sections.jsonl")]


def test_sections_are_written_in_order_of_their_files_with_a_summary(run, tmp_path):
    folder(tmp_path, pumps__b_dot_html=PAGE, pumps__a_dot_txt=TEXT, picture_dot_png="x", notes_dot_odt="y")
    (tmp_path / "manuals" / "belts").mkdir()
    (tmp_path / "manuals" / "belts" / "c.md.gz").write_bytes(gzip.compress(OTHER.encode()))
    code, out, err = run()
    assert (code, err) == (0, "")
    assert found(tmp_path) == [
        ("belts", "belts/c.md.gz", "Belts"), ("pumps", "pumps/a.txt", "Seals"), ("pumps", "pumps/b.html", "Pumps"),
    ]  # fmt: skip
    assert "words of a section: median 12, shortest 12, longest 14; 3 of 3 have fewer than 80" in out
    assert "files of other formats, skipped: 1 .odt, 1 .png" in out
    assert "soffice --convert-to docx" in out
    assert "written: sections.jsonl, 3 sections" in out
    assert not (tmp_path / "sections.jsonl.parts").exists()
    row = json.loads((tmp_path / "sections.jsonl").read_text().splitlines()[0])
    assert list(row) == ["domain", "document", "chapter", "section", "text", "page", "source"]
    assert row["page"] is None


@pytest.mark.parametrize(
    ("domain_from", "domains"),
    [(None, ["pumps", "manuals"]), ("folder", ["pumps", "manuals"]), ("file", ["a", "b"])],
)
def test_domains_are_named_by_folders_or_files(tmp_path, domain_from, domains):
    place = folder(tmp_path, pumps__deep__a_dot_txt=TEXT, zz_dot_txt=OTHER)
    (place / "zz.txt").rename(place / "z.b.TXT")
    wanted = domains if domain_from != "file" else ["a", "z.b"]
    assert [each.domain for each in find_manuals(place, domain_from).manuals] == wanted


def test_a_flat_folder_and_a_single_file_name_domains_by_files(tmp_path):
    place = folder(tmp_path, a_dot_txt=TEXT, b_dot_html=PAGE)
    assert [each.domain for each in find_manuals(place).manuals] == ["a", "b"]
    assert [(each.domain, each.source) for each in find_manuals(place / "a.txt").manuals] == [("a", "a.txt")]


def test_a_domain_that_pairs_would_refuse_is_refused(tmp_path):
    place = folder(tmp_path, macro__a_dot_txt=TEXT)
    with pytest.raises(InputError, match=r'a\.txt: its domain would be "macro", which names a figure over all domains'):
        find_manuals(place)


def test_links_in_a_circle_and_hidden_files_do_no_harm(tmp_path):
    place = folder(tmp_path, pumps__a_dot_txt=TEXT, _dot_hidden__b_dot_txt=OTHER)
    (place / "pumps" / "again").symlink_to(place)
    (place / "lost.txt").symlink_to(place / "nowhere.txt")
    (place / "~$a.docx").write_bytes(b"x")
    listed = find_manuals(place)
    assert [each.source for each in listed.manuals] == ["pumps/a.txt"]
    assert [fault.partition(": ")[2] for fault in listed.faults] == [
        "cannot be read (No such file or directory); make it readable, or remove it"
    ]


def test_sections_that_repeat_others_are_kept_once_and_named(run, tmp_path):
    folder(tmp_path, edition1__a_dot_txt=TEXT + "\n" + OTHER, edition2__a_dot_txt=TEXT, edition2__b_dot_html=PAGE)
    code, out, _ = run()
    assert code == 0
    assert found(tmp_path) == [
        ("edition1", "edition1/a.txt", "Seals"), ("edition1", "edition1/a.txt", "Belts"),
        ("edition2", "edition2/b.html", "Pumps"),
    ]  # fmt: skip
    wanted = 'nearly repeat another section: 1, "Seals" of edition2/a.txt (as in edition1/a.txt)'
    assert f"left out, as they {wanted}" in out


def encrypted() -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600


def zipped(tmp_path: Path, **members: str) -> bytes:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as packed:
        for name, text in members.items():
            packed.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return (tmp_path / "made.zip").read_bytes()


BAD = {
    "empty.txt": (b"", "is empty; remove it, or copy it again"),
    "empty.docx": (b"", "is empty; remove it, or copy it again"),
    "really.html": (b"%PDF-1.7\n...", "holds a PDF, not HTML; name it *.pdf"),
    "really.txt": (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "holds a picture, not plain text; name it *.png"),
    "locked.docx": (encrypted(), "holds an old Word file, or one that is encrypted, not DOCX; save it anew"),
    "binary.txt": (b"ab\0\1\2" * 99, "holds no text (there are zero bytes in it); remove it, or name it by what it is"),
    "binary.html": (b"ab\0\1\2" * 99, "holds no HTML (there are zero bytes in it)"),
    "damaged.docx": (b"PK\x03\x04 and then nothing", "is damaged (File is not a zip file); copy it again"),
    "text.docx": (b"just text", "is no DOCX, or a damaged one; copy it again, or name it by what it is"),
    "text.pdf": (b"just text", "is no PDF, or a damaged one; copy it again, or name it by what it is"),
    "cyrillic.txt": ("Насос подаёт масло".encode("cp1251"), "is not UTF-8 (byte 0xcd at position 1); convert it"),
    "broken.md": ("Die Öldüse".encode() + b" \xff", "is not UTF-8 (byte 0xff at position 14); convert it"),
    "damaged.txt.gz": (gzip.compress(TEXT.encode())[:-9], "is a damaged gzip file ("),
    "no.html.gz": (b"no gzip at all", "is a damaged gzip file (Not a gzipped file"),
    "named.html": (b"<meta charset='ascii-9'>\xff\xfe", "is not in the encoding that it names, ascii-9"),
    "utf.html": (b'<meta charset="utf-8"><p>caf\xe9</p>', "is not in the encoding that it names, utf-8 (byte 0xe9 at"),
}


def test_files_that_cannot_be_read_are_named_and_the_others_are_read(run, tmp_path):
    place = folder(tmp_path, good__a_dot_txt=TEXT)
    for name, (content, _) in BAD.items():
        (place / name).write_bytes(content)
    (place / "zip.docx").write_bytes(zipped(tmp_path, mimetype="x"))
    (place / "odd.docx").write_bytes(zipped(tmp_path, word__document_dot_xml="<unclosed"))
    code, out, err = run()
    assert code == 0
    assert found(tmp_path) == [("good", "good/a.txt", "Seals")]
    assert "written: sections.jsonl, 1 sections" in out
    complaints = dict(line.strip().split(": ", 1) for line in err.splitlines()[1:])
    for name, (_, message) in BAD.items():
        assert complaints.pop(name).startswith(message), name
    assert complaints.pop("zip.docx").startswith("is a zip file, but none of Word")
    assert complaints.pop("odd.docx").startswith("is damaged, or DOCX of an")
    assert complaints == {}
    assert "Traceback" not in err


@pytest.mark.parametrize("name", BAD)
def test_a_folder_without_a_manual_that_can_be_used_ends_with_2(run, tmp_path, name):
    (folder(tmp_path, x_dot_css="") / name).write_bytes(BAD[name][0])
    code, _, err = run()
    assert code == 2
    assert f"manuals: none of the manuals could be used\n  {name}: {BAD[name][1]}" in err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["manuals"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "manuals: no such file or folder; name a folder of manuals"),
        ({"a_dot_css": "x"}, "manuals: holds no manuals; known are .html, .htm, .xhtml, .md, .markdown, .mkd, .rst"),
        ({"a_dot_html": "<nav>Home</nav>"}, "a.html: holds no text"),
        ({"a_dot_md": "# Only\n\n## headings\n"}, "a.md: holds no text"),
    ],
)
def test_a_place_without_manuals_is_refused(run, tmp_path, files, message):
    folder(tmp_path, **files)
    code, _, err = run()
    assert code == 2
    assert message in err


def test_a_file_that_exists_is_not_overwritten(run, tmp_path):
    folder(tmp_path, a_dot_txt=TEXT)
    (tmp_path / "sections.jsonl").write_text("mine")
    code, _, err = run()
    assert (code, err) == (2, "error: sections.jsonl: exists already; name another file with --out\n")


def test_a_file_beyond_all_bounds_is_not_loaded(run, tmp_path, monkeypatch):
    place = folder(tmp_path, a_dot_txt=TEXT)
    with (place / "huge.html").open("wb") as file:
        file.truncate(500 * 2**20)
    (place / "bomb.html.gz").write_bytes(gzip.compress(b" " * (65 * 2**20)))
    loaded = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: loaded.append(path.name) or whole(path))
    code, _, err = run()
    assert code == 0
    assert "huge.html: is of 500 MiB, more than the 64 MiB of HTML; split it" in err
    assert "bomb.html.gz: unpacks to more than 64 MiB; split it" in err
    assert loaded == ["a.txt"]


def test_an_unreadable_file_and_folder_are_named(run, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    place = folder(tmp_path, a_dot_txt=TEXT, b_dot_txt=OTHER, c__d_dot_txt=OTHER)
    (place / "b.txt").chmod(0)
    (place / "c").chmod(0)
    code, _, err = run()
    (place / "c").chmod(0o700)
    assert code == 0
    assert "b.txt: cannot be read (Permission denied); make it readable" in err


def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(run, tmp_path, monkeypatch):
    folder(tmp_path, a_dot_txt=TEXT, b_dot_html=PAGE)
    monkeypatch.setitem(sys.modules, "nic_ray.manuals.html", None)
    code, _, err = run()
    assert code == 0
    assert "b.html: HTML needs the package nic_ray.manuals.html; install it with: pip install -c" in err


def test_a_second_start_goes_on_where_the_first_was_interrupted(tmp_path, monkeypatch, capsys):
    place = folder(tmp_path, a_dot_txt=TEXT, b_dot_txt=OTHER, c_dot_html=PAGE)
    extract_sections(place, tmp_path / "whole.jsonl")

    def killed(function, inputs, died, /):
        for number, result in one_by_one(function, inputs, died):
            if number == 2:
                raise KeyboardInterrupt
            yield number, result

    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt, match=r"the same command goes on, with what is kept in .*out\.jsonl\.parts"):
        extract_sections(place, out, run=killed)
    assert not out.exists()
    # a file that has changed is read again, and so is one whose part is damaged
    parts = sorted((tmp_path / "out.jsonl.parts").glob("*.json"))
    assert len(parts) == 3
    parts[0].write_text("{", encoding="utf-8")
    read = []
    whole = readers.read_document
    monkeypatch.setattr("nic_ray.manuals.reading.read_document", lambda path: read.append(path) or whole(path))
    capsys.readouterr()
    extracted = extract_sections(place, out)
    assert "an earlier start has read 3, which are kept" in capsys.readouterr().out
    assert sum(outcome.kept for outcome in extracted.outcomes) == 2
    assert len(read) == 1
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_what_is_kept_depends_on_the_file_and_the_settings(tmp_path, monkeypatch):
    place = folder(tmp_path, a_dot_txt=TEXT)

    def parts_of(**settings: str) -> set[str]:
        def stopped(function, inputs, died, /):
            yield from one_by_one(function, inputs, died)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract_sections(place, tmp_path / "out.jsonl", run=stopped, **settings)
        names = {path.name for path in (tmp_path / "out.jsonl.parts").iterdir()}
        shutil.rmtree(tmp_path / "out.jsonl.parts")
        return names

    first = parts_of()
    assert parts_of() == first
    assert parts_of(language="de") != first
    assert parts_of(domain_from="folder") != first
    monkeypatch.setattr("nic_ray.manuals.reading.VERSION", -1)
    assert parts_of() != first
    monkeypatch.undo()
    folder(tmp_path, a_dot_txt=OTHER)
    assert parts_of() != first


def _length(text: str) -> int:
    if text == "die":
        os._exit(9)
    return len(text)


def _own_pid(_: str) -> int:
    return os.getpid()


def test_processes_give_what_one_gives_and_outlive_one_that_dies():
    inputs = ["a", "bb", "die", "cccc"]
    assert dict(in_processes(_length, inputs, lambda text: -1)) == {0: 1, 1: 2, 2: -1, 3: 4}
    assert dict(one_by_one(_length, ["a", "bb"], lambda text: -1)) == {0: 1, 1: 2}


def _large(_: int) -> bytes:
    return bytes(2**26)


def test_processes_that_are_ended_while_they_hand_over_large_results_keep_nobody_waiting(tmp_path):
    code = (
        "from nic_ray.manuals.parallel import in_processes\n"
        "import test_sections_command as here\n"
        "if __name__ == '__main__':\n"
        "    results = in_processes(here._large, range(8), here._large)\n"
        "    next(results)\n"
        "    results.close()  # as an interrupt does\n"
    )
    (tmp_path / "closed.py").write_text(code)
    (tmp_path / "temporary").mkdir()
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path / "temporary")}
    for _ in range(3):
        done = subprocess.run([sys.executable, "closed.py"], cwd=tmp_path, env=environment, timeout=60, check=False)
        assert done.returncode == 0
        assert not list((tmp_path / "temporary").iterdir())


def test_processes_end_with_the_one_that_started_them(tmp_path):
    code = (
        "import os, sys, time\n"
        "from nic_ray.manuals.parallel import in_processes\n"
        "import test_sections_command as here\n"
        "if __name__ == '__main__':\n"
        "    for number, pid in in_processes(here._own_pid, [''], lambda _: -1):\n"
        "        print(pid, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "killed.py").write_text(code)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    result = subprocess.run(
        [sys.executable, tmp_path / "killed.py"], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    child = int(result.stdout)
    for _ in range(200):
        if not Path(f"/proc/{child}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_the_same_folder_gives_the_same_bytes_in_any_number_of_processes(tmp_path):
    place = folder(tmp_path, a_dot_txt=TEXT, b_dot_html=PAGE)
    for ending, write in WRITERS.items():
        write(reference_manual("hvac"), place / f"hvac{ending}")
    extract_sections(place, tmp_path / "one.jsonl", run=one_by_one)
    extracted = extract_sections(place, tmp_path / "two.jsonl", run=in_processes)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    # the five forms of the manual are one
    assert len(extracted.sections) <= len(reference_manual("hvac").titles) + 4


def test_a_text_of_windows_is_read_with_a_note(run, tmp_path):
    folder(tmp_path, a_dot_txt=TEXT.replace("Tighten", "Within ±2 µm, tighten").encode("windows-1252"))
    code, out, _ = run()
    assert code == 0
    assert "a.txt: is not UTF-8 (byte 0xb1 at position 21) and was read as Windows-1252; if letters are wrong" in out
    assert "Within ±2 µm" in (tmp_path / "sections.jsonl").read_text(encoding="utf-8")


def test_a_file_of_sections_is_a_corpus_of_the_passages_that_pairs_are_made_of(tmp_path):
    extract_sections(folder(tmp_path, pumps__a_dot_txt=TEXT, belts__b_dot_txt=OTHER), tmp_path / "s.jsonl")
    wanted = [Passage(each.passage, each.domain) for each in read_sections(tmp_path / "s.jsonl")]
    assert read_corpus(tmp_path / "s.jsonl") == wanted
    assert wanted[0] == Passage(
        "Belts\nPress the belt between the pulleys; it gives way by nine millimetres at most.", "belts"
    )


def test_the_reference_pairs_name_passages_of_the_reference_manuals():
    passages = {
        passage.text: passage.domain for path in REFERENCE.glob("*.manual.jsonl") for passage in read_corpus(path)
    }
    pairs = read_pairs(REFERENCE / "pairs.jsonl")
    assert {pair.positive: pair.domain for pair in pairs} == passages
