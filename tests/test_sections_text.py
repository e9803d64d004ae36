"""Manuals in plain text, Markdown, reStructuredText and Word: what the forms of each become."""

import itertools
from pathlib import Path

import pytest

from nic_ray.manuals.blocks import Block, Document
from nic_ray.manuals.readers import read_document


def read(tmp_path: Path, ending: str, text: str) -> Document:
    path = tmp_path / f"manual{ending}"
    path.write_text(text, encoding="utf-8")
    return read_document(path)


def blocks(document: Document) -> list[tuple[str, str, int]]:
    return [(block.kind, block.text, block.level) for block in document.blocks]


def test_headings_of_plain_text_are_underlined_numbered_or_in_capitals(tmp_path):
    text = """
PUMPS AND VALVES

1 General

The pump delivers oil to both axles, and its valve
opens at 45 bar.

1.1 Relief valve

It lies below the cover.

2 Seals

=====
Rings
=====

Small rings
-----------
They are blue.
"""
    assert blocks(read(tmp_path, ".txt", text)) == [
        ("heading", "PUMPS AND VALVES", 1), ("heading", "1 General", 2),
        ("paragraph", "The pump delivers oil to both axles, and its valve opens at 45 bar.", 0),
        ("heading", "1.1 Relief valve", 3), ("paragraph", "It lies below the cover.", 0), ("heading", "2 Seals", 2),
        ("heading", "Rings", 4), ("heading", "Small rings", 5), ("paragraph", "They are blue.", 0),
    ]  # fmt: skip


def test_steps_items_warnings_and_tables_of_plain_text(tmp_path):
    text = """
WARNING
Hot oil burns. Wait until
it has cooled.

1. Remove the cover
   with both screws.
2) Lift it.
   - gently
   - slowly
3. Done.

Item        Torque
----------  ------
Wheel nut   110 Nm
Sump plug   35 Nm

| Lamp | Meaning |
|------|---------|
| red  | stop    |
| green| go      |

12
"""
    assert blocks(read(tmp_path, ".txt", text)) == [
        ("paragraph", "WARNING: Hot oil burns. Wait until it has cooled.", 0),
        ("step", "1. Remove the cover with both screws.", 1), ("step", "2) Lift it.", 1), ("item", "gently", 2),
        ("item", "slowly", 2), ("step", "3. Done.", 1),
        ("row", "Item: Wheel nut; Torque: 110 Nm.", 0), ("row", "Item: Sump plug; Torque: 35 Nm.", 0),
        ("row", "Lamp: red; Meaning: stop.", 0), ("row", "Lamp: green; Meaning: go.", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("last", "first", "joined"),
    [
        ("The pump delivers oil to both of the axles at", "once, and more.", True),
        ("The pump delivers oil to the front and rear", "TW-12 axles.", True),
        ("The pump delivers oil to all axles at once.", "Then it stops.", False),
        ("Short line", "Then it stops.", False),
        ("The pump delivers oil to both of the axles at", "1. Remove it.", False),
    ],
)
def test_a_paragraph_goes_on_over_the_end_of_a_page(tmp_path, last, first, joined):
    found = read(tmp_path, ".txt", f"Here it is said how the pump works.\n\n{last}\n\n\f\n{first}\n")
    assert (f"{last} {first}" in [block.text for block in found.blocks]) == joined


def test_markdown_has_front_matter_tables_boxes_and_html(tmp_path):
    text = """---
title: "Pumps: all of them"
---
# Seals {#seals}

> [!WARNING]
> Hot oil.

!!! danger "High pressure"
    Stop first.

    Then wait.

:::note
Cold oil.
:::

1. Stop.
2. Go.
   * slowly

| Item | Torque |
|---|---|
| Nut | 9 Nm |

<table><tr><th>Lamp</th><th>Means</th></tr><tr><td>red</td><td>stop</td></tr></table>

![a picture](a.png) See [the list](b.md) of `codes`.
"""
    document = read(tmp_path, ".md", text)
    assert document.title == "Pumps: all of them"
    assert blocks(document) == [
        ("heading", "Seals", 1), ("warning", "Warning: Hot oil.", 0), ("warning", "Danger: Stop first.", 0),
        ("warning", "Then wait.", 0), ("paragraph", "Note: Cold oil.", 0), ("step", "1. Stop.", 1),
        ("step", "2. Go.", 1), ("item", "slowly", 2), ("row", "Item: Nut; Torque: 9 Nm.", 0),
        ("row", "Lamp: red; Means: stop.", 0), ("paragraph", "See the list of codes.", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("---\ntitle: Pumps\n---\n", "Pumps"), ("+++\ntitle = 'Pumps'\n+++\n", "Pumps"), ("", "A"),
        ("---\ntitle: [\n---\n", "A"), ("---\nother: x\n---\n", "A"),
    ],
)  # fmt: skip
def test_a_file_of_markdown_is_called_by_its_front_matter_or_its_only_first_heading(tmp_path, front, title):
    assert read(tmp_path, ".md", f"{front}# A\n\ntext\n\n## B\n\ntext\n").title == title


def test_nothing_is_read_but_the_file_itself(tmp_path):
    (tmp_path / "secret.txt").write_text("the secret")
    text = f"""
Pumps
=====

.. include:: {tmp_path}/secret.txt

.. raw:: html

   <p>the secret</p>

.. literalinclude:: secret.txt

.. csv-table::
   :file: {tmp_path}/secret.txt

.. warning:: Hot oil.

Stop |now| and *wait* :ref:`here <label>`.

.. seealso:: the other book

.. unheard-of:: x

   lost

#. One
#. Two
"""
    document = read(tmp_path, ".rst", text)
    assert blocks(document) == [
        ("heading", "Pumps", 1), ("warning", "Warning: Hot oil.", 0),
        ("paragraph", "Stop |now| and wait here.", 0), ("paragraph", "See also the other book.", 0),
        ("step", "1. One", 1), ("step", "2. Two", 1),
    ]  # fmt: skip
    assert document.notes == ("directives that are not known were left out: literalinclude, unheard-of",)


def test_word_keeps_headings_lists_and_tables_and_drops_footnotes(tmp_path):
    import docx

    document = docx.Document()
    document.add_paragraph("Pump book", style="Title")
    document.add_heading("Seals", 1)
    document.add_paragraph("WARNING: hot oil.")
    for style, text in (("List Number", "Stop."), ("List Number", "Go."), ("List Bullet", "slowly")):
        document.add_paragraph(text, style=style)
    document.add_heading("Deep", 3)
    table = document.add_table(2, 3)
    for number, text in enumerate(("Item", "Min", "Max", "Nut", "9 Nm", "11 Nm")):
        table.cell(number // 3, number % 3).text = text
    table.cell(0, 1).merge(table.cell(0, 2)).text = "Torque"
    document.save(str(tmp_path / "m.docx"))
    found = read_document(tmp_path / "m.docx")
    assert found.title == "Pump book"
    assert [block for block in blocks(found) if block[0] != "heading"] == [
        ("paragraph", "WARNING: hot oil.", 0), ("step", "1. Stop.", 1), ("step", "2. Go.", 1), ("item", "slowly", 1),
        ("row", "Item: Nut; Torque: 9 Nm; Torque: 11 Nm.", 0),
    ]  # fmt: skip
    assert [block[1:] for block in blocks(found) if block[0] == "heading"] == [
        ("Pump book", 1), ("Seals", 1), ("Deep", 3),
    ]  # fmt: skip


def test_a_block_is_what_the_readers_of_all_formats_give(tmp_path):
    texts = {
        ".md": "# Seals\n\nOne two.\n",
        ".rst": "Seals\n=====\n\nOne two.\n",
        ".txt": "Seals\n=====\n\nOne two.\n",
        ".html": "<h1>Seals</h1>One two.",
    }
    found = {read(tmp_path, ending, text).blocks for ending, text in texts.items()}
    assert found == {(Block("heading", "Seals", 1), Block("paragraph", "One two."))}


def test_words_that_line_ends_have_parted_are_whole_again(tmp_path):
    lines = "The hydrau-\nlic load-\nholding valve of TW-\n12 opens two-\nand four-way xy-\nlem."
    whole = "The hydraulic load-holding valve of TW-12 opens two- and four-way {}."
    many = " ".join(map("".join, itertools.product("bcdfghjklmnpqrst", "aeiouy", "bdfgh", "o")))
    for ending in (".txt", ".md", ".rst"):
        document = read(tmp_path, ending, f"Hydraulic oil is a load.\n\n{lines}\n")
        assert document.blocks[1].text == whole.format("xy-lem")
        # where there are many words, and neither "xy" nor "lem" among them, they are parts of one
        document = read(tmp_path, ending, f"Hydraulic oil is a load: {many}.\n\n{lines}\n")
        assert document.blocks[1].text == whole.format("xylem")


def test_what_is_indented_below_a_step_is_part_of_it(tmp_path):
    text = "1. Stop.\n\n   Wait a while.\n\n   - slowly\n\n2. Go.\n\nThat is all.\n"
    assert blocks(read(tmp_path, ".txt", text)) == [
        ("step", "1. Stop.", 1), ("paragraph", "Wait a while.", 1), ("item", "slowly", 2), ("step", "2. Go.", 1),
        ("paragraph", "That is all.", 0),
    ]  # fmt: skip
