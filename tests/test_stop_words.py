"""Stop words are those of the libraries, which need not be imported for them."""

import subprocess
import sys

import bm25s.stopwords
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from nic_ray import stop_words


def test_the_words_are_those_of_the_libraries():
    assert stop_words.OF_SCIKIT_LEARN == ENGLISH_STOP_WORDS
    assert frozenset(bm25s.stopwords.STOPWORDS_EN) == stop_words.OF_BM25S


def test_reading_them_imports_neither_library():
    code = (
        "import sys, nic_ray.stop_words; print([name for name in ('sklearn', 'bm25s', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_list_that_has_moved_is_imported(monkeypatch):
    monkeypatch.setattr(stop_words.Path, "is_file", lambda self: False)
    assert stop_words._listed("bm25s", "stopwords", "STOPWORDS_EN") == stop_words.OF_BM25S
