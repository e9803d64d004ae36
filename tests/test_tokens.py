"""Token counts from the tokenizer alone, against those of the loaded model."""

import subprocess
import sys

import numpy as np
import pytest

from nic_ray import encoder
from nic_ray.errors import InputError
from nic_ray.tokens import PACKAGED_NAMES, count_tokens


def test_the_counts_and_the_limit_are_those_of_the_model(tiny_model_folder, tiny_pairs):
    texts = [tiny_pairs[0].query, "", "strange words 12.5", *(pair.positive for pair in tiny_pairs)]
    model = encoder.load(str(tiny_model_folder))
    counts, limit = count_tokens(str(tiny_model_folder), texts, 256)
    _, offsets = encoder.tokenize(model, texts, 256)
    assert [counts[text] for text in texts] == np.diff(offsets).tolist()
    assert limit == encoder.token_limit(model, 256) == 64
    assert count_tokens(str(tiny_model_folder), texts, 10)[1] == encoder.token_limit(model, 10) == 10


def test_the_packaged_model_is_read_without_a_limit_on_the_count():
    assert PACKAGED_NAMES == encoder.PACKAGED_NAMES
    for name in PACKAGED_NAMES:
        # each word is one token; two more mark the ends
        assert count_tokens(name, ["oil " * 300, "oil"], 1000) == ({"oil " * 300: 302, "oil": 3}, 256)


def test_a_folder_of_an_older_layout_is_read(tiny_model_folder, tmp_path):
    module = tmp_path / "0_Transformer"
    module.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (module / name).write_bytes((tiny_model_folder / name).read_bytes())
    assert count_tokens(str(tmp_path), ["rotor"], 256) == count_tokens(str(tiny_model_folder), ["rotor"], 256)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"holds no tokenizer\.json; name a folder that SentenceTransformer\.save wrote"
    ):
        count_tokens(str(tmp_path), [], 256)


def test_a_broken_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer \(.+\); save the model again"):
        count_tokens(str(tmp_path), [], 256)


def test_a_name_that_nobody_knows_is_refused():
    with pytest.raises(
        InputError, match=r"^no/such: no such folder, and the model hub does not give it \(.+all-MiniLM"
    ):
        count_tokens("no/such", [], 256)


def test_neither_torch_nor_transformers_is_loaded():
    code = (
        "import sys; from nic_ray.tokens import count_tokens; count_tokens('all-MiniLM-L6-v2', ['oil'], 256)\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
