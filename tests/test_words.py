"""Words in many scripts: where they begin and end, what search compares of them, how many there are."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.words import _INVISIBLE, _WORD, _folded, _terms, count_words, search_terms, words

# "How often is the oil filter changed?" in each, with its words parted by people
QUESTIONS = {
    "Latin": ("How often is the oil filter changed?", "How often is the oil filter changed"),
    "Cyrillic": ("Как часто меняют масляный фильтр?", "Как часто меняют масляный фильтр"),
    "Greek": ("Κάθε πότε αλλάζει το φίλτρο λαδιού;", "Κάθε πότε αλλάζει το φίλτρο λαδιού"),
    "Arabic": ("كم مرة يُستبدل مرشح الزيت؟", "كم مرة يُستبدل مرشح الزيت"),
    "Hebrew": ("כל כמה זמן מחליפים את מסנן השמן?", "כל כמה זמן מחליפים את מסנן השמן"),
    "Devanagari": ("तेल का फ़िल्टर कितने दिन में बदलें?", "तेल का फ़िल्टर कितने दिन में बदलें"),
    "Tamil": ("எண்ணெய் வடிகட்டியை எப்போது மாற்ற வேண்டும்?", "எண்ணெய் வடிகட்டியை எப்போது மாற்ற வேண்டும்"),
    "Korean": ("오일 필터는 얼마나 자주 교환합니까?", "오일 필터는 얼마나 자주 교환합니까"),
}


@pytest.mark.parametrize("script", QUESTIONS)
def test_words_between_spaces_are_whole_in_every_script(script):
    text, parted = QUESTIONS[script]
    assert words(text) == [unicodedata.normalize("NFKC", word).casefold() for word in parted.split()]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("油泵每500小时", ["油", "泵", "每", "500", "小", "时"]),
        ("油圧ポンプのフィルター", ["油", "圧", "ポンプ", "の", "フィルター"]),
        ("น้ำมัน 3 ลิตร", ["น้", "ำ", "มั", "น", "3", "ลิ", "ต", "ร"]),
    ],
)
def test_without_spaces_a_character_with_its_signs_is_a_word(text, found):
    assert words(text) == [unicodedata.normalize("NFKC", word) for word in found]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Set the PARKING brake, then stop.", "set the parking\nbrake: then (stop)"),
        ("café", "cafe\u0301"),
        ("１２０ ＲＰＭ", "120 rpm"),
        ("hy\u00addraulic", "hydraulic"),
        ("葛\U000e0100城", "葛城"),
        ("warning \u26a0\ufe0f lamp", "warning \u26a0 lamp"),
        ("می\u200cخواهم", "میخواهم"),
        ("\u200fمضخة\u200f", "مضخة"),
    ],
)
def test_case_punctuation_and_the_way_of_writing_a_character_do_not_count(one, other):
    assert words(one) == words(other)


def test_numbers_and_contractions_are_whole_and_lines_to_fill_in_are_no_words():
    assert words("Don't exceed 3.5 bar or 1,200 rpm: ______") == ["don't", "exceed", "3.5", "bar", "or", "1,200", "rpm"]


def test_a_quotation_mark_is_no_part_of_a_word():
    assert words("the 'open' and ’Aus’ keys \"at\" 'one o'clock'") == [
        *["the", "open", "and", "aus", "keys", "at", "one", "o'clock"]
    ]


@given(st.text(max_size=60))
def test_every_letter_and_digit_is_in_a_word_and_no_space_is(text):
    found = words(text)
    assert all(found)
    assert not any(map(str.isspace, "".join(found)))
    assert not [c for c in text if c.isalpha() and c.isascii() and c.lower() not in "".join(found)]


mostly_ascii = st.text(
    st.sampled_from("aZ09_.,:;'\"- \n\x1c\x85\u3000\u200b\u00ad\u0301’é泵ไท교३") | st.characters(max_codepoint=127),
    max_size=30,
)


@given(mostly_ascii)
def test_ascii_between_spaces_is_parted_as_text_of_any_script_is(text):
    assert words(text) == _folded(_WORD.findall(_INVISIBLE.sub("", text)))
    assert search_terms(text) == _folded(_terms(text))


def test_a_search_compares_words_of_two_letters_or_more_with_their_signs():
    assert search_terms("A pump's 12 V valve") == ["pump", "12", "valve"]
    assert search_terms("तेल का फ़िल्टर") == [unicodedata.normalize("NFKC", word) for word in ("तेल", "का", "फ़िल्टर")]


def test_a_search_compares_pairs_of_characters_where_there_are_no_spaces():
    assert search_terms("液压泵 MX40泵") == ["液压", "压泵", "mx40", "泵"]
    assert search_terms("펌프의") == ["펌프", "프의"]
    assert search_terms("ไฟท้าย") == ["ไฟ", "ฟท้", "ท้า", "าย"]


@pytest.mark.parametrize("text", ["", " - ", "___", "…", "\u00ad"])
def test_nothing_is_no_word(text):
    assert (words(text), search_terms(text), count_words(text)) == ([], [], 0)


@pytest.mark.parametrize("script", QUESTIONS)
def test_a_text_between_spaces_is_as_long_as_its_words(script):
    text, parted = QUESTIONS[script]
    assert count_words(f"- {text}") == len(parted.split())


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("机油滤清器多久更换一次？", 5, 8),  # 机油 滤清器 多久 更换 一次
        ("オイルフィルターはどのくらいの頻度で交換しますか", 9, 13),
        ("ต้องเปลี่ยนไส้กรองน้ำมันบ่อยแค่ไหน", 5, 8),  # ต้อง เปลี่ยน ไส้กรอง น้ำมัน บ่อย แค่ไหน
        ("型号MX-100的泵", 3, 3),
    ],
)
def test_a_text_without_spaces_is_about_as_long_as_people_count(text, least, most):
    assert least <= count_words(text) <= most
