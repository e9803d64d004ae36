"""An exported model as an ONNX graph, in fp32 or with 8-bit weights, compared with the model it comes from."""

import copy
import importlib.util
import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray.bundle import files as bundles
from nic_ray.bundle.golden import LEAST_COSINE, Golden, cosines_of, made_golden, read_golden, store_golden
from nic_ray.bundle.names import CARD, WEIGHTS
from nic_ray.bundle.rows import rows_of_model
from nic_ray.cpus import usable_cpus
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.pairs import Collection
from nic_ray.errors import InputError, RunError
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import PRIMARY
from nic_ray.model.evaluation import Asked, query_scores, texts_to_score
from nic_ray.sources import Sources, names_of, shown
from nic_ray.tokens import Prompts, prompts_of

Format = Literal["onnx", "int8"]
Embedder = Callable[[Sequence[str]], NDArray[np.float32]]

GRAPH, TOKENIZER = "model.onnx", "tokenizer.json"
MAX_RECALL_LOSS = 0.005
"""Largest difference allowed between the macro Recall@5 of a graph and that of the model."""
TIMED = 200
"""Number of queries whose latency is measured, after a tenth as many to warm up."""
BATCH = 32
SHARED_SCALE = 16
"""Count of numbers that share a scale in 8 bits."""
INT8_ACTIVATIONS = 4
"""The code for activations in 8 bits, of onnxruntime's operator MatMulNBits."""
OTHER_PLACE = "choose another place with --out"


@dataclass(frozen=True)
class Parity:
    """A graph compared with the model it comes from, on the same texts."""

    texts: int
    lowest_cosine: float
    recall: Mapping[str, float]
    """Macro Recall@5 of "model" and "graph"."""
    milliseconds: Mapping[str, Mapping[str, float]]
    """"model" and "graph" -> "p50" and "p95" of the time from a query's text to its embedding, on one core."""
    bytes: Mapping[str, int]
    """Size of the file of weights, for "model" and "graph"."""
    lowest_golden: float
    """Lowest cosine between a golden vector of the bundle and the graph's, each text embedded by itself."""


class GraphMetadata(TypedDict):
    """metadata.json of a folder with a graph; `files.find_faults` adds the hashes of its files."""

    name: str
    base_model: str
    base_weights_sha256: str | None
    format: Format
    converted_from: Mapping[str, str | None]
    """"name" and "weights_sha256" of the bundle."""
    max_tokens: int
    prompts: Mapping[str, str]
    """"query" and "passage" -> prompt that is put before such a text."""
    pairs: Mapping[str, str]
    """"name" and "sha256" of the file that it was measured on."""
    parity: Mapping[str, Any]
    """A `Parity`."""


def convert(
    folder: Path, out: Path, form: Format, pairs: Sources, *, overwrite: bool, say: Callable[[str], None]
) -> Parity:
    """Write a bundle's model as an ONNX graph from token ids to embeddings, with its tokenizer, and measure it.

    Args:
        folder: the bundle; it is verified first.
        out: folder to write, with model.onnx, tokenizer.json (which truncates and pads as the model does), README.md
            and metadata.json, by which `files.find_faults` can verify it.
        form: "onnx" keeps fp32; "int8" stores matrices in 8 bits and scales activations dynamically as it runs.
        pairs: file whose validation rows are used for the measurement; the test rows are not read for this.
        overwrite: whether an older folder may be replaced.
        say: called with a line that describes each step.

    Raises:
        InputError: the bundle is not sound, the pairs cannot be used, the place is taken, or packages are missing.
        RunError: the graph cannot be made, or its results differ too much from the model's; then nothing is kept.
    """
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lacking:
        raise InputError(
            f"--format {form}: needs {', '.join(lacking)}; install them with: "
            "pip install -c constraints.txt -e '.[onnx]'"
        )
    _refuse_place(out, overwrite)
    metadata = bundles.read_metadata(folder)
    collection, rows = rows_of_model(metadata, pairs, "validation")
    model = bundles.load(folder)
    if isinstance(model[0], Router):
        raise InputError(
            f"{folder}: embeds queries and passages with different weights (trains: queries), and a graph has one set; "
            "use the folder itself"
        )
    if _prompts_of(model) and any(isinstance(part, Pooling) and not part.include_prompt for part in model):
        raise InputError(
            f"{folder}: its pooling leaves the prompts out (include_prompt: false), and a graph does not know where a "
            "prompt ends; use the folder itself"
        )
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        say(f"writing {folder} as an ONNX graph")
        _write_tokenizer(model, work)
        _write_graph(model, work / GRAPH)
        if form == "int8":
            say("storing its matrices in 8 bits")
            _quantize(work / GRAPH)
        say(f"comparing it with the model, on texts of {shown(pairs)}")
        golden = read_golden(folder) or made_golden(model)
        parity = _measure(model, collection, rows, work, folder / WEIGHTS, golden)
        _refuse_other_model(form, parity)
        store_golden(work, golden)
        source = {"name": metadata["name"], "weights_sha256": metadata["files"].get(WEIGHTS)}
        written: GraphMetadata = {
            "name": out.name,
            "base_model": metadata["base_model"],
            "base_weights_sha256": metadata.get("base_weights_sha256"),
            "format": form,
            "converted_from": source,
            "max_tokens": model.max_seq_length,
            "prompts": asdict(_prompts_of(model)),
            "pairs": {"name": names_of(pairs), "sha256": content_sha256(pairs)},
            "parity": asdict(parity),
        }
        (work / CARD).write_text(_readme(out.name, form, written, parity), encoding="utf-8")

        def fill(unfinished: Path) -> None:
            shutil.copytree(work, unfinished, dirs_exist_ok=True)

        bundles.write_files(out, fill, written, overwrite=overwrite)
    return parity


def embedder(folder: Path, *, threads: int = 0) -> Embedder:
    """Return a function that embeds texts with a converted folder, as an (n, D) array.

    The texts must already begin with their prompts.

    Args:
        threads: number of threads of onnxruntime; 0 means as many as this process has CPUs.
    """
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cpus()
    session = onnxruntime.InferenceSession(
        str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
    )  # fmt: skip
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        # texts of similar length share a batch, so that there is little padding
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        embeddings: list[NDArray[np.float32]] = []
        for start in range(0, len(order), BATCH):
            encoded = tokenizer.encode_batch([texts[number] for number in order[start : start + BATCH]])
            arrays = {
                "input_ids": np.array([encoding.ids for encoding in encoded], np.int64),
                "attention_mask": np.array([encoding.attention_mask for encoding in encoded], np.int64),
            }
            embeddings.append(session.run(None, arrays)[0])
        return np.concatenate(embeddings)[np.argsort(order)]

    return embed


class _Whole(torch.nn.Module):
    """The whole model from token ids to the embedding, pooling and normalisation included."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.model({"input_ids": input_ids, "attention_mask": attention_mask})[
            "sentence_embedding"
        ]
        return embeddings


def _write_tokenizer(model: SentenceTransformer, folder: Path) -> None:
    tokenizer: Any = model.tokenizer
    fast = copy.deepcopy(tokenizer.backend_tokenizer)
    fast.enable_truncation(max_length=model.max_seq_length)
    fast.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    fast.save(str(folder / TOKENIZER))


def _write_graph(model: SentenceTransformer, path: Path) -> None:
    example = model.preprocess(["how is it replaced", "a hot bearing"])
    sizes = dict.fromkeys((0, 1), torch.export.Dim.AUTO)
    names = ["input_ids", "attention_mask"]
    with _quiet(), torch.no_grad():
        try:
            torch.onnx.export(
                _Whole(model.eval()),
                tuple(example[name] for name in names),
                str(path),
                input_names=names,
                output_names=["sentence_embedding"],
                dynamic_shapes=dict.fromkeys(names, sizes),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise RunError(f"the model cannot be written as an ONNX graph: {str(error).splitlines()[0]}") from error


def _quantize(path: Path) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _quiet():
        # Sixteen numbers in a row share a scale, of the weights and, as the graph runs, of the activations. With one
        # scale for all activations of a batch, as `quantize_dynamic` has it, a text's embedding depends on the texts
        # that it shares a batch with. The embedding table is left as it is: in 8 bits, it costs recall.
        quantizer = MatMulNBitsQuantizer(
            onnx.load(path), bits=8, block_size=SHARED_SCALE, is_symmetric=True, accuracy_level=INT8_ACTIVATIONS
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' messages about packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _refuse_place(out: Path, overwrite: bool) -> None:
    """Refuse a place that is taken, unless it holds a graph that may be replaced.

    Raises:
        InputError: the place is refused.
    """
    bundles.refuse_existing(out, overwrite, OTHER_PLACE)
    if overwrite and out.exists() and any(out.iterdir()) and "converted_from" not in bundles.read_metadata(out):
        raise InputError(
            f"{out}: --overwrite replaces only what was converted before, and this is an exported model; {OTHER_PLACE}"
        )


def _measure(
    model: SentenceTransformer,
    collection: Collection,
    rows: Sequence[int],
    folder: Path,
    weights: Path,
    golden: Golden,
) -> Parity:
    numbers = texts_to_score(collection, rows)
    texts, asks = [collection.texts[number] for number in numbers.tolist()], collection.is_query[numbers].tolist()
    prompts = _prompts_of(model)
    prompted = [prompts.before(is_query=asking) + text for text, asking in zip(texts, asks, strict=True)]
    embeddings = {"model": _by_model(model, texts, asks), "graph": embedder(folder)(prompted)}
    graph = embedder(folder, threads=1)
    unit = {name: values / np.linalg.norm(values, axis=1, keepdims=True) for name, values in embeddings.items()}
    domains = [collection.domains[row] for row in rows]
    queries = [collection.texts[collection.query[row]] for row in rows]
    return Parity(
        texts=len(texts),
        lowest_cosine=float((unit["model"] * unit["graph"]).sum(axis=1).min()),
        recall={
            name: flat_metrics(
                query_scores(Asked(values, numbers, collection, rows, model.similarity_fn_name)), domains
            )[f"{PRIMARY}/macro"]
            for name, values in embeddings.items()
        },
        milliseconds=_latencies(
            {
                "model": lambda batch: model.encode_query(list(batch), show_progress_bar=False),
                "graph": lambda batch: graph([prompts.query + query for query in batch]),
            },
            queries,
        ),
        bytes={"model": weights.stat().st_size, "graph": (folder / GRAPH).stat().st_size},
        lowest_golden=_lowest_golden(golden, folder, prompts),
    )


def _by_model(model: SentenceTransformer, texts: Sequence[str], asks: Sequence[bool]) -> NDArray[np.float32]:
    """(n, D) embeddings of queries and passages, each as Sentence Transformers embeds it."""
    places = np.asarray(asks)
    kinds = ((places, model.encode_query), (~places, model.encode_document))
    embeddings = np.empty((len(texts), model.get_embedding_dimension() or 0), np.float32)
    for selected, encode in kinds:
        chosen = [texts[place] for place in np.flatnonzero(selected).tolist()]
        if chosen:
            embeddings[selected] = encode(chosen, batch_size=BATCH, show_progress_bar=False)
    return embeddings


def _prompts_of(model: SentenceTransformer) -> Prompts:
    return prompts_of(model.prompts, model.default_prompt_name)


def _latencies(embedders: Mapping[str, Embedder], queries: Sequence[str]) -> dict[str, dict[str, float]]:
    """Percentiles of the time per query, in ms; the embedders take turns, so that a busy moment affects them all."""
    taken: dict[str, list[float]] = {name: [] for name in embedders}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(TIMED + TIMED // 10):
            for name, embed in embedders.items():
                started = time.perf_counter()
                embed([queries[number % len(queries)]])
                if number >= TIMED // 10:
                    taken[name].append(1000 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(threads)
    return {
        name: {f"p{share}": round(float(np.percentile(times, share)), 2) for share in (50, 95)}
        for name, times in taken.items()
    }


def _refuse_other_model(form: Format, parity: Parity) -> None:
    advice = "; use --format onnx" if form == "int8" else ""
    least = LEAST_COSINE["int8" if form == "int8" else "fp32"]
    # in 8 bits, a passage may be as badly determined as no golden text is: there the loss of recall decides
    lowest = parity.lowest_golden if form == "int8" else np.min([parity.lowest_cosine, parity.lowest_golden])
    if not lowest >= least:
        raise RunError(
            f"the graph is not the model: a text's two embeddings have a cosine of {lowest:.6f}, want {least} at "
            f"least; it was not kept{advice}"
        )
    loss = abs(parity.recall["model"] - parity.recall["graph"])
    if not loss <= MAX_RECALL_LOSS:
        raise RunError(
            f"the graph is not the model: macro Recall@5 {parity.recall['graph']:.4f} instead of "
            f"{parity.recall['model']:.4f}, want them within {MAX_RECALL_LOSS}; it was not kept{advice}"
        )


def _lowest_golden(golden: Golden, folder: Path, prompts: Prompts) -> float:
    """The lowest cosine between a golden vector and that of a graph, which is given one text at a time."""
    embed = embedder(folder)
    return min(
        float(cosines_of(np.concatenate([embed([prompt + text]) for text in texts]), vectors).min())
        for prompt, texts, vectors in (
            (prompts.query, golden.queries, golden.query_vectors),
            (prompts.passage, golden.documents, golden.document_vectors),
        )
    )


def _readme(name: str, form: Format, metadata: GraphMetadata, parity: Parity) -> str:
    weights = "8-bit weights" if form == "int8" else "fp32"
    rows = "\n".join(
        f"| {label} | {parity.recall[key]:.4f} | {parity.milliseconds[key]['p50']:.1f} ms | "
        f"{parity.milliseconds[key]['p95']:.1f} ms | {parity.bytes[key] / 1e6:.0f} MB |"
        for label, key in (("Sentence Transformers", "model"), ("this graph", "graph"))
    )
    before = {f"{kind}_prompt": prompt for kind, prompt in metadata["prompts"].items() if prompt}
    defined = "".join(f"{variable} = {json.dumps(prompt)}  # in front of each\n" for variable, prompt in before.items())
    query = "query_prompt + " * ("query_prompt" in before) + '"How is the bearing replaced?"'
    return f"""# {name}

{metadata["converted_from"]["name"]} as an ONNX graph ({weights}), from token ids to embeddings. It runs with
`onnxruntime` and `tokenizers` alone:

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("{name}/{TOKENIZER}")  # cuts at {metadata["max_tokens"]} tokens and pads
session = onnxruntime.InferenceSession("{name}/{GRAPH}")
{defined}encoded = tokenizer.encode_batch([{query}])
embeddings = session.run(None, {{
    "input_ids": np.array([each.ids for each in encoded]),
    "attention_mask": np.array([each.attention_mask for each in encoded]),
}})[0]
```

| | macro Recall@5 | p50 a query | p95 | weights |
|---|---:|---:|---:|---:|
{rows}

Measured when it was converted, on the validation rows of {metadata["pairs"]["name"]} (SHA-256
{metadata["pairs"]["sha256"]}) and on one core of that machine, from a query's text to its embedding. The lowest cosine
between the two embeddings of any of {parity.texts} texts is {parity.lowest_cosine:.6f}; of any of the golden texts in
golden.json, whose vectors by the model are in golden.safetensors, it is {parity.lowest_golden:.6f}.
"""
