"""Token counts from the tokenizer alone, against those of the loaded model."""

import http.server
import socket
import subprocess
import sys
import threading

import huggingface_hub
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray.errors import InputError
from nic_ray.model import encoder
from nic_ray.model.base import load
from nic_ray.tokens import (
    PACKAGED_NAMES,
    Prompts,
    count_tokens,
    hub_answers,
    not_on_the_hub,
    prompts_of,
    stored_prompts,
)


def test_the_counts_and_the_limit_are_those_of_the_model(tiny_model_folder, tiny_pairs):
    texts = [tiny_pairs[0].query, "", "strange words 12.5", *(pair.positive for pair in tiny_pairs)]
    model = load(str(tiny_model_folder))
    counts, limit = count_tokens(str(tiny_model_folder), texts, 256)
    _, offsets = encoder.tokenize(model, texts, 256)
    assert [counts[text] for text in texts] == np.diff(offsets).tolist()
    assert limit == encoder.token_limit(model, 256) == 64
    assert count_tokens(str(tiny_model_folder), texts, 10)[1] == encoder.token_limit(model, 10) == 10


def given_by_sentence_transformers(folder):
    """What its `encode_query` and `encode_document` put in front of a text."""
    model, seen = SentenceTransformer(str(folder), device="cpu"), []
    preprocess = model.preprocess

    def spy(texts, prompt=None, **given):
        seen.append(prompt or "")
        return preprocess(texts, prompt=prompt, **given)

    model.preprocess = spy
    model.encode_query(["hot"])
    model.encode_document(["hot"])
    return Prompts(*seen)


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({}, None),
        ({"query": "", "document": ""}, None),
        ({"query": "ask: "}, None),
        ({"document": "text: "}, None),
        ({"query": "ask: ", "document": "text: ", "passage": "other: "}, None),
        ({"query": "ask: ", "document": ""}, "query"),
        ({"query": "ask: ", "s2s": "any: "}, "s2s"),
    ],
)
def test_stored_prompts_are_those_that_sentence_transformers_puts_in_front(changed_model, prompts, default):
    folder = changed_model(prompts=prompts, default=default)
    expected = given_by_sentence_transformers(folder)
    assert prompts_of(prompts, default) == stored_prompts(str(folder)) == expected
    assert load(str(folder)).prompts == expected


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"query": "ask: ", "passage": "text: "}, None, Prompts("ask: ", "text: ")),
        ({"query": "ask: ", "document": "", "passage": "text: "}, None, Prompts("ask: ", "text: ")),
        ({"corpus": "text: "}, None, Prompts("", "text: ")),
        ({"passage": "text: ", "corpus": "other: "}, None, Prompts("", "text: ")),
        ({"any": "any: "}, "any", Prompts("any: ", "any: ")),
    ],
)
def test_prompts_that_sentence_transformers_passes_over_are_used_and_exported_where_it_looks(
    changed_model, prompts, default, expected
):
    folder = changed_model(prompts=prompts, default=default)
    loaded = load(str(folder))
    assert loaded.prompts == stored_prompts(str(folder)) == expected
    loaded.model.save(str(folder.with_name("saved")), create_model_card=False)
    assert given_by_sentence_transformers(folder.with_name("saved")) == expected


def test_the_packaged_model_is_read_without_a_limit_on_the_count():
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


@pytest.fixture
def hub(monkeypatch):
    """`hub(address)`: lets the model hub be at another address, and its client be online."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub_answers.cache_clear()
    yield lambda address: monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    hub_answers.cache_clear()


def test_a_hub_that_cannot_be_reached_is_asked_once_and_only_what_it_gave_before_is_looked_for(hub, monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **how: asked.append(how["local_files_only"]))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed below, so that nobody answers there
    hub(f"http://127.0.0.1:{port}")
    with pytest.raises(
        InputError, match=r"does not give it \(it cannot be reached, and has not given it before\); name"
    ):
        count_tokens("no/such", [], 256)
    assert asked == [True]


def test_what_is_wrong_with_a_model_that_the_hub_gave_before_is_said_when_it_cannot_be_reached(
    hub, monkeypatch, tmp_path
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    hub(f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    given = tmp_path / "models--some--model"
    for name, content in {"refs/main": "abc", "snapshots/abc/config.json": "{}"}.items():
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        (given / name).write_text(content)
    error = ImportError("needs the package einops")
    reached, rest = "it cannot be reached, and ", "; name a folder or all-MiniLM-L6-v2"
    for name, revision, reason in [
        ("some/model", None, "what it gave before cannot be used: needs the package einops"),
        ("some/model", "def", "has not given it before"),
        ("some/other", None, "has not given it before"),
        ("../no/such/../name", None, "has not given it before"),
    ]:
        assert f"({reached}{reason}){rest}" in str(not_on_the_hub(name, error, revision))


def test_a_hub_that_answers_at_all_is_asked_for_the_model(hub, monkeypatch):
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            """Say nothing."""

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **how: asked.append(how["local_files_only"]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(InputError, match=r"does not give it \(.*None"):
            count_tokens("no/such", [], 256)
        server.shutdown()
    assert asked == [False]


def test_neither_torch_nor_transformers_is_loaded():
    code = (
        "import sys; from nic_ray.tokens import count_tokens; count_tokens('all-MiniLM-L6-v2', ['oil'], 256)\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
