"""Faults of pairs: each is found where it is, and nowhere else."""

import dataclasses
import sys
import unicodedata
from pathlib import Path

import ftfy.bad_codecs  # noqa: F401  # the Windows character set as browsers read it
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.data_config import DataConfig
from nic_ray.dataset import lint
from nic_ray.dataset.broken import why_broken
from nic_ray.dataset.characters import first_control
from nic_ray.dataset.clean import parse_codes, write_clean
from nic_ray.dataset.form import AS_FOUND
from nic_ray.dataset.lint import KnownDomains, describe_finding, lint_pairs, texts_of
from nic_ray.dataset.pairs import Pair, count_pairs, index_pairs, read_pairs
from nic_ray.dataset.rules import RULES
from nic_ray.dataset.split import split_rows
from nic_ray.errors import InputError
from nic_ray.metrics.intervals import MIN_PASSAGES

ROOT = Path(__file__).parent.parent
REAL = ROOT / "../shared/data/training_pairs.jsonl"
ENOUGH = 40  # passages of a domain that is not too small


def sound_pairs(passages: int = ENOUGH, *, domain: str = "pumps", first_line: int = 1) -> list[Pair]:
    """Two questions about each passage, with the next passage as a negative; nothing is wrong with them."""
    texts = [f"The {domain} valve v{n} opens when lever l{n} is turned to mark m{n} at rest." for n in range(passages)]
    return [
        Pair(f"{ask} {domain} valve v{n}?", texts[n], domain, (texts[n - 1],), line=first_line + 2 * n + row)
        for n in range(passages)
        for row, ask in enumerate(("How do I open", "What closes"))
    ]


def found(pairs: list[Pair], max_tokens: int = 100) -> dict[str, tuple[int, ...]]:
    return {finding.code: finding.lines for finding in findings(pairs, max_tokens)}


def findings(pairs: list[Pair], max_tokens: int = 100) -> list[lint.Finding]:
    return lint_pairs(pairs, {text: len(text.split()) for text in texts_of(pairs)}, max_tokens)


def changed(line: int, **values: object) -> list[Pair]:
    """Sound pairs with one row's fields replaced."""
    return [dataclasses.replace(pair, **values) if pair.line == line else pair for pair in sound_pairs()]


PASSAGES = [pair.positive for pair in sound_pairs()[::2]]
QUERY = sound_pairs()[0].query


def test_nothing_is_found_in_sound_pairs():
    assert found(sound_pairs()) == {}


def test_two_rows_without_negatives_that_name_different_passages_are_found():
    pairs = [dataclasses.replace(pair, negatives=()) for pair in changed(5, query=QUERY)]
    assert found(pairs) == {"several-passages": (1, 5)}


def test_a_query_that_is_its_passage_is_found():
    assert found(changed(5, query=PASSAGES[2].upper())) == {"query-is-positive": (5,)}


def test_the_later_of_two_equal_rows_is_found():
    pairs = [*sound_pairs(), dataclasses.replace(sound_pairs()[4], negatives=(), line=200)]
    assert found(pairs) == {"duplicate-row": (200,)}


def test_the_later_of_two_nearly_equal_rows_is_found():
    query = sound_pairs()[4].query
    pairs = [*sound_pairs(), dataclasses.replace(sound_pairs()[4], query=query.upper(), line=200)]
    assert found(pairs) == {"near-duplicate-row": (200,)}


def test_the_same_question_about_another_passage_is_no_duplicate():
    pairs = [*sound_pairs(), dataclasses.replace(sound_pairs()[4], positive=PASSAGES[9], line=200)]
    assert found(pairs) == {"several-passages": (5, 200)}


def test_a_negative_that_is_the_rows_own_passage_is_found():
    assert found(changed(7, negatives=(PASSAGES[0], PASSAGES[3]))) == {"negative-is-positive": (7,)}


def test_a_negative_that_another_row_names_as_the_answer_is_found():
    pairs = changed(41, query=QUERY, negatives=(PASSAGES[0],))
    assert found(pairs) == {"negative-answers-query": (41,), "several-passages": (1, 41)}


def test_a_negative_that_is_nearly_an_answer_is_found():
    near = PASSAGES[3].replace(".", " !")
    assert found(changed(7, negatives=(near,))) == {"negative-near-positive": (7,)}


def test_passages_that_are_nearly_an_earlier_one_are_found_with_all_their_rows():
    copy = PASSAGES[3].replace("The", "THE")
    pairs = [
        Pair(f"Why does lever l3 {verb}?", copy, "pumps", line=line) for line, verb in [(211, "turn"), (212, "jam")]
    ]
    assert found([*sound_pairs(), *pairs]) == {"near-duplicate-passage": (211, 212)}
    assert findings([*sound_pairs(), *pairs])[0].detail == "1 passages are nearly one of 1 others"


def test_what_was_cut_from_one_passage_is_no_near_duplicate_of_the_others():
    words = " ".join(f"word{number}" for number in range(60))
    cut = [words.replace(f" word{number}", "") for number in (20, 40)]
    pairs = [Pair(f"what of the pump {n}?", text, "pumps", line=210 + n) for n, text in enumerate([words, *cut])]
    assert found([*sound_pairs(), *pairs]) == {"near-duplicate-passage": (211, 212)}
    known = [pairs[0], *(dataclasses.replace(pair, cut_from=words) for pair in pairs[1:])]
    assert found([*sound_pairs(), *known]) == {}


def test_a_passage_under_two_domains_is_found_where_it_stands_in_fewer_rows():
    others = sound_pairs(domain="radios", first_line=200)
    guest = [Pair(f"Why does mark m{row} stay at rest?", PASSAGES[5], "radios", line=400 + row) for row in range(3)]
    assert found([*sound_pairs(), *others, *guest[:1]]) == {"domain-conflict": (400,)}
    # three rows are more than the two at home
    assert found([*sound_pairs(), *others, *guest]) == {"domain-conflict": (11, 12)}


def test_a_passage_as_often_in_two_domains_belongs_to_the_first_by_name():
    others = sound_pairs(domain="radios", first_line=200)
    guest = [Pair(f"Why does mark m{row} stay at rest?", PASSAGES[5], "radios", line=400 + row) for row in range(2)]
    assert found([*sound_pairs(), *others, *guest]) == {"domain-conflict": (400, 401)}


def test_texts_beyond_the_limit_are_found_and_measured():
    # two passages of 21 and 25 words, a negative of 30 and a query of 18, where the limit is 17
    long = {5: "word " * 20, 7: "long " * 24}
    pairs = [
        dataclasses.replace(pair, positive=long[pair.line] + "v", negatives=("n " * 30,)) if pair.line in long else pair
        for pair in sound_pairs()
    ]
    pairs[0] = dataclasses.replace(pairs[0], query="open valve " * 9)
    (finding,) = findings(pairs, max_tokens=17)
    assert (finding.code, finding.lines) == ("cut-off", (1, 5, 7))
    assert [example.text for example in finding.examples] == [
        "query of 18 tokens",
        "positive of 21 tokens, negative of 30 tokens",
        "positive of 25 tokens, negative of 30 tokens",
    ]
    # 4, 8 and 13 too many; the 54 others are still there, since each has a second row
    share = 25 / (ENOUGH * len(PASSAGES[0].split()) + 21 + 25 + 30)
    assert finding.detail == (
        "3 of 43 passages (positives and negatives) and 1 of 80 queries have more than 17 tokens; the passages 8 more "
        f"in the median and 13 at most, {share:.1%} of all their tokens"
    )


def test_a_text_of_just_the_limit_is_read_whole():
    assert found(sound_pairs(), max_tokens=len(PASSAGES[0].split())) == {}
    assert set(found(sound_pairs(), max_tokens=len(PASSAGES[0].split()) - 1)) == {"cut-off"}


@pytest.mark.parametrize("text", ["at 90 °C", "it’s 5 mm – no more", "½ turn, ±3 µm", "Öl für Getriebe", "“stop”"])
@pytest.mark.parametrize("charset", ["latin-1", "sloppy-windows-1252"])
def test_a_text_decoded_with_the_wrong_character_set_is_found(text, charset):
    misread = text.encode().decode(charset)
    assert found(changed(3, query=f"Which valve is it {text}?")) == {}
    assert found(changed(3, query=f"Which valve is it {misread}?"))["mojibake"] == (3,)


@pytest.mark.parametrize(
    "text", ["ﬁlter ﬂow", "5 × 10³ Ω", "→ • ♦ ™ © ®", "naïve café Ångström", "10″ × 4′", "日本語 Ελλ"]
)
def test_rare_characters_are_no_mojibake(text):
    assert found(changed(3, query=f"Which valve is it {text}?")) == {}


def test_faulty_characters_are_found_in_negatives_too_and_their_place_is_shown():
    (finding,) = findings(changed(3, negatives=("x" * 50 + " turn the\x0cpage",)))
    assert (finding.code, finding.lines) == ("control-characters", (3,))
    assert finding.examples[0].text == r'negative: "xxxxxxxxxxxxxxxx turn the\x0cpage"'


def test_control_characters_are_unicodes_without_tab_and_line_ends():
    expected = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cc"}
    expected = (expected - set(map(ord, "\t\n\r"))) | {0xFFFD}
    assert {code for code in range(sys.maxunicode + 1) if first_control(chr(code)) is not None} == expected


def test_a_domain_too_small_for_an_interval_is_found():
    small = sound_pairs(ENOUGH - 1, domain="radios", first_line=200)
    (finding,) = findings([*sound_pairs(), *small])
    assert (finding.code, finding.lines) == ("small-domain", tuple(pair.line for pair in small))
    assert finding.detail == "radios has 39 passages; want 40, of which a share of 0.2 comes to 8"
    assert len(finding.examples) == 1  # the others would look the same


def test_a_domain_that_an_anomaly_detector_does_not_know_is_found():
    pairs = [*sound_pairs(), *sound_pairs(domain="radios", first_line=200)]
    known = KnownDomains("my models/m", {pairs[0].domain})
    (finding,) = lint_pairs(pairs, {}, 256, known=known)
    assert (finding.code, finding.rows, finding.lines[0]) == ("unknown-domain", len(pairs) // 2, 200)
    assert [each.text for each in finding.examples] == [f"domain radios: {finding.rows} rows"]
    assert finding.detail.endswith("python -m nic_ray.anomaly fit 'my models/m' PAIRS")
    assert lint_pairs(pairs, {}, 256, known=KnownDomains("m", {"radios", pairs[0].domain})) == []


def test_passages_that_are_nearly_the_same_do_not_make_a_domain_larger():
    text = "Put the gasket on, fit the cover and tighten its six bolts crosswise with a torque wrench to {} Nm."
    variants = [Pair(f"Which torque has model m{n}?", text.format(n), "covers", line=200 + n) for n in range(60)]
    details = {each.code: each.detail for each in findings([*sound_pairs(), *variants])}
    assert details["small-domain"].startswith("covers has 1 passages that are not nearly the same; want 40")


def test_the_smallest_sound_domain_has_enough_passages_in_each_part():
    assert lint.HELD_BACK_SHARE == DataConfig().validation_share == DataConfig().test_share
    collection = index_pairs(sound_pairs())
    parts = split_rows(collection.query, collection.positive, collection.domains, seed=0)
    for part in ("validation", "test"):
        assert len(set(collection.positive[parts == part].tolist())) == MIN_PASSAGES


BROKEN = [
    ("How do I ***?", "no word besides the question"),
    ("What is it?", "no word besides the question"),
    ("???", "no word besides the question"),
    ("How does it work?", "no word besides the question"),
    ("What don't I need?", "no word besides the question"),
    ("What are the steps to 47.?", "only numbers, single letters or parts of the manual"),
    ("How do I 3-12.4?", "only numbers, single letters or parts of the manual"),
    ("What causes page 7?", "only numbers, single letters or parts of the manual"),
    ("Where is Table 4-2b?", "only numbers, single letters or parts of the manual"),
    ("How do I fig. a-7 (cont.)?", "only numbers, single letters or parts of the manual"),
    ("What are the steps to b-3.?", "only numbers, single letters or parts of the manual"),
    ("What causes CAUTION:?", "only numbers, single letters or parts of the manual"),
    ("How do I 60 °C (140 °F)?", "only numbers, single letters or parts of the manual"),
    ("What is the 2nd?", "only numbers, single letters or parts of the manual"),
    ("Where is the unit?", "only words that fit any machine"),
    ("What are the steps to 14. general description?", "only words that fit any machine"),
    ("How do I possible solutions?", "only words that fit any machine"),
    ("How do I tyres ........... 31?", "line of a table of contents"),
    ("What causes tyres . . . . . . 31?", "line of a table of contents"),
]

NAMES_SOMETHING = [
    "How do I open the gearbox?",
    "gearbox",
    "How do I gearbox?",  # makes no sense, and still says what it is about
    "What does E5 mean?",
    "where's the 12v plug",
    "Is R-22 still sold?",
    "a/c?",
    "What is B+ on the diagram?",
    "What is on page 7 about brakes?",
    "47. wheel alignment",
    "How do I test it?",  # a deed without an object, which one passage of a small manual may answer
    "front",
    "Where do I fill?",
    "fire!",
    "P0420?",
    "pH?",
    "What does X2-11 connect to?",
    "warning lamp",
    "Why won't it start...",
    "Wo ist der Ölfilter?",
    "油圧ポンプ",
    "H₂O?",
    "Ｐ０４２０?",
]


# "Which oil?", "Change the pump", "lamp" and their like; the words of Hindi, Thai and Tamil hold vowel signs
IN_OTHER_SCRIPTS = {
    "Cyrillic": ["Какое масло?", "Замена насоса", "лампа"],
    "Greek": ["Ποιο λάδι;", "Αλλαγή αντλίας", "λυχνία"],
    "Arabic": ["أي زيت؟", "تغيير المضخة", "مِصْباح"],
    "Hebrew": ["איזה שמן?", "החלפת משאבה", "מְנוֹרָה"],
    "Devanagari": ["कौन सा तेल?", "पंप बदलें", "तेल", "बत्ती कैसे जले?", "टंकी"],
    "Tamil": ["எந்த எண்ணெய்?", "விளக்கு"],
    "Thai": ["น้ำมันอะไร", "เปลี่ยนปั๊ม", "ไฟ"],
    "Chinese": ["什么油？", "换泵", "灯"],
    "Japanese": ["どのオイルですか", "ポンプ交換", "灯"],
    "Korean": ["어떤 오일?", "펌프 교환", "등"],
}


@pytest.mark.parametrize("script", IN_OTHER_SCRIPTS)
def test_a_question_in_any_script_is_not_broken(script):
    assert [why_broken(query) for query in IN_OTHER_SCRIPTS[script]] == [None] * len(IN_OTHER_SCRIPTS[script])


@pytest.mark.parametrize("query", ["Ц?", "प?", "७ ८?", "٣", "？", "ा"])
def test_a_number_a_single_letter_or_a_sign_in_any_script_is_no_subject(query):
    assert why_broken(query) is not None


@pytest.mark.parametrize(
    "text",
    [
        "每天早晨第一次启动型号{}之前，必须从油位镜检查液压油的油位，如果低于下限，应当补充同一牌号的液压油。",
        "毎朝型式{}を最初に始動する前に、油面計で作動油の量を点検し、少ないときは同じ種類の作動油を補充してください。",
        "ทุกเช้าก่อนสตาร์ทรถรุ่น {} ครั้งแรก ให้ตรวจระดับน้ำมันไฮดรอลิก ถ้าต่ำกว่าขีดล่างให้เติมน้ำมันเกรดเดียวกัน",
        "हर सुबह मॉडल {} को पहली बार चालू करने से पहले शीशे में तेल का स्तर जाँच लें और कम होने पर उसी किस्म का तेल डालें।",
        "افحص كل صباح قبل أول تشغيل للطراز {} مستوى الزيت في الزجاجة وأضف زيتا من النوع نفسه إذا كان تحت العلامة.",
        "Утром перед первым пуском модели {} проверьте уровень масла по стеклу и, если он ниже метки, долейте масло.",
        "Κάθε πρωί πριν ξεκινήσει το μοντέλο {} ελέγξτε τη στάθμη του λαδιού και συμπληρώστε ό,τι λείπει ως το σημάδι.",
    ],
)
def test_passages_that_differ_in_one_number_are_near_duplicates_in_every_script(text):
    pairs = [
        Pair(f"Why does lever l3 {verb}?", text.format(number), "pumps", line=line)
        for line, verb, number in [(211, "turn", 40), (212, "jam", 60)]
    ]
    assert found([*sound_pairs(), *pairs]) == {"near-duplicate-passage": (212,)}


@pytest.mark.parametrize(("query", "reason"), BROKEN)
def test_a_query_without_a_subject_is_broken(query, reason):
    assert why_broken(query) == reason


@pytest.mark.parametrize("query", NAMES_SOMETHING)
def test_a_query_with_a_subject_is_not_broken(query):
    assert why_broken(query) is None


@given(st.sampled_from([query for query, _ in BROKEN[:-2]]), st.sampled_from(["gearbox", "E5", "a/c"]))
def test_a_subject_mends_a_broken_query(query, subject):
    assert why_broken(f"{subject} {query}") is None


def without_letters(text: str) -> bool:
    """Whether a text has no letter, not even within a symbol such as ㎏, which is read as kg."""
    return not any(map(str.isalpha, unicodedata.normalize("NFKC", text)))


@given(st.text(alphabet=st.characters(exclude_categories=["L"]), max_size=40).filter(without_letters))
def test_a_query_without_letters_is_broken(query):
    assert why_broken(query) is not None


@given(st.sampled_from([query for query, _ in BROKEN] + NAMES_SOMETHING))
def test_upper_case_changes_nothing(query):
    assert why_broken(query.upper()) == why_broken(query)


def test_broken_queries_are_found_and_counted_by_reason():
    pairs = changed(3, query="How do I 47.?")
    pairs[9] = dataclasses.replace(pairs[9], query="How do I 48.?")
    pairs[11] = dataclasses.replace(pairs[11], query="Where is the unit?")
    (finding,) = findings(pairs)
    assert (finding.code, finding.lines) == ("broken-query", (3, 10, 12))
    assert finding.detail == (
        "2 only numbers, single letters or parts of the manual; 1 only words that fit any machine"
    )
    assert finding.examples[2].text == '"Where is the unit?": only words that fit any machine'


def test_findings_come_in_the_order_of_the_rules_whatever_the_order_of_the_rows():
    pairs = changed(3, query="How do I 47.?", negatives=("turn\x00",))
    pairs[9] = dataclasses.replace(pairs[9], query="How do I 48.?")
    assert findings(pairs[::-1]) == findings(pairs)
    assert list(found(pairs)) == ["broken-query", "control-characters"]


def test_a_finding_is_described_with_three_examples_and_the_number_of_others():
    pairs = [
        dataclasses.replace(pair, query=f"How do I {pair.line}\x1b.?") if pair.line < 6 else pair
        for pair in sound_pairs()
    ]
    assert describe_finding(findings(pairs)[0]).splitlines() == [
        "broken-query: the query names nothing that a passage could be about",
        "  5 only numbers, single letters or parts of the manual",
        *(
            rf'  line {line}: "How do I {line}\x1b.?": only numbers, single letters or parts of the manual'
            for line in (1, 2, 3)
        ),
        "  ... and 2 more",
    ]


def test_codes_are_read_from_a_list():
    assert parse_codes("mojibake, broken-query,", "--fail-on") == ["mojibake", "broken-query"]
    assert parse_codes("", "--fail-on") == []


def test_an_unknown_code_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match=r'^--fail-on: no finding is called "broken-querys"; did you mean broken-query\?'
    ):
        parse_codes("mojibake,broken-querys", "--fail-on")
    with pytest.raises(InputError, match=rf'"x"; there are: {", ".join(RULES)}$'):
        parse_codes("x", "--fail-on")


def test_a_clean_file_holds_the_other_lines_byte_for_byte(tmp_path):
    lines = [b"\xef\xbb\xbf{1}\r\n", b"\n", b"{ 3 }\n", b"{4}\n", b"{\xc3\xa4\xe2\x80\xa8}"]
    (tmp_path / "pairs.jsonl").write_bytes(b"".join(lines))
    made = [
        lint.Finding(code, "", "", "", own, ())
        for code, own in {"broken-query": (3, 4), "duplicate-row": (4,), "mojibake": (1,)}.items()
    ]
    out = tmp_path / "clean.jsonl"
    given = tmp_path / "pairs.jsonl", [], made
    assert write_clean(*given, ["broken-query", "duplicate-row", "cut-off"], out, AS_FOUND).left_out == {
        "broken-query": 2,
        "duplicate-row": 1,
    }
    assert out.read_bytes() == b"".join([*lines[:2], lines[4]])
    with pytest.raises(InputError, match=r"clean\.jsonl: exists already; name another file"):
        write_clean(*given, [], out, AS_FOUND)
    assert out.read_bytes() == b"".join([*lines[:2], lines[4]])
    with pytest.raises(InputError, match=r"none/clean\.jsonl: cannot be written \(No such file or directory\)"):
        write_clean(*given, [], tmp_path / "none" / "clean.jsonl", AS_FOUND)


def test_the_reference_pairs_are_sound():
    assert found(read_pairs(ROOT / "data/reference/pairs.jsonl"), max_tokens=256) == {}


@pytest.mark.skipif(not REAL.is_file(), reason="the file of 4,010 public rows is not beside the repository")
def test_broken_queries_are_found_in_a_real_file():
    pairs = read_pairs(REAL)
    counts = count_pairs(pairs)
    assert (counts["rows"], counts["positives"]) == (4010, 986)
    broken = found(pairs)["broken-query"]
    assert {pair.line for pair in pairs if pair.query == "How do I ---?"} <= set(broken)
    assert 0.2 < len(broken) / len(pairs) < 0.5
