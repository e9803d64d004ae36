"""What a page becomes: tables, warnings, lists, and what is no text of a manual."""

import pytest

from nic_ray.errors import InputError
from nic_ray.manuals.blocks import Block
from nic_ray.manuals.markup import document_of_html
from nic_ray.manuals.rows import row_sentences


def blocks(body: str) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in document_of_html(f"<body>{body}</body>", "file").blocks]


def rows(body: str) -> list[str]:
    found = blocks(body)
    assert {kind for kind, _ in found} <= {"row"}
    return [text for _, text in found]


def table(*lines: str, cell: str = "td") -> str:
    return "".join(
        "<tr>" + "".join(f"<{cell}>{text.strip()}</{cell}>" for text in line.split("|")) + "</tr>" for line in lines
    )


def test_a_row_is_a_sentence_with_the_heads_of_its_columns():
    heads = table("Pump pressure|Test point|Note", cell="th")
    assert rows(f"<table>{heads}{table('45 bar|MP2|', '50 bar.|MP3|cold')}</table>") == [
        "Pump pressure: 45 bar; Test point: MP2.",
        "Pump pressure: 50 bar; Test point: MP3; Note: cold.",
    ]


def test_a_row_is_named_by_its_first_cell_where_that_column_has_no_head():
    page = "<table><tr><td></td><th>Petrol</th><th>Diesel</th></tr>" + table("Idle speed|800 rpm|750 rpm") + "</table>"
    assert rows(page) == ["Idle speed – Petrol: 800 rpm; Diesel: 750 rpm."]


def test_a_table_without_heads_has_its_first_cells_before_the_others():
    assert rows(f"<table>{table('Oil:|5 l', 'Coolant|19 l|with heater')}</table>") == [
        "Oil: 5 l.",
        "Coolant: 19 l; with heater.",
    ]


def test_heads_without_a_mark_are_known_by_the_figures_below_them():
    assert rows(f"<table>{table('Item|Torque', 'Wheel nut|110 Nm', 'Sump plug|35 Nm')}</table>") == [
        "Item: Wheel nut; Torque: 110 Nm.",
        "Item: Sump plug; Torque: 35 Nm.",
    ]
    assert rows(f"<table>{table('red|stop', 'green|go')}</table>") == ["red: stop.", "green: go."]
    bold = "<tr><td><b>Lamp</b></td><td><strong>Meaning</strong></td></tr>" + table("red|stop")
    assert rows(f"<table>{bold}</table>") == ["Lamp: red; Meaning: stop."]


def test_cells_over_several_rows_and_columns_stand_in_each_of_them():
    page = (
        "<table><tr><th rowspan=2>Model</th><th colspan=2>Pressure</th></tr><tr><th>min</th><th>max</th></tr>"
        "<tr><td rowspan=2>TW-12</td><td>2 bar</td><td>3 bar</td></tr><tr><td>4 bar</td><td>5 bar</td></tr>"
        "<tr><td colspan=3>Options</td></tr><tr><td>TW-24</td><td colspan=2>not fitted at all</td></tr></table>"
    )
    assert rows(page) == [
        "Model: TW-12; Pressure, min: 2 bar; Pressure, max: 3 bar.",
        "Model: TW-12; Pressure, min: 4 bar; Pressure, max: 5 bar.",
        "Options – Model: TW-24; Pressure, min, Pressure, max: not fitted at all.",
    ]


def test_rows_of_other_readers_are_sentences_too():
    assert row_sentences([["Fault", "Remedy"], ["E1", "Reset."], ["", " "]], 1) == ["Fault: E1; Remedy: Reset."]
    assert row_sentences([["Fault", "Remedy"]], 1) == ["Fault; Remedy."]
    assert row_sentences([], 0) == []


def test_a_table_of_one_cell_or_of_tables_only_lays_out_text():
    assert blocks("<table><tr><td><p>One.</p><p>Two.</p></td></tr></table>") == [
        ("paragraph", "One."), ("paragraph", "Two."),
    ]  # fmt: skip
    inner = f"<table>{table('Item|Torque', cell='th')}{table('Nut|9 Nm')}</table>"
    assert blocks(f"<table><tr><td>Left.</td><td>{inner}</td></tr></table>") == [
        ("paragraph", "Left."), ("row", "Item: Nut; Torque: 9 Nm."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "box",
    [
        '<div class="warning"><h3 class="title">Warning</h3><p>Hot.</p></div>',
        '<div class="admonition warning"><p class="admonition-title">Warning</p><p>Hot.</p></div>',
        '<aside class="admonition warning"><p class="admonition-title">Warning</p><p>Hot.</p></aside>',
        '<div class="admonitionblock warning"><table><tr><td class="icon"><div class="title">Warning</div></td>'
        '<td class="content">Hot.</td></tr></table></div>',
        '<div class="admonitionblock warning"><table><tr><td class="icon"><i class="fa icon-warning"></i></td>'
        '<td class="content">Hot.</td></tr></table></div>',
        '<dl class="section warning"><dt>Warning</dt><dd>Hot.</dd></dl>',
        "<blockquote><p>[!WARNING]<br>Hot.</p></blockquote>",
        '<div class="alert alert-warning">Warning: Hot.</div>',
    ],
)
def test_a_box_that_warns_is_a_warning(box):
    assert blocks(f"<h1>A</h1>{box}<p>Then.</p>")[1:] == [("warning", "Warning: Hot."), ("paragraph", "Then.")]


def test_a_note_is_a_paragraph_and_a_warning_within_a_step_is_part_of_it():
    note = '<div class="note"><h3 class="title">Note</h3><p>Cold.</p><p>Dry.</p></div>'
    assert blocks(note) == [("paragraph", "Note: Cold."), ("paragraph", "Dry.")]
    step = '<ol><li>Stop.<div class="caution"><p>Hot.</p></div></li><li>Go.</li></ol>'
    found = document_of_html(step, "file").blocks
    assert found == (Block("step", "1. Stop.", 1), Block("warning", "Caution: Hot.", 1), Block("step", "2. Go.", 1))


def test_steps_keep_their_numbers_and_lists_their_depth():
    page = "<ol start=3><li><p>Stop.</p><p>Wait.</p><ol type=a><li>one<li>two</ol><li value=7>Go.<ul><li>on</ul></ol>"
    assert [(block.kind, block.text, block.level) for block in document_of_html(page, "f").blocks] == [
        ("step", "3. Stop.", 1), ("paragraph", "Wait.", 1), ("step", "a. one", 2), ("step", "b. two", 2),
        ("step", "7. Go.", 1), ("item", "on", 2),
    ]  # fmt: skip


def test_terms_stand_before_their_definitions():
    page = (
        "<dl><dt>Fault</dt><dd>No oil.</dd><dt>Why?</dt><dd><ul><li>leak</ul></dd><dt>a</dt><dt>b</dt><dd>c</dd></dl>"
    )
    assert blocks(page) == [("item", "Fault: No oil."), ("item", "Why?"), ("item", "leak"), ("item", "a, b: c")]


def test_words_are_glued_only_where_they_are_in_the_page():
    page = "<p>F6C<b>110</b>, 10<sup>-3</sup> m<sup>2</sup>, H<sub>2</sub>O<sup><a href='#fn1'>1</a></sup></p>"
    page += "<pre>run\n  this</pre><p>load-\nholding, two-\nand four-way</p>one<br>two<div>three</div>"
    assert blocks(page) == [
        ("paragraph", "F6C110, 10⁻³ m², H2O"), ("paragraph", "run this"),
        ("paragraph", "load-holding, two- and four-way"), ("paragraph", "one two"), ("paragraph", "three"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "chrome",
    [
        "<nav>Home</nav>", "<footer>Imprint</footer>", "<script>x</script>", "<header><p>Logo</p></header>",
        '<div class="navheader"><table><tr><td><a accesskey="p" href="a.html">Prev</a></td></tr></table></div>',
        '<div class="toc"><p>Table</p><a href="#a">A</a></div>', '<div class="contents topic"><p>x</p></div>',
        '<div id="titlearea"><table><tr><td>avr-libc</td><td>2.0</td></tr></table></div>',
        "<p>[<a href='a.html'>Contents</a>] [<a href='b.html'>Index</a>]</p>",
        '<div class="nav-panel"><p>Next: <a href="b.html" rel="next">B</a>, Up: <a href="i.html">T</a></p></div>',
        "<ul><li><a href='#a'>A</a></li><li><a href='#b'>B b</a></li><li>3. <a href='c.html'>C</a></li></ul>",
        '<a class="headerlink" href="#p">¶</a>', "<p hidden>not seen</p>", '<div role="navigation">Go</div>',
    ],
)  # fmt: skip
def test_what_is_no_text_of_the_manual_is_left_out(chrome):
    assert blocks(f"{chrome}<h1>A</h1>{chrome}<p>Text of it.</p>{chrome}") == [
        ("heading", "A"), ("paragraph", "Text of it."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "kept",
    [
        "<p>See <a href='#a'>next chapter</a> before you go on.</p>",
        "<ul><li><a href='http://a.example/'>A</a></li><li><a href='http://b.example/'>B</a></li>"
        "<li><a href='http://c.example/'>C</a></li></ul>",
        "<div class='contents'><p>Two pumps.</p></div>",
        "<aside><p>Beside it.</p></aside>",
        "<table><tr><td><a href='#g0'>G0</a></td><td>Rapid move</td></tr><tr><td><a href='#g1'>G1</a></td><td>Linear"
        "</td></tr><tr><td><a href='#g2'>G2</a></td><td>Arc</td></tr></table>",
    ],
)
def test_text_with_links_is_kept(kept):
    assert len(blocks(f"<h1>A</h1>{kept}")) > 1


@pytest.mark.parametrize(
    "page", ["", " ", "<!-- -->", "\ud800", "<?xml version='1.0' encoding='latin-1'?>", "<nav>x</nav>"]
)
def test_a_page_without_text_has_no_blocks(page):
    assert [block.text for block in document_of_html(page, "file").blocks if block.text != "?"] == []


def test_a_page_that_is_too_deep_is_refused_at_once():
    assert blocks("<div>" * 190 + "<p>x y</p>") == [("paragraph", "x y")]
    with pytest.raises(InputError, match="its elements lie 20,002 deep in each other, more than 200; convert it"):
        blocks("<div>" * 20_000)


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<title>Help</title><h1>Pumps</h1><h2>A</h2><p>x</p>", "Pumps"),
        ("<title>Help</title><h1>Pumps</h1><p>x</p><h1>Seals</h1>", "Help"),
        ("<h2>A</h2><h2>B</h2>", "file"),
        ("<title>Help</title><h2>A</h2><h1>Late</h1>", "Help"),
        ('<title>Help</title><h1 class="title">Book</h1><h1>A</h1><h1>B</h1>', "Book"),
    ],
)
def test_a_document_is_called_as_it_calls_itself(page, title):
    assert document_of_html(page, "file").title == title
