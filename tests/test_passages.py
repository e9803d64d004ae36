"""Passages to search in, of pairs or of a folder of manuals."""

import json

import pytest

from nic_ray.dataset.passage_files import Passage
from nic_ray.dataset.passages import read_corpus
from nic_ray.errors import InputError

LONG = "Tighten the four flange bolts crosswise with a torque wrench until the seal no longer moves."
LONGER = LONG + " Then run the pump for ten minutes and look for drops below the casing."


def test_a_folder_is_cut_at_empty_lines_and_a_heading_stays_with_what_follows(tmp_path):
    (tmp_path / "pumps").mkdir()
    (tmp_path / "pumps" / "a.md").write_text(f"# Seals\n\nFlange\n\n{LONG}\n\n\n{LONGER}\n\nTable 3\n")
    (tmp_path / "radios.txt").write_text(f"{LONG[:-1]},\r\nsaid the\r\nradio operator.\r\n\r\n{LONG}")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert read_corpus(tmp_path) == [
        Passage(f"# Seals\nFlange\n{LONG}", "pumps"),
        Passage(LONGER, "pumps"),
        Passage("Table 3", "pumps"),
        Passage(f"{LONG[:-1]}, said the radio operator.", "radios"),
        Passage(LONG, "radios"),
    ]


def test_a_paragraph_without_spaces_is_no_heading(tmp_path):
    chinese = "每天早晨第一次启动之前，必须从油位镜检查液压油的油位，低于下限时补充同一牌号的液压油。"
    thai = "ทุกเช้าก่อนสตาร์ทรถครั้งแรกให้ตรวจระดับน้ำมันไฮดรอลิกที่ช่องมองระดับถ้าต่ำกว่าขีดล่างให้เติมน้ำมันเกรดเดียวกัน"
    (tmp_path / "a.txt").write_text(
        f"液压油\n\n{chinese}\n\n{chinese}再运转三分钟。\n\nน้ำมัน\n\n{thai}", encoding="utf-8"
    )
    assert [passage.text for passage in read_corpus(tmp_path)] == [
        f"液压油\n{chinese}",
        f"{chinese}再运转三分钟。",
        f"น้ำมัน\n{thai}",
    ]


def test_a_passage_that_stands_twice_is_searched_once(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(LONG)
    assert read_corpus(tmp_path) == [Passage(LONG, "a")]


def test_pairs_give_their_answers_and_negatives_with_the_domains(tmp_path):
    rows = [
        {"query": "q1", "positive": "both", "domain": "radar"},
        {"query": "q2", "positive": "both", "domain": "hvac", "negative": "wrong"},
        *(
            {"query": f"{domain} {n}", "positive": f"{domain} {n}", "domain": domain}
            for domain in ("hvac", "radar")
            for n in (1, 2)
        ),
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {passage.text: passage.domain for passage in read_corpus(tmp_path / "p.jsonl")}
    alone = {f"{domain} {n}": domain for domain in ("hvac", "radar") for n in (1, 2)}
    assert found == alone | {"both": "hvac, radar", "wrong": "answer of no row"}


def test_what_cannot_be_searched_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; name a file of pairs, or a folder"):
        read_corpus(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no text in files that end in \.txt or \.md"):
        read_corpus(tmp_path / "empty")
    (tmp_path / "empty" / "scan.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"scan\.txt: cannot be read as UTF-8 text"):
        read_corpus(tmp_path / "empty")
