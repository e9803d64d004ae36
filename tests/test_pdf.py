"""The rules by which a PDF is read, one small page each, and files that cannot be read."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pypdfium2", reason="the extra manuals is not installed")
pytest.importorskip("reportlab", reason="PDFs are drawn with reportlab")

from reportlab.lib.colors import lightgrey
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from nic_ray.errors import InputError
from nic_ray.manuals.blocks import Document
from nic_ray.manuals.pdf import read_pdf
from nic_ray.manuals.readers import read_document
from tests.typeset import Style, passages_of, typeset

Draw = Callable[[Canvas], None]
FILLER = "The pump draws oil from the tank and delivers it to the valve block through a hose of steel wire."


def drawn(path: Path, *pages: Draw) -> Document:
    canvas = Canvas(str(path), pagesize=A4, invariant=1)
    for page in pages:
        page(canvas)
        canvas.showPage()
    canvas.save()
    return read_pdf(path)


def lines(
    canvas: Canvas, texts: list[str], x: float = 72, y: float = 700, font: str = "Times-Roman", size: float = 10
) -> float:
    """Draw lines of text; gives the height of the next one."""
    for text in texts:
        canvas.setFont(font, size)
        canvas.drawString(x, y, text)
        y -= 1.2 * size
    return y


def texts_of(document: Document, kind: str | None = None) -> list[str]:
    return [block.text for block in document.blocks if kind in (None, block.kind)]


def words_of(document: Document) -> str:
    return " ".join(texts_of(document))


def test_lines_become_paragraphs_by_their_distance(tmp_path):
    def page(canvas):
        y = lines(canvas, ["The pump is driven by the engine and turns with", "its crankshaft at all times."])
        lines(canvas, ["The valve block stands beside it."], y=y - 8)

    document = drawn(tmp_path / "a.pdf", page)
    assert texts_of(document) == [
        "The pump is driven by the engine and turns with its crankshaft at all times.",
        "The valve block stands beside it.",
    ]
    assert {(block.kind, block.page, block.level) for block in document.blocks} == {("paragraph", 1, 0)}


def test_lines_become_paragraphs_by_their_indent(tmp_path):
    long = "The pump is driven by the engine and turns with its crankshaft whenever it"
    texts = [long, "runs."]

    def page(canvas):
        y = 700.0
        for _ in range(3):
            y = lines(canvas, texts[:1], x=84, y=y)
            y = lines(
                canvas, ["and the valve block is fed by it through a hose that is made of steel wire,", *texts[1:]], y=y
            )

    assert len(texts_of(drawn(tmp_path / "a.pdf", page))) == 3


def test_a_paragraph_goes_on_over_the_page(tmp_path):
    full = ["The pump draws oil from the tank and delivers it to the valve block under"] * 5
    document = drawn(
        tmp_path / "a.pdf", lambda canvas: lines(canvas, full), lambda canvas: lines(canvas, ["a pressure of 40 bar."])
    )
    assert len(document.blocks) == 1
    assert document.blocks[0].text.endswith("valve block under a pressure of 40 bar.")
    assert document.blocks[0].page == 1


@pytest.mark.parametrize(
    ("known", "before", "after", "joined"),
    [
        ("The controller is new.", "Now replace the con-", "troller again.", "the controller again."),
        ("A cross-check is made.", "Then make a cross-", "check of it.", "a cross-check of it."),
        ("Nothing is known.", "Then unscrew the hou-", "sing with care.", "the housing with care."),
        ("The system is specific.", "A limit that is system-", "specific holds.", "is system-specific holds."),
        ("Nothing is known.", "It needs a 12-", "volt supply.", "a 12-volt supply."),
        ("Nothing is known.", "The in-", "and outlets leak.", "The in- and outlets leak."),
        ("Nothing is known.", "The model is TW-", "Alpha today.", "is TW-Alpha today."),
        ("Nothing is known.", "A dash -", "and more.", "A dash - and more."),
        ("Nothing is known.", "Then unscrew the hou\u00ad", "sing with care.", "the housing with care."),
    ],
)
def test_a_hyphen_at_a_line_end_goes_or_stays(tmp_path, known, before, after, joined):
    def page(canvas):
        lines(canvas, [known, before, after])

    assert joined in words_of(drawn(tmp_path / "a.pdf", page))


def test_ligatures_are_letters_and_exponents_stay_and_footnote_marks_go(tmp_path):
    def page(canvas):
        canvas.setFont("Times-Roman", 10)
        canvas.drawString(72, 700, "An area of 12 m")
        canvas.drawString(72, 688, "The supplier")
        x = canvas.stringWidth("An area of 12 m", "Times-Roman", 10)
        mark = canvas.stringWidth("The supplier", "Times-Roman", 10)
        canvas.setFont("Times-Roman", 6)
        canvas.drawString(72 + x, 704, "2")
        canvas.drawString(72 + mark, 692, "3")
        canvas.setFont("Times-Roman", 10)
        canvas.drawString(72 + x + 5.5, 700, "is enough for the \ufb01lter.")
        canvas.drawString(72 + mark + 5.5, 688, "is named in the list.")

    text = words_of(drawn(tmp_path / "a.pdf", page))
    assert "12 m² is enough" in text
    assert "The supplier is named" in text


def test_letters_without_spaces_between_words_are_parted_by_their_gaps(tmp_path):
    def page(canvas):
        x = 72.0
        canvas.setFont("Times-Roman", 10)
        for word in "The relief valve opens at forty bar".split():
            canvas.drawString(x, 700, word)
            x += canvas.stringWidth(word, "Times-Roman", 10) + 2.2

    assert words_of(drawn(tmp_path / "a.pdf", page)) == "The relief valve opens at forty bar"


@pytest.mark.parametrize("apart", [0.8, 1.2, 2.5])
def test_letters_set_apart_are_words(tmp_path, apart):
    def page(canvas):
        writer = canvas.beginText(72, 700)
        writer.setFont("Times-Roman", 10)
        writer.setCharSpace(apart)
        writer.textOut("The relief valve opens at forty bar")
        canvas.drawText(writer)

    assert words_of(drawn(tmp_path / "a.pdf", page)) == "The relief valve opens at forty bar"


def test_a_larger_line_is_a_heading_though_it_is_not_bold(tmp_path):
    def page(canvas):
        y = lines(canvas, ["Lift pump"], size=13)
        lines(canvas, [FILLER] * 3, y=y - 4)

    assert [block.kind for block in drawn(tmp_path / "a.pdf", page).blocks] == ["heading", "paragraph"]


def test_a_line_that_begins_with_a_larger_word_is_no_heading(tmp_path):
    def page(canvas):
        y = lines(canvas, [FILLER] * 3)
        writer = canvas.beginText(72, y)
        writer.setFont("Courier", 11)
        writer.textOut("const")
        writer.setFont("Times-Roman", 10)
        writer.textOut(" is used to tell the compiler that a value never changes")
        canvas.drawText(writer)
        lines(canvas, ["while the program runs."], y=y - 12)

    assert [block.kind for block in drawn(tmp_path / "a.pdf", page).blocks] == ["paragraph"]


def test_rotated_and_skewed_text_is_left_out_and_italics_are_not(tmp_path):
    def page(canvas):
        lines(canvas, [FILLER] * 3)
        for turn, place in ((90, (30, 300)), (45, (200, 400)), (180, (300, 100))):
            canvas.saveState()
            canvas.setFillColor(lightgrey)
            canvas.translate(*place)
            canvas.rotate(turn)
            canvas.drawString(0, 0, "DRAFT")
            canvas.restoreState()
        writer = canvas.beginText()
        writer.setTextTransform(1, 0, 0.21, 1, 72, 600)
        writer.textOut("Slanted words stay.")
        canvas.drawText(writer)

    document = drawn(tmp_path / "a.pdf", page)
    assert "DRAFT" not in words_of(document)
    assert "Slanted words stay." in words_of(document)
    assert "15 rotated or skewed characters were left out (watermarks, text in margins)" in document.notes


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_page_that_is_shown_rotated_is_read_as_it_is_seen(tmp_path, rotation):
    def page(canvas):
        canvas.setPageRotation(rotation)
        width, height = A4 if rotation == 180 else A4[::-1]  # of the page before it is rotated
        canvas.translate(*{90: (width, 0), 180: (width, height), 270: (0, height)}[rotation])
        canvas.rotate(rotation)
        lines(canvas, ["The first line of the page as it is seen by", "its reader, and the second one."], y=400)

    document = drawn(tmp_path / "a.pdf", page)
    assert texts_of(document) == ["The first line of the page as it is seen by its reader, and the second one."]


def test_a_page_that_stands_on_its_side_is_read_from_that_side(tmp_path):
    def page(canvas):
        canvas.translate(A4[0], 0)
        canvas.rotate(90)
        lines(
            canvas,
            ["A wide table was printed on its side, and", "its text stands so on the whole of the page."] * 2,
            y=400,
        )

    assert words_of(drawn(tmp_path / "a.pdf", page)).startswith("A wide table was printed on its side, and its text")


def test_headers_footers_and_page_numbers_go_with_odd_and_even_pages_and_roman_numbers(tmp_path):
    romans = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii"]

    def page(number):
        def draw(canvas):
            lines(canvas, ["Hydraulics" if number % 2 else "Service manual MX-40"], x=72 if number % 2 else 400, y=800)
            lines(canvas, [f"Text number {'abcdefgh'[number]} stands here alone."], y=700 - 10 * number)
            lines(canvas, [romans[number]], x=300, y=30)

        return draw

    document = drawn(tmp_path / "a.pdf", *(page(number) for number in range(8)))
    assert texts_of(document) == [f"Text number {letter} stands here alone." for letter in "abcdefgh"]
    assert "16 lines that repeat across pages were left out (headers, footers, marks)" in document.notes


def test_a_number_at_the_top_of_pages_that_does_not_count_them_stays(tmp_path):
    def page(number):
        return lambda canvas: lines(canvas, [f"{number} bolts hold the cover of part {'abcd'[number % 4]}."], y=790)

    assert len(drawn(tmp_path / "a.pdf", *(page(number) for number in (8, 3, 6, 1))).blocks) == 4


def test_contents_without_leaders_and_their_second_page_go(tmp_path):
    def contents(first):
        def draw(canvas):
            y = lines(canvas, ["Table of Contents"], font="Helvetica-Bold", size=16) if first == 1 else 700
            for number in range(first, first + 12):
                lines(canvas, [f"{number} Work on the part {number}"], y=y)
                lines(canvas, [str(2 * number)], x=500, y=y)
                y -= 14

        return draw

    document = drawn(tmp_path / "a.pdf", contents(1), contents(13), lambda canvas: lines(canvas, [FILLER] * 3))
    assert texts_of(document) == [" ".join([FILLER] * 3)]
    assert "contents or an index on pages 1-2 were left out" in document.notes


def test_two_columns_a_heading_across_them_and_a_figure_between(tmp_path):
    left = [
        "The left column is read",
        "before the right one and",
        "ends with a full stop here.",
        "It has one more line.",
    ]
    right = ["The right column comes", "after it and has as many", "lines as the other column", "has, four of them."]

    def page(canvas):
        lines(canvas, ["A Heading Across Both of the Columns"], y=760, font="Helvetica-Bold", size=16)
        for y in (720, 500):
            lines(canvas, left, y=y)
            lines(canvas, right, x=320, y=y)
        canvas.rect(72, 540, 400, 100)

    assert texts_of(drawn(tmp_path / "a.pdf", page)) == [
        "A Heading Across Both of the Columns",
        *[" ".join(left), " ".join(right)] * 2,
    ]


def test_items_and_steps_with_their_depth(tmp_path):
    def page(canvas):
        y = lines(canvas, ["Do this:"])
        y = lines(canvas, ["1. Remove the cover and keep its four screws for", "    later."], y=y)
        y = lines(canvas, ["• the upper screws,"], x=90, y=y)
        y = lines(canvas, ["• the lower screws."], x=90, y=y)
        lines(canvas, ["2. Fit the new seal."], y=y)

    document = drawn(tmp_path / "a.pdf", page)
    assert [(block.kind, block.level, block.text) for block in document.blocks] == [
        ("paragraph", 0, "Do this:"),
        ("step", 1, "1. Remove the cover and keep its four screws for later."),
        ("item", 2, "the upper screws,"),
        ("item", 2, "the lower screws."),
        ("step", 1, "2. Fit the new seal."),
    ]


@pytest.mark.parametrize("label", ["WARNING", "CAUTION:", "DANGER!", "Warning"])
def test_a_warning_and_its_label_are_one_block(tmp_path, label):
    def page(canvas):
        lines(canvas, [FILLER], y=700)
        canvas.rect(68, 620, 400, 50)
        lines(canvas, [label], y=655, font="Helvetica-Bold")
        lines(canvas, ["Hot oil can burn the skin. Let the", "engine cool before the cap is opened."], y=640)
        lines(canvas, ["1. Open the cap."], y=600)

    document = drawn(tmp_path / "a.pdf", page)
    assert [block.kind for block in document.blocks] == ["paragraph", "warning", "step"]
    name = label.rstrip(":!")
    assert (
        document.blocks[1].text == f"{name}: Hot oil can burn the skin. Let the engine cool before the cap is opened."
    )


def grid(canvas: Canvas, rows: list[list[str]], y: float, *, head: bool = True) -> None:
    """Draw a table with all its rules, 100 points a column."""
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            canvas.rect(72 + 100 * column, y - 20 * number - 20, 100, 20)
            canvas.setFont("Times-Bold" if head and number == 0 else "Times-Roman", 10)
            canvas.drawString(76 + 100 * column, y - 20 * number - 14, cell)


def test_a_row_of_a_table_is_a_sentence_and_the_next_page_has_the_same_heads(tmp_path):
    heads = ["Item", "Pump pressure", "Test point"]
    document = drawn(
        tmp_path / "a.pdf",
        lambda canvas: (lines(canvas, [FILLER]), grid(canvas, [heads, ["Lift", "45 bar", "MP2"]], 200)),
        lambda canvas: grid(canvas, [heads, ["Tilt", "40 bar", "MP3"], ["Slew", "", "MP4"]], 700),
        lambda canvas: grid(canvas, [["Steer", "35 bar", "MP5"], ["Brake", "30 bar", "MP6"]], 700, head=False),
    )
    assert texts_of(document, "row") == [
        "Item: Lift; Pump pressure: 45 bar; Test point: MP2.",
        "Item: Tilt; Pump pressure: 40 bar; Test point: MP3.",
        "Item: Slew; Test point: MP4.",
        "Item: Steer; Pump pressure: 35 bar; Test point: MP5.",
        "Item: Brake; Pump pressure: 30 bar; Test point: MP6.",
    ]


def test_a_heading_of_two_lines_is_one_and_bold_text_is_none(tmp_path):
    def page(canvas):
        y = lines(
            canvas, ["3.2 Replacement of the hydraulic", "pump of the lift circuit"], font="Helvetica-Bold", size=14
        )
        y = lines(canvas, [FILLER] * 4, y=y)
        y = lines(canvas, ["Never open a line under pressure."], font="Times-Bold", y=y - 6)
        lines(canvas, [FILLER] * 4, y=y - 6)

    document = drawn(tmp_path / "a.pdf", page)
    headings = [(block.text, block.level) for block in document.blocks if block.kind == "heading"]
    assert headings == [("Replacement of the hydraulic pump of the lift circuit", 2)]


def test_an_outline_gives_the_levels_whatever_the_size(tmp_path):
    def page(canvas):
        y = 760.0
        for level, title in enumerate(["Pumps", "Lift pump", "Seals of the lift pump"]):
            canvas.bookmarkHorizontalAbsolute(title, y + 12)
            canvas.addOutlineEntry(f"{level + 1} {title}", title, level)
            y = lines(canvas, [f"{level + 1} {title}"], y=y, font="Times-Italic")
            y = lines(canvas, [FILLER] * 2, y=y - 4) - 10

    document = drawn(tmp_path / "a.pdf", page)
    headings = [(block.level, block.text) for block in document.blocks if block.kind == "heading"]
    assert headings == [(1, "Pumps"), (2, "Lift pump"), (3, "Seals of the lift pump")]


def test_a_listing_is_one_paragraph(tmp_path):
    def page(canvas):
        y = lines(canvas, [FILLER])
        lines(canvas, ["set pump on", "wait 30", "set pump off"], font="Courier", y=y - 8)

    assert texts_of(drawn(tmp_path / "a.pdf", page))[1] == "set pump on wait 30 set pump off"


def test_the_title_is_that_of_the_file_else_the_largest_text_else_the_name(tmp_path):
    def page(canvas):
        lines(canvas, ["Service Manual"], size=24, y=760)
        lines(canvas, [FILLER] * 3)

    def titled(title):
        def draw(canvas):
            canvas.setTitle(title)
            page(canvas)

        return draw

    assert drawn(tmp_path / "a.pdf", titled("Pump P4")).title == "Pump P4"
    assert drawn(tmp_path / "a.pdf", titled("Microsoft Word - pump_final2.doc")).title == "Service Manual"
    assert drawn(tmp_path / "pump.pdf", lambda canvas: lines(canvas, [FILLER] * 3)).title == "pump"


def test_pages_without_text_are_named(tmp_path):
    def scan(canvas):
        canvas.rect(50, 50, 400, 600, fill=1)

    def text(number):
        return lambda canvas: lines(canvas, [FILLER], y=700 - 20 * number)

    document = drawn(tmp_path / "a.pdf", text(0), text(1), scan, text(2), text(3), text(4), scan, scan, scan)
    assert document.pages == 9
    assert document.notes == ("pages 3, 7-9 hold no text (scans?); run ocrmypdf IN OUT and read OUT",)


def test_a_file_of_scans_only_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.pdf: page 1 holds no text \(scans\?\); run ocrmypdf IN OUT and read OUT"):
        drawn(tmp_path / "a.pdf", lambda canvas: canvas.rect(50, 50, 400, 600, fill=1))


def encrypted(path: Path, password: str) -> Path:
    canvas = Canvas(str(path), encrypt=StandardEncryption(password, ownerPassword="owner"))
    lines(canvas, [FILLER])
    canvas.save()
    return path


def test_a_file_without_a_password_to_open_is_read_and_another_refused(tmp_path):
    assert texts_of(read_pdf(encrypted(tmp_path / "open.pdf", ""))) == [FILLER]
    with pytest.raises(InputError, match=r"closed\.pdf: needs a password"):
        read_pdf(encrypted(tmp_path / "closed.pdf", "secret"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"Not a PDF at all, but a letter.", "is no PDF, is damaged or holds no page"),
        (b"%PDF-1.7\n" + b"\0" * 2000, "is no PDF, is damaged or holds no page"),
        (b"PK\3\4" + b"x" * 500, "is no PDF, is damaged or holds no page"),
    ],
)
def test_a_file_that_is_no_pdf_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.pdf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.pdf: {message}"):
        read_pdf(path)


def complaint_about(path: Path) -> str | None:
    """What is said of a file that cannot be read; None of one that gives blocks."""
    try:
        return None if read_pdf(path).blocks else "no blocks"
    except InputError as error:
        return str(error)


def test_a_file_cut_short_is_refused_or_read_but_breaks_nothing(tmp_path):
    path = tmp_path / "whole.pdf"
    typeset(path, passages_of("hvac")[:12], Style())
    whole = path.read_bytes()
    for share in (0.1, 0.4, 0.7, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        said = complaint_about(path)
        assert said is None or "whole.pdf" in said


def test_a_damaged_page_is_named_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.pdf"
    drawn(path, *(lambda canvas, y=y: lines(canvas, [FILLER], y=y) for y in (700, 600, 500)))
    before, *pages = path.read_bytes().split(b"/Type /Page\n")
    path.write_bytes(b"/Type /Page\n".join([before, pages[0] + b"/Type /Gone\n" + pages[1], *pages[2:]]))
    document = read_pdf(path)
    assert texts_of(document) == [FILLER] * 2
    assert document.notes == ("page 2 cannot be read (damaged); open the file in a viewer and save it again",)
    path.write_bytes(b"/Type /Gone\n".join([before, *pages]))
    with pytest.raises(InputError, match=r"a\.pdf: pages 1-3 cannot be read; the file is damaged"):
        read_pdf(path)


def test_reading_twice_gives_the_same(tmp_path):
    typeset(tmp_path / "manual.pdf", passages_of("hvac")[:12], Style(columns=2))
    assert read_pdf(tmp_path / "manual.pdf") == read_pdf(tmp_path / "manual.pdf")


def test_bytes_changed_anywhere_break_nothing(tmp_path):
    path = tmp_path / "changed.pdf"
    typeset(path, passages_of("hvac")[:4], Style())
    whole = path.read_bytes()
    for place in range(20, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + b"\xff\x00(" + whole[place + 3 :])
        said = complaint_about(path)
        assert said is None or "changed.pdf" in said


def test_a_compressed_file_is_read_and_a_broken_one_refused(tmp_path):
    drawn(tmp_path / "a.pdf", lambda canvas: lines(canvas, [FILLER]))
    packed = tmp_path / "a.pdf.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.pdf").read_bytes()))
    assert texts_of(read_pdf(packed)) == [FILLER]
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(InputError, match=r"a\.pdf\.gz: cannot be unpacked"):
        read_pdf(packed)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pdf: cannot be read"):
        read_pdf(tmp_path / "none.pdf")


def test_numbers_and_capitals_make_headings_where_nothing_else_does(tmp_path):
    def page(canvas):
        y = 760.0
        for title in ["LIFT PUMP", "3.1 Removal of the pump", "3.2 Fitting of the pump", "TILT PUMP"]:
            y = lines(canvas, [title], y=y) - 6
            y = lines(canvas, [FILLER] * 3, y=y) - 10

    document = drawn(tmp_path / "a.pdf", page)
    headings = [block.text for block in document.blocks if block.kind == "heading"]
    assert headings == ["LIFT PUMP", "Removal of the pump", "Fitting of the pump", "TILT PUMP"]


def test_page_numbers_within_chapters_go(tmp_path):
    def page(number):
        def draw(canvas):
            lines(canvas, [FILLER], y=700 - 20 * number)
            lines(canvas, [f"{1 + number // 3}-{1 + number % 3}"], x=300, y=40)

        return draw

    document = drawn(tmp_path / "a.pdf", *(page(number) for number in range(9)))
    assert texts_of(document) == [FILLER] * 9


def test_a_table_without_rules_is_rows(tmp_path):
    table = [
        ("Item", "Pressure", "Test point"),
        ("Lift", "45 bar", "MP2"),
        ("Tilt", "40 bar", "MP3"),
        ("Slew", "", "MP4"),
    ]

    def page(canvas):
        y = lines(canvas, [FILLER] * 3) - 10
        for number, row in enumerate(table):
            for x, cell in zip((72, 190, 300), row, strict=True):
                lines(canvas, [cell], x=x, y=y, font="Times-Roman" if number else "Times-Bold")
            y -= 13
        lines(canvas, [FILLER], y=y - 10)

    document = drawn(tmp_path / "a.pdf", page)
    assert texts_of(document, "row") == [
        "Item: Lift; Pressure: 45 bar; Test point: MP2.",
        "Item: Tilt; Pressure: 40 bar; Test point: MP3.",
        "Item: Slew; Test point: MP4.",
    ]
    assert texts_of(document)[-1] == FILLER


def test_an_index_goes(tmp_path):
    def index(canvas):
        for x in (72, 220, 370):
            lines(canvas, [f"part {chr(97 + n)}{chr(97 + int(x) % 26)}, {n + 3}, {n + 9}" for n in range(20)], x=x)

    document = drawn(tmp_path / "a.pdf", lambda canvas: lines(canvas, [FILLER]), index)
    assert texts_of(document) == [FILLER]
    assert document.notes == ("contents or an index on page 2 were left out",)


SHORT = "The pump draws oil from the tank and delivers it to the valve block at forty"


def test_a_note_at_the_side_does_not_break_into_the_lines_beside_it(tmp_path):
    def page(canvas):
        lines(canvas, ["The lift pump is", "fitted to the engine", "by four bolts."], x=72, y=688)
        lines(canvas, [SHORT] * 8, x=190, y=700)

    note = "The lift pump is fitted to the engine by four bolts."
    text = texts_of(drawn(tmp_path / "a.pdf", page))
    assert note in text
    assert " ".join(part for part in text if part != note) == " ".join([SHORT] * 8)


def test_headings_at_the_side_go_before_the_text_beside_them(tmp_path):
    def page(canvas):
        y = 700.0
        for title in ["Lift pump", "Tilt pump", "Slew pump"]:
            lines(canvas, [title], x=72, y=y, font="Helvetica-Bold")
            y = lines(canvas, [SHORT] * 3 + ["bar."], x=190, y=y) - 14

    document = drawn(tmp_path / "a.pdf", page)
    text = " ".join([SHORT] * 3 + ["bar."])
    assert texts_of(document) == ["Lift pump", text, "Tilt pump", text, "Slew pump", text]
    assert [block.kind for block in document.blocks] == ["heading", "paragraph"] * 3


def test_a_file_that_cannot_be_read_is_named_once_by_the_command(tmp_path):
    path = tmp_path / "bad.pdf"
    path.write_bytes(b"%PDF-1.4\n" + b"0" * 400)
    with pytest.raises(InputError, match=r"^is no PDF, is damaged or holds no page; open it in a viewer"):
        read_document(path)
