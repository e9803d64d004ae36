"""Endpoints: the client reads every honest answer, says in a sentence what is none, and finds out about prompts."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray import verify
from nic_ray.bundle import served
from nic_ray.bundle.files import file_sha256, write_bundle
from nic_ray.bundle.served import Asking, RefusedError, embedded, reached
from nic_ray.bundle.served_verification import endpoint_of, verified_endpoint
from nic_ray.errors import InputError, RunError
from tests.embeddings_server import Refusal, serving

PROMPTS = {"query": "pumps radios ", "document": "replace: "}
VECTORS = np.eye(4, dtype=np.float32)


def one_hot(body, texts):
    """A text "k" gets the k-th unit vector."""
    return np.stack([VECTORS[int(text) % 4] for text in texts])


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(served, "BACKOFF_S", 0.01)
    for name in served.KEY_NAMES:
        monkeypatch.delenv(name, raising=False)


def asked_of(server, texts=("2", "0", "1"), asking=Asking(), model="m"):  # noqa: B008
    with reached(endpoint_of(server.url, model)) as found:
        return embedded(found, texts, asking)


def test_vectors_come_in_the_order_of_the_texts_whatever_the_server_s_order_is():
    def reordered(answer):
        return answer | {"data": answer["data"][::-1]}

    with serving(one_hot, change=reordered) as server:
        assert asked_of(server).tolist() == VECTORS[[2, 0, 1]].tolist()


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_both_encodings_are_read(encoding):
    def thirds(body, texts):
        return np.full((len(texts), 3), 1 / 3, np.float32)

    with serving(thirds) as server:
        assert (asked_of(server, asking=Asking(encoding=encoding)) == np.float32(1 / 3)).all()
        assert server.asked[-1]["encoding_format"] == encoding


def test_many_texts_are_asked_in_batches():
    texts = [str(number) for number in range(2 * served.BATCH + 3)]
    with serving(one_hot) as server:
        assert asked_of(server, texts).argmax(axis=1).tolist() == [number % 4 for number in range(len(texts))]
        assert [len(body["input"]) for body in server.asked] == [served.BATCH, served.BATCH, 3]


def test_a_busy_server_is_asked_again_after_the_time_that_it_names():
    busy = [Refusal(429, "busy", Retry_After="0"), Refusal(503, "starting"), None]

    def embed(body, texts):
        if (refusal := busy.pop(0)) is not None:
            raise refusal
        return one_hot(body, texts)

    with serving(embed) as server:
        assert asked_of(server).shape == (3, 4)
        assert len(server.asked) == 3


def without(answer, place):
    return answer | {"data": [item for number, item in enumerate(answer["data"]) if number != place]}


def with_vector(answer, value):
    first, *others = answer["data"]
    return answer | {"data": [first | {"embedding": value}, *others]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda answer: without(answer, 1), "answers 3 texts with 2 vectors"),
        (lambda answer: {"object": "list"}, r'its answer has no list "data" of embeddings'),
        (lambda answer: with_vector(answer, [1.0, float("nan"), 0.0, 0.0]), "1 vectors hold NaN or infinity"),
        (lambda answer: with_vector(answer, [1.0, None, 0.0, 0.0]), "a vector is neither numbers nor base64|1 vectors"),
        (lambda answer: with_vector(answer, [1.0, 0.0]), r"vectors of several lengths \(2, 4, 4\)"),
        (lambda answer: with_vector(answer, "no base64!"), "a vector is neither numbers nor base64 of fp32"),
        (lambda answer: with_vector(answer, "AAAA"), "a vector is neither numbers nor base64 of fp32"),
        (lambda answer: with_vector(answer, {}), "a vector is neither a list of numbers nor base64"),
        (lambda answer: {"data": [item | {"index": 0} for item in answer["data"]]}, "numbers 3 vectors 0, 0, 0, want"),
        (
            lambda answer: {"data": [item | {"index": "x"} for item in answer["data"]]},
            "numbers 3 vectors x, x, x, want",
        ),
    ],
)
def test_an_answer_that_is_none_is_told_in_a_sentence(change, said):
    with serving(one_hot, change=change) as server, pytest.raises(RunError, match=said):
        asked_of(server)


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        (
            (200, "text/html", "<html><body>Welcome</body></html>"),
            InputError,
            r"answers with text/html that is no JSON",
        ),
        ((200, "application/json", "[1]"), InputError, "that is no JSON object"),
        ((404, "application/json", '{"detail": "no model"}'), InputError, r"not found \(404: no model\).*it has m"),
        ((301, "text/html", ""), InputError, "redirects to another place"),
        ((400, "application/json", '{"error": {"message": "too long"}}'), RefusedError, "400: too long"),
        ((500, "text/plain", "broken"), RunError, "5 attempts failed, the last with 500: broken"),
    ],
)
def test_a_refusal_is_told_with_what_the_server_says(raw, error, said):
    with serving(one_hot, raw=lambda _: raw) as server, pytest.raises(error, match=said):
        asked_of(server, model="other")


def test_a_token_is_taken_from_the_environment_and_asked_for(monkeypatch):
    with serving(one_hot, token="secret") as server:
        with pytest.raises(InputError, match=r"wants a token .*NIC_RAY_SERVE_TOKEN or OPENAI_API_KEY"):
            asked_of(server)
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(InputError, match=r"refuses the token .*correct the environment variable"):
            asked_of(server)
        monkeypatch.setenv("NIC_RAY_SERVE_TOKEN", "secret")
        assert asked_of(server).shape == (3, 4)


def test_nothing_that_listens_is_told():
    said = r"no endpoint answers there .*start the server, or correct --endpoint"
    with pytest.raises(InputError, match=said), reached(endpoint_of("http://127.0.0.1:1", "m")):
        pass
    with pytest.raises(InputError, match="--endpoint: must be an address such as"):
        endpoint_of("localhost", None)


# ---- prompts


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_pairs):
    """A bundle with prompts, its model, its pairs, and the Recall@5 of its test rows that was measured with it."""
    folder = tmp_path_factory.mktemp("served")
    model = SentenceTransformer(str(tiny_model()), device="cpu", prompts=dict(PROMPTS))
    pairs = folder / "pairs.jsonl"
    rows = [{"query": pair.query, "positive": pair.positive, "domain": pair.domain} for pair in tiny_pairs]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    metadata = {
        "name": "m",
        "base_model": str(tiny_model()),
        "prompts": {"query": PROMPTS["query"], "passage": PROMPTS["document"]},
        "data": {"sha256": file_sha256(pairs)},
        "split": {"protocol": "unseen_passages", "seed": 3, "validation_share": 0.25, "test_share": 0.25},
    }
    write_bundle(folder / "m", model, metadata, training_log="")
    return folder / "m", SentenceTransformer(str(folder / "m"), device="cpu"), pairs


LOCK = threading.Lock()


def embedding(model, *, before=lambda body: "", limit=None, longest=None, factor=1.0):
    """A server's function that puts a prompt of its own before each text."""

    def embed(body, texts):
        with LOCK:
            if longest is not None and any(len(text.split()) > longest for text in texts):
                raise Refusal(413, f"more than {longest} tokens")
            own = model.max_seq_length
            model.max_seq_length = limit or own
            try:
                prompted = [before(body) + text for text in texts]
                return factor * model.encode(prompted, prompt="", show_progress_bar=False)
            finally:
                model.max_seq_length = own

    return embed


def by_input_type(body):
    return PROMPTS.get(body.get("input_type", ""), "")


def by_suffix(body):
    if "input_type" in body:
        raise Refusal(422, "extra inputs are not permitted: input_type")
    return PROMPTS.get(body["model"].rpartition("-")[2], "")


@pytest.mark.parametrize(
    ("before", "way", "said"),
    [
        (by_input_type, "input_type", 'without input_type, the server embeds queries without the prompt'),
        (by_suffix, "a suffix of the model's name", "input_type: refused (422: extra inputs are not permitted"),
        (
            lambda body: "",
            "prompts put before the texts by the client",
            'clients must put the prompts before the texts themselves: "pumps radios " before queries, "replace: " ',
        ),
    ],
)  # fmt: skip
def test_the_way_in_which_a_server_is_to_be_asked_is_found(before, way, said, made):
    folder, model, _ = made
    with serving(embedding(model, before=before)) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert found.faults == []
    assert found.way.name == way
    assert found.lowest_cosine > 0.99999
    assert any(said in line for line in found.findings)


def test_the_prompt_for_queries_before_passages_as_well_is_a_fault_that_is_named(made):
    folder, model, _ = made
    with serving(embedding(model, before=lambda body: PROMPTS["query"])) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert "the server's vectors are not the exported model's" in found.faults[0]
    assert (
        'without input_type, the server puts the prompt for queries, "pumps radios ", before passages as well'
        in found.findings
    )


def test_a_prompt_put_twice_is_named(made):
    folder, model, _ = made
    with serving(embedding(model, before=lambda body: 2 * by_input_type(body))) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert found.way.name == "prompts put before the texts by the client"
    assert 'with input_type, the server puts the prompt "pumps radios " twice before queries' in found.findings


def test_texts_that_are_cut_earlier_are_a_fault_and_the_limit_is_named(made):
    folder, model, _ = made
    with serving(embedding(model, before=by_input_type, limit=48)) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert "cuts texts at 48 tokens, the exported model at 64" in found.faults


def test_a_server_that_refuses_long_texts_is_sound_and_that_is_told(made):
    folder, model, _ = made
    with serving(embedding(model, before=by_input_type, longest=300)) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert found.faults == []
    assert any(line.startswith("refuses a text that is longer") for line in found.findings)


def test_vectors_of_another_length_are_a_finding_and_of_another_width_an_error(made):
    folder, model, _ = made
    with serving(embedding(model, before=by_input_type, factor=3.0)) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert found.faults == []
    assert any("does not normalise vectors (lengths 3 to 3)" in line for line in found.findings)
    cut = embedding(model, before=by_input_type)
    with (
        serving(lambda body, texts: cut(body, texts)[:, :16]) as server,
        pytest.raises(RunError, match="of 16 numbers, want 32"),
    ):
        verified_endpoint(folder, server.url, None, None)


def test_a_vector_that_depends_on_the_batch_is_a_fault(made):
    folder, model, _ = made
    sound = embedding(model, before=by_input_type)

    def embed(body, texts):
        vectors = sound(body, texts)
        return vectors + 0.05 * VECTORS[0, 0] * np.eye(32, dtype=np.float32)[0] if len(texts) == 1 else vectors

    with serving(embed) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert any("asked one by one, in base64" in line for line in found.faults)


def test_a_fallback_and_other_weights_are_faults(made):
    folder, model, _ = made
    version = {"name": "m", "weights_sha256": "0" * 64, "format": "torch", "fallback": True, "reason": "damaged"}
    with serving(embedding(model, before=by_input_type), version=version) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert found.faults == [
        "/version: the fallback model is served (damaged)",
        "/version: weights of SHA-256 0000000000000000... are served, not those of the bundle",
    ]


def test_in_eight_bits_a_little_more_is_allowed(made):
    folder, model, _ = made
    sound = embedding(model, before=by_input_type)

    def embed(body, texts):
        vectors = sound(body, texts)
        off = np.roll(vectors, 1, axis=1)
        off -= (off * vectors).sum(axis=1, keepdims=True) * vectors
        off /= np.linalg.norm(off, axis=1, keepdims=True)
        return vectors + 0.03 * off  # a cosine of 1 / sqrt(1.0009) = 0.99955

    version = {"name": "m", "weights_sha256": None, "format": "int8", "fallback": False}
    with serving(embed, version=version) as server:
        found = verified_endpoint(folder, server.url, None, None)
    assert (found.precision, found.faults) == ("int8", [])
    assert found.lowest_cosine == pytest.approx(1 / np.sqrt(1.0009), abs=1e-5)
    with serving(embed) as server:
        assert verified_endpoint(folder, server.url, None, None).faults != []


def test_the_command_recomputes_the_recall_of_the_test_rows(made, run_main, tmp_path):
    folder, model, pairs = made
    with serving(embedding(model, before=by_input_type)) as server:
        code, out, err = run_main(verify.main, folder, "--endpoint", server.url, "--pairs", pairs, "--json")
        assert code == 0, err
        found = json.loads(out)
        code, out, _ = run_main(verify.main, folder, "--endpoint", f"{server.url}/v1/embeddings", "--pairs", pairs)
    assert code == 0
    assert "serves" in out
    assert "Recall@5" in out or "macro" in out
    expected = recall_by_hand(model, pairs, folder)
    assert found["recall"]["stated_by"] == "the model run here"  # the bundle states no figures
    assert found["recall"]["stated"] == pytest.approx(found["recall"]["served"])
    assert found["recall"]["served"]["macro"] == pytest.approx(expected)


def recall_by_hand(model, pairs, folder):
    """Macro Recall@5, by the loops of its definition; no passage of the tiny pairs is a near duplicate."""
    from nic_ray.bundle.files import read_metadata
    from nic_ray.bundle.rows import rows_of_model

    collection, rows = rows_of_model(read_metadata(folder), pairs, "test")
    corpus = [collection.texts[number] for number in collection.corpus.tolist()]
    passages = model.encode_document(corpus)
    hits = {}
    for row in rows:
        query, answer = collection.texts[collection.query[row]], collection.texts[collection.positive[row]]
        scores = passages @ model.encode_query(query)
        best = np.argsort(-scores)[:5].tolist()
        hits.setdefault(collection.domains[row], []).append(answer in [corpus[place] for place in best])
    return np.mean([np.mean(own) for own in hits.values()])


def test_another_recall_than_the_stated_one_is_a_fault(made):
    from nic_ray.bundle.served_verification import ServedRecall, faults_of_recall

    recall = ServedRecall({"macro": 0.80}, {"macro": 0.806}, "metadata.json", 10, 20)
    assert "0.8000 through the endpoint, 0.8060 by metadata.json" in faults_of_recall(recall)[0]
    assert faults_of_recall(replace(recall, stated={"macro": 0.804})) == []
