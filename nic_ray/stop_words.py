"""English stop words of two libraries, read without importing these, which takes up to a second."""

import importlib
import importlib.util
import runpy
from pathlib import Path


def _listed(package: str, module: str, name: str) -> frozenset[str]:
    """Return a constant of a package's module that imports nothing; the package itself is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None  # a library that this project depends on
    files = [Path(folder, f"{module.replace('.', '/')}.py") for folder in spec.submodule_search_locations or ()]
    found = next((file for file in files if file.is_file()), None)
    values = vars(importlib.import_module(f"{package}.{module}")) if found is None else runpy.run_path(str(found))
    return frozenset(values[name])


OF_SCIKIT_LEARN = _listed("sklearn", "feature_extraction._stop_words", "ENGLISH_STOP_WORDS")
"""scikit-learn's 318, which began as those of the Glasgow Information Retrieval Group."""
OF_BM25S = _listed("bm25s", "stopwords", "STOPWORDS_EN")
"""The 33 that bm25s leaves out, which are Lucene's."""
