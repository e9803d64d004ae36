"""Blocks are packed into sections: how long they are, what stays together, and where they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.manuals.blocks import Block, Document
from nic_ray.manuals.contents import without_contents
from nic_ray.manuals.numbering import without_numbers
from nic_ray.manuals.packing import FEWEST, MOST, sections_of
from nic_ray.manuals.sections import Section
from nic_ray.manuals.sentences import sentences
from nic_ray.words import count_words


def words(count: int, start: str = "w") -> str:
    return " ".join([start.capitalize(), *(f"{start}{number}" for number in range(count - 1))]) + "."


def many(count: int, *, each: int = 20) -> str:
    """`count` words in sentences of `each`."""
    return " ".join(words(each, chr(97 + number)) for number in range(count // each))


def packed(*blocks: Block, title: str = "Manual", language: str = "en") -> list[Section]:
    return sections_of(Document(title, blocks), domain="d", source="s", language=language)


def paragraph(count: int, **fields: object) -> Block:
    return Block("paragraph", words(count), **fields)  # type: ignore[arg-type]


def lengths(found: list[Section]) -> list[int]:
    return [count_words(section.text) for section in found]


def heading(text: str, level: int = 1) -> Block:
    return Block("heading", text, level)


def test_a_section_bears_its_heading_and_those_above_it():
    found = packed(
        paragraph(5), heading("Manual"), heading("Pumps", 2), paragraph(6), heading("Seals", 3), paragraph(7),
        heading("Brakes", 2), heading("Drums", 4), paragraph(8),
    )  # fmt: skip
    assert [(each.section, each.chapter) for each in found] == [
        ("Manual", ""), ("Pumps", ""), ("Seals", "Pumps"), ("Drums", "Brakes"),
    ]  # fmt: skip
    assert [each.document for each in found] == ["Manual"] * 4
    assert found[2].passage == f"Seals\n{words(7)}"


def test_short_text_stays_with_its_heading_and_a_heading_without_text_gives_nothing():
    found = packed(heading("A"), paragraph(20), heading("B"), heading("C"), paragraph(100))
    assert [(each.section, count_words(each.text)) for each in found] == [("A", 20), ("C", 100)]


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ([180], [180]),
        ([90, 90], [180]),
        ([100, 81], [100, 81]),
        ([90, 90, 90], [90, 180]),
        ([60, 60, 60, 60], [120, 120]),
        ([50, 50, 50, 50, 50, 50], [150, 150]),
    ],
)
def test_paragraphs_are_packed_evenly_and_cut_at_their_ends(given, want):
    found = packed(*map(paragraph, given))
    assert sorted(lengths(found)) == sorted(want)


def test_a_few_words_are_not_left_over():
    # 175 and 10 do not fit into one section, so the long paragraph is cut at the end of a sentence
    found = packed(Block("paragraph", many(175, each=25)), paragraph(10))
    assert sorted(lengths(found)) == [85, 100]
    assert all(each.text.endswith(".") for each in found)
    # 60 words are enough for a section of their own
    assert lengths(packed(Block("paragraph", many(175, each=25)), paragraph(60))) == [175, 60]


def test_a_paragraph_that_is_too_long_is_cut_at_the_ends_of_sentences():
    found = packed(Block("paragraph", many(400)))
    assert all(FEWEST <= length <= MOST for length in lengths(found))
    assert " ".join(each.text for each in found) == many(400)


def test_what_has_no_sentences_is_cut_all_the_same():
    found = packed(Block("paragraph", words(1000)))
    assert all(FEWEST <= length <= MOST for length in lengths(found))
    assert " ".join(each.text for each in found) == words(1000)


def test_a_warning_stays_with_the_steps_after_it_and_these_together():
    warning = Block("warning", f"WARNING: {many(40)}")
    steps = [Block("step", f"{number}. {words(25)}", 1) for number in (1, 2, 3, 4)]
    found = packed(paragraph(150), Block("paragraph", "Replace the seal as follows:"), warning, *steps)
    assert len(found) == 2
    assert found[1].text.startswith("Replace the seal as follows: WARNING:")
    assert found[1].text.endswith(steps[-1].text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Block("warning", words(40)), Block("step", words(60), 1)),
        (Block("warning", words(40)), Block("paragraph", words(60))),
        (Block("paragraph", f"{words(40)[:-1]}:"), Block("paragraph", words(60))),
        (Block("paragraph", f"{words(40)[:-1]}:"), Block("row", words(60))),
        (Block("paragraph", f"{words(40)[:-1]}:"), Block("item", words(60), 1)),
        (Block("paragraph", words(40)), Block("step", f"1. {words(59)}", 1)),
    ],
)
def test_what_belongs_together_is_not_cut_where_that_would_be_more_even(first, second):
    found = packed(paragraph(85), first, second, paragraph(60))
    assert [each.text.startswith(first.text) for each in found] == [False, True]
    # 125 and 120 words, if nothing spoke against it
    assert lengths(packed(paragraph(85), paragraph(40), paragraph(60), paragraph(60))) == [125, 120]


def test_a_list_that_is_too_long_is_cut_between_steps():
    steps = [Block("step", f"{number}. {many(40)}", 1) for number in range(1, 9)]
    found = packed(Block("paragraph", "Proceed as follows:"), *steps)
    assert found[0].text.startswith("Proceed as follows: 1. ")
    assert all(each.text[0].isdigit() for each in found[1:])
    assert all(FEWEST <= length <= MOST for length in lengths(found))


def test_what_stands_within_a_step_stays_with_it():
    steps = [
        Block("step", f"1. {words(70)}", 1),
        Block("step", f"2. {words(50)}", 1),
        Block("paragraph", words(40), 1),
        Block("step", f"3. {words(70)}", 1),
    ]
    found = packed(*steps)
    texts = [each.text for each in found]
    assert sum(f"{steps[1].text} {steps[2].text}" in text for text in texts) == 1


def test_entries_of_lists_are_ended_where_they_have_no_end():
    found = packed(
        Block("paragraph", "Check these:"), Block("item", "the pump", 1), Block("item", "the valve (see 3)", 1),
        Block("item", "the hose (it may leak.)", 1), Block("step", "1. Stop", 1), Block("paragraph", "by hand", 1),
        Block("step", "2. Wait!", 1), Block("paragraph", "No more", 0),
    )  # fmt: skip
    assert (
        found[0].text
        == "Check these: the pump; the valve (see 3); the hose (it may leak.) 1. Stop. by hand. 2. Wait! No more"
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["paragraph", "step", "item", "row", "warning"]), st.integers(1, 260)), max_size=14
    )
)
def test_no_word_is_lost_and_no_section_is_beyond_the_limit(given):
    blocks = [Block(kind, " ".join(f"w{n}" + "." * (n % 9 == 8) for n in range(size)) + ".") for kind, size in given]
    found = packed(*blocks)
    assert " ".join(each.text for each in found).split() == " ".join(block.text for block in blocks).split()
    assert all(1 <= length <= MOST for length in lengths(found))


def test_pages_are_those_on_which_a_section_begins():
    found = packed(paragraph(170, page=3), paragraph(170, page=5))
    assert [each.page for each in found] == [3, 5]


def test_characters_that_cannot_be_seen_are_left_out():
    found = packed(heading("Se\u00adals\x07"), Block("paragraph", "Cafe\u0301\u200b bar\x00 rest"))
    assert (found[0].section, found[0].text) == ("Seals", "Café bar rest")


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (["1. Pumps", "1.1 Seals", "1.2 Rings"], ["Pumps", "Seals", "Rings"]),
        (["Chapter 3: Pumps", "Appendix B Tables", "A.2. Cables"], ["Pumps", "Tables", "Cables"]),
        (["1 Safety", "2 Pumps", "2.1 Seals"], ["Safety", "Pumps", "Seals"]),
        (["3.2.1 pumps", "4.1.2.3 Seals"], ["pumps", "Seals"]),
        (["24 V supply", "2 Stroke engines", "3.5 mm jack"], ["24 V supply", "2 Stroke engines", "3.5 mm jack"]),
        (["A pump", "I2C bus", "P0036 Heater", "12"], ["A pump", "I2C bus", "P0036 Heater", "12"]),
    ],
)
def test_numbers_of_headings_are_left_out(given, want):
    assert without_numbers(given) == want


def test_lists_of_contents_and_indexes_are_left_out():
    kept = [heading("Pumps"), paragraph(9), heading("Contents"), Block("item", "two seals", 1), heading("V")]
    listed = [
        heading("Table of contents"), Block("item", "1.2 Pumps .... 7", 1), Block("item", "Contents", 1),
        heading("- v -"), Block("item", "valve : pumps.h", 1),
    ]  # fmt: skip
    assert without_contents([*listed, *kept]) == kept


@pytest.mark.parametrize(
    ("text", "language", "want"),
    [
        ("Stop. Wait 3 min. Then go.", "en", ["Stop.", "Wait 3 min. Then go."]),
        ("See Fig. 3 and No. 4. Set 5.5 bar. Go!", "en", ["See Fig. 3 and No. 4.", "Set 5.5 bar.", "Go!"]),
        ("It runs at 24 V. Stop it.", "en", ["It runs at 24 V.", "Stop it."]),
        ("Dr. J. Smith, e.g. here. Is it? Yes.", "en", ["Dr. J. Smith, e.g. here.", "Is it?", "Yes."]),
        ("Prüfen, z.B. Öl. Dann ca. 3 l füllen. Ende", "de", ["Prüfen, z.B. Öl.", "Dann ca. 3 l füllen.", "Ende"]),
        ("打开阀门。等待三分钟！继续", "zh", ["打开阀门。", "等待三分钟！", "继续"]),
        ("1. Remove it. 2. Fit it.", "en", ["1. Remove it.", "2. Fit it."]),
        ("He said “stop.” Then he left.", "en", ["He said “stop.”", "Then he left."]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, language, want):
    assert sentences(text, language) == want


@pytest.mark.parametrize(
    ("text", "language", "warns"),
    [
        ("WARNING Hot surface.", "en", True),
        ("Caution: the spring is under tension.", "en", True),
        ("NOTICE: oil spoils the lining.", "de", True),
        ("⚠ DANGER! High voltage.", "en", True),
        ("VORSICHT Quetschgefahr.", "de", True),
        ("Achtung: heiß.", "de", True),
        ("Achtung: heiß.", "fr", False),
        ("Hinweis: Das Öl ist warm.", "de", False),
        ("Warning lamps are tested at start.", "en", False),
        ("Warnings: see chapter 2.", "en", True),
        ("警告：高温。", "zh", True),
        ("Attention : surface chaude.", "fr", True),
    ],
)
def test_paragraphs_that_warn_are_known_by_their_first_word(text, language, warns):
    from nic_ray.manuals.languages import warning_start

    assert bool(warning_start(language).match(text)) == warns
