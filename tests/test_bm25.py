"""BM25 against its formula, worked by hand."""

import math
from pathlib import Path

import bm25s
import numpy as np
import pytest

from nic_ray.dataset.pairs import read_pairs
from nic_ray.metrics.bm25 import bm25, content_words

REAL = Path(__file__).parents[2] / "shared/data/training_pairs.jsonl"

PASSAGES = ["drain the pump oil", "the pump leaks at the pump gasket", "tune an antenna"]


def test_scores_are_those_of_the_formula():
    # without stop words: [drain pump oil], [pump leaks pump gasket], [tune antenna]; 3 words on average
    scores = bm25(PASSAGES)(["pump antenna"])[0]

    def term(frequency, words, holding):
        idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return idf * frequency / (frequency + 1.5 * (1 - 0.75 + 0.75 * words / 3))

    np.testing.assert_allclose(scores, [term(1, 3, 2), term(2, 4, 2), term(1, 2, 1)], rtol=1e-5)


@pytest.mark.parametrize(
    ("query", "passages"),
    [
        ("液压泵怎么换油？", ["更换液压泵的机油。", "调整天线的方向。", "检查制动器。"]),
        ("油圧ポンプの交換", ["油圧ポンプを外します。", "アンテナを調整します。", "ブレーキを点検します。"]),
        ("펌프 교환", ["유압 펌프의 교환 방법입니다.", "안테나를 조정합니다.", "제동기를 점검합니다."]),
        ("เปลี่ยนปั๊มน้ำมัน", ["ถอดปั๊มน้ำมันออก", "ปรับเสาอากาศ", "ตรวจเบรก"]),
        ("तेल का पंप", ["तेल का पंप बदलें।", "एंटीना घुमाएँ।", "ब्रेक की जाँच करें।"]),
        ("مضخة الزيت", ["استبدل مضخة الزيت.", "اضبط الهوائي.", "افحص الفرامل."]),
        ("масляный насос", ["Замените масляный насос.", "Настройте антенну.", "Проверьте тормоза."]),
        ("αντλία λαδιού", ["Αλλάξτε την αντλία λαδιού.", "Στρέψτε την κεραία.", "Ελέγξτε τα φρένα."]),
    ],
)
def test_the_passage_that_shares_words_is_found_in_every_script(query, passages):
    scores = bm25(passages)([query])[0]
    assert scores[0] > 0
    assert scores[1:].tolist() == [0, 0]


@pytest.mark.skipif(not REAL.is_file(), reason="the file of 4,010 public rows is not beside the repository")
def test_english_words_are_those_of_the_library_itself():
    texts = [pair.positive for pair in read_pairs(REAL)]
    theirs = bm25s.tokenize(texts, return_ids=False, show_progress=False)
    # but for lines to fill in, which the library takes for words
    assert content_words(texts) == [[word for word in own if word.strip("_")] for own in theirs]


def test_words_that_no_passage_holds_score_nothing():
    assert bm25(PASSAGES)(["the", "zebra", "?"]).tolist() == [[0.0] * 3] * 3


@pytest.mark.filterwarnings("error")
def test_passages_without_a_word_are_not_found_and_no_fault():
    assert bm25(["the", "?"])(["the pump"]).tolist() == [[0.0, 0.0]]
