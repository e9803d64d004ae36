"""Exported models as ONNX graphs."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray import console, convert
from nic_ray.bundle import onnx
from nic_ray.bundle.files import file_sha256, find_faults, read_metadata, write_bundle
from nic_ray.bundle.golden import LEAST_COSINE, golden_faults, read_golden
from nic_ray.bundle.onnx import Parity, embedder
from nic_ray.dataset.pairs import index_pairs
from nic_ray.errors import InputError, RunError

TEXTS = ["", "a", "How do I replace the leaking rotor of the pump?", "hot " * 100, "Ünknown Wörds, 12.5 %"]


@pytest.fixture
def bundle(tiny_model, tiny_pairs_file, tmp_path):
    def make(model_type="bert"):
        metadata = {
            "name": "tuned",
            "base_model": str(tiny_model(model_type)),
            "data": {"sha256": file_sha256(tiny_pairs_file)},
            "split": {"protocol": "unseen_passages", "seed": 3, "validation_share": 0.25, "test_share": 0.25},
        }
        model = SentenceTransformer(str(tiny_model(model_type, layers=3)), device="cpu")
        write_bundle(tmp_path / "tuned", model, metadata, training_log="")
        return tmp_path / "tuned"

    return make


@pytest.fixture
def run(monkeypatch, capsys, tiny_pairs_file):
    monkeypatch.setattr(onnx, "TIMED", 10)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments), "--pairs", str(tiny_pairs_file)])
        capsys.readouterr()  # what making the models has printed
        with pytest.raises(SystemExit) as stopped:
            console.run(convert.main)
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("model_type", ["bert", "mpnet", "xlm-roberta"])
def test_the_graph_embeds_as_the_model_does(bundle, run, model_type):
    folder = bundle(model_type)
    code, out, err = run(folder)
    assert (code, err) == (0, "")
    assert "lowest cosine" in out
    written = folder.with_name("tuned-onnx")
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert embedder(written)(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert find_faults(written) == []
    assert {path.name for path in written.iterdir()} == {
        *("README.md", "metadata.json", "model.onnx", "tokenizer.json"),
        *("golden.json", "golden.safetensors"),
    }
    for name in ("golden.json", "golden.safetensors"):
        assert (written / name).read_bytes() == (folder / name).read_bytes()
    golden = read_golden(written)
    assert golden_faults(embedder(written), embedder(written), golden, LEAST_COSINE["fp32"]) == []


def test_eight_bits_are_measured_and_told(bundle, run):
    folder = bundle()
    code, out, err = run(folder, "--format", "int8", "--json")
    if code == 1:  # weights that were drawn at random may not survive it, and then nothing is kept
        assert "want them within 0.005; it was not kept; use --format onnx" in err or "want 0.999 at least" in err
        assert not folder.with_name("tuned-int8").exists()
        return
    found = json.loads(out)
    assert b"MatMulNBits" in (folder.with_name("tuned-int8") / "model.onnx").read_bytes()
    assert abs(found["recall"]["model"] - found["recall"]["graph"]) <= 0.005
    assert found["milliseconds"]["graph"]["p50"] <= found["milliseconds"]["graph"]["p95"]
    metadata = read_metadata(folder.with_name("tuned-int8"))
    assert metadata["format"] == "int8"
    assert metadata["parity"]["recall"] == found["recall"]
    assert metadata["converted_from"]["weights_sha256"] == file_sha256(folder / "model.safetensors")
    texts = TEXTS[1:]
    near = embedder(folder.with_name("tuned-int8"))(texts) * SentenceTransformer(str(folder), device="cpu").encode(
        texts
    )
    assert near.sum(axis=1).min() > 0.95


def test_in_eight_bits_an_embedding_does_not_depend_on_what_shares_its_batch(bundle, tmp_path):
    model = SentenceTransformer(str(bundle()), device="cpu")
    onnx._write_tokenizer(model, tmp_path)
    onnx._write_graph(model, tmp_path / onnx.GRAPH)
    onnx._quantize(tmp_path / onnx.GRAPH)
    embed, texts = embedder(tmp_path), [text for text in TEXTS if text]
    alone = np.concatenate([embed([text]) for text in texts])
    assert (embed(texts) * alone).sum(axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-6)


@pytest.mark.parametrize(
    ("form", "cosine", "recall", "said"),
    [
        ("onnx", 0.9998, 0.5, r"a text's two embeddings have a cosine of 0\.999800, want 0\.9999 at least"),
        ("onnx", float("nan"), 0.5, "cosine of nan"),
        ("onnx", 1.0, 0.494, r"macro Recall@5 0\.4940 instead of 0\.5000, want them within 0\.005; it was not kept$"),
        ("int8", 0.98, 0.506, r"want them within 0\.005; it was not kept; use --format onnx$"),
        ("int8", 0.98, 0.504, None),
        ("onnx", 0.9999, 0.5, None),
    ],
)
def test_a_graph_that_is_another_model_is_refused(form, cosine, recall, said):
    parity = Parity(3, cosine, {"model": 0.5, "graph": recall}, {}, {}, 1.0)
    if said is None:
        onnx._refuse_other_model(form, parity)
        return
    with pytest.raises(RunError, match=said):
        onnx._refuse_other_model(form, parity)


@pytest.mark.parametrize(("form", "golden"), [("onnx", 0.9998), ("onnx", float("nan")), ("int8", 0.998)])
def test_a_graph_that_gives_other_golden_vectors_is_refused(form, golden):
    parity = Parity(3, 1.0, {"model": 0.5, "graph": 0.5}, {}, {}, golden)
    with pytest.raises(RunError, match=f"have a cosine of {golden:.6f}, want"):
        onnx._refuse_other_model(form, parity)


def test_what_is_refused_is_not_kept(bundle, run, monkeypatch):
    def other(*_):
        return Parity(3, 0.5, {"model": 0.5, "graph": 0.5}, {}, {}, 0.5)

    monkeypatch.setattr(onnx, "_measure", other)
    folder = bundle()
    code, _, err = run(folder)
    assert code == 1
    assert "the graph is not the model" in err
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith((".tuned", "tuned-"))] == []


def test_a_place_that_is_taken_is_kept_and_replaced_when_asked(bundle, run):
    folder = bundle()
    assert run(folder)[0] == 0
    code, _, err = run(folder)
    assert code == 2
    assert "exists already" in err
    assert run(folder, "--overwrite")[0] == 0


def test_an_exported_model_is_not_overwritten_by_a_graph(bundle, run):
    folder = bundle()
    code, _, err = run(folder, "--out", folder, "--overwrite")
    assert code == 2
    assert "replaces only what was converted before, and this is an exported model; choose another place with" in err
    assert find_faults(folder) == []
    assert "another place with --out" in run(folder, "--out", folder)[2]


def test_pairs_that_are_not_there_are_a_users_mistake(bundle, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["convert", str(bundle()), "--pairs", str(tmp_path / "typo.jsonl")])
    with pytest.raises(SystemExit) as stopped:
        console.run(convert.main)
    assert stopped.value.code == 2
    assert "typo.jsonl: no such file" in capsys.readouterr().err


def test_the_graph_names_the_pairs_it_was_held_against(bundle, run, tiny_pairs_file):
    folder = bundle()
    assert run(folder)[0] == 0
    own = {"name": tiny_pairs_file.name, "sha256": file_sha256(tiny_pairs_file)}
    assert read_metadata(folder.with_name("tuned-onnx"))["pairs"] == own
    readme = (folder.with_name("tuned-onnx") / "README.md").read_text()
    assert own["name"] in readme
    assert own["sha256"] in readme


def test_packages_that_lack_are_named_with_the_way_to_get_them(bundle, tiny_pairs_file, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(
        InputError, match=r"needs onnxscript; install them with: pip install -c constraints\.txt -e '\.\[onnx\]'"
    ):
        onnx.convert(
            tmp_path, tmp_path / "out", "onnx", tiny_pairs_file, overwrite=False, say=lambda _: None
        )  # fmt: skip


def test_the_lines_of_its_readme_run_with_onnxruntime_and_tokenizers_alone(bundle, run):
    folder = bundle()
    assert run(folder)[0] == 0
    written = folder.with_name("tuned-onnx")
    code = (written / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code += "print(embeddings.tolist())\nimport sys\nassert not {'torch', 'transformers'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder.parent, capture_output=True, text=True, check=True)
    expected = SentenceTransformer(str(folder), device="cpu").encode(["How is the bearing replaced?"])
    assert np.array(json.loads(done.stdout)) == pytest.approx(expected, abs=1e-5)


def test_the_graph_is_held_against_the_model_behind_its_prompts_and_its_readme_puts_them_there(
    bundle, changed_model, run, tmp_path, monkeypatch
):
    metadata = read_metadata(bundle()) | {"name": "prompted"}
    prompts = {"query": 'what is "asked": ', "document": "a passage: "}
    folder, model = tmp_path / "prompted", SentenceTransformer(str(changed_model(prompts=prompts)), device="cpu")
    write_bundle(folder, model, metadata, training_log="")
    code, out, err = run(folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["lowest_cosine"] > 0.9999
    written = folder.with_name("prompted-onnx")
    assert read_metadata(written)["prompts"] == {"query": prompts["query"], "passage": prompts["document"]}
    lines = (written / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    monkeypatch.chdir(tmp_path)
    exec(lines, names)
    assert names["embeddings"] == pytest.approx(model.encode_query(["How is the bearing replaced?"]), abs=1e-5)
    assert names["passage_prompt"] == prompts["document"]


def test_the_model_reads_a_text_of_the_parity_by_its_kind(changed_model, tiny_pairs):
    model = SentenceTransformer(
        str(changed_model(prompts={"query": "pumps radios trucks ", "document": "clean "})), device="cpu"
    )
    collection = index_pairs(tiny_pairs)
    asks = collection.is_query.tolist()
    found = onnx._by_model(model, collection.texts, asks)
    for text, asking, embedding in zip(collection.texts, asks, found, strict=True):
        expected = (model.encode_query if asking else model.encode_document)(text)
        assert embedding == pytest.approx(expected, abs=1e-6)
