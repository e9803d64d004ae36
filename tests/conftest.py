"""What the tests share: a small model of random weights and a few rows, both made here, and no network."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import hypothesis
import pytest

from nic_ray.dataset.pairs import Pair

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Read when transformers and huggingface_hub are first imported, which no test module does before this one.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Ray settles its authentication when it is imported, which a test module may do before a search does.
os.environ["RAY_AUTH_MODE"] = "token"
# Two threads that share a product of 32 columns wait for each other, the longer the busier the machine is.
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("no deadline")

ModelType: TypeAlias = Literal["bert", "mpnet", "xlm-roberta"]
TinyModel: TypeAlias = Callable[..., Path]

MAX_TOKENS = 64
# Padding is 1, as MPNet and XLM-RoBERTa demand (their positions are counted from it), and for BERT too.
SPECIAL_TOKENS = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
PAD_ID = SPECIAL_TOKENS.index("[PAD]")

PARTS = {
    "pumps": "rotor gasket impeller bearing flange coupling inlet casing",
    "radios": "antenna tuner amplifier speaker battery dial squelch handset",
    "trucks": "clutch radiator axle brake throttle winch starter exhaust",
}
FAULTS = "leaking noisy hot stuck loose cracked worn dirty"
ACTIONS = "replace clean tighten adjust inspect lubricate drain test"


@pytest.fixture(scope="session")
def tiny_pairs() -> list[Pair]:
    """48 rows: 3 domains of 8 passages with 2 queries each, the first of which has a hard negative."""
    return _pairs()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets PyTorch's threads for a test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def tiny_pairs_file(tiny_pairs: list[Pair], tmp_path: Path) -> Path:
    """`tiny_pairs` as a JSONL file, one for each test."""
    rows = [
        {"query": pair.query, "positive": pair.positive, "domain": pair.domain}
        | ({"negative": list(pair.negatives)} if pair.negatives else {})
        for pair in tiny_pairs
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def smoke_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """A folder in which the smoke search was run as a user would, and what the command said.

    It holds models/ with the exported model and a copy of it, runs/RUN, pairs.jsonl and made.jsonl, which is the same,
    manuals/ with a text, beir/, and pairs in several files: tickets.csv, manuals.parquet and forum/.
    """
    folder, root = tmp_path_factory.mktemp("smoke"), Path(__file__).parent.parent
    for name in ("data", "tune_configs"):
        (folder / name).symlink_to(root / name)
    # no variable that forbids the network, and none to be had; no limit on threads either
    ours = ("HF_", "RAY_", "TOKENIZERS_", "OMP_")
    user = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    user |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "nic_ray.tune", "tune_configs/smoke.yaml", "--export-anyway"]
    done = subprocess.run(command, cwd=folder, env=user, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        shutil.copytree(folder / "models" / "nic-embeddings-v1.0", folder / "models" / "our-manuals-v1.0")
        (run,) = (path for path in (folder / "runs").iterdir() if not path.name.startswith("."))
        (folder / "runs" / "RUN").symlink_to(run)
        rows = (root / "data" / "reference" / "pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        for name in ("pairs.jsonl", "made.jsonl"):
            (folder / name).write_text("".join(rows[::20]), encoding="utf-8")
        _save_in_several_files(folder, [json.loads(row) for row in rows[::20]])
        (folder / "manuals").mkdir()
        texts = [json.loads(row)["positive"] for row in rows[:200:10]]
        (folder / "manuals" / "all.txt").write_text("\n\n".join(texts), encoding="utf-8")
        (folder / "beir" / "qrels").mkdir(parents=True)
        for file, field in (("corpus.jsonl", "positive"), ("queries.jsonl", "query")):
            lines = [
                json.dumps({"_id": str(place), "text": json.loads(rows[place])[field]}) for place in range(0, 200, 10)
            ]
            (folder / "beir" / file).write_text("\n".join(lines), encoding="utf-8")
        answers = "".join(f"{place}\t{place}\t1\n" for place in range(0, 200, 10))
        (folder / "beir" / "qrels" / "test.tsv").write_text(answers, encoding="utf-8")
    return folder, done


def _save_in_several_files(folder: Path, rows: list[dict[str, Any]]) -> None:
    from nic_ray.dataset.formats import write_rows

    fields = [{name: row[name] for name in ("query", "positive", "domain")} for row in rows]
    (folder / "forum").mkdir()
    for number, (name, form) in enumerate(
        [("tickets.csv", "csv"), ("manuals.parquet", "parquet"), ("forum/2024.jsonl", "jsonl")]
    ):
        write_rows(folder / name, fields[number::3], form)


@pytest.fixture
def smoke(smoke_search: tuple[Path, "subprocess.CompletedProcess[str]"]) -> Path:
    """The folder of `smoke_search`."""
    folder, done = smoke_search
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """`run_main(main, *arguments)`: a command's exit code, and what it printed to stdout and to stderr."""

    def run(main: Callable[..., None], *arguments: object) -> tuple[Any, str, str]:
        from nic_ray import console

        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            console.run(main)
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[None]:
    from nic_ray.progress import View
    from nic_ray.search.session import ray_session

    # trials of other tests, which run at the same time, are not counted among those that share the machine
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", temporary)
        with ray_session(View(), num_cpus=2):
            yield
    gc.collect()  # here, where what Ray leaves open is no error, and not when the session ends


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """`tiny_model(model_type="bert", layers=2)`: a Sentence Transformers folder, made once; only read it.

    Random weights, the same every time; 32 dimensions, at most 64 tokens, mean pooling and normalisation.
    Its tokenizer knows the words of `tiny_pairs` and spells all others.
    """
    made: dict[tuple[ModelType, int], Path] = {}

    def make(model_type: ModelType = "bert", layers: int = 2) -> Path:
        key = (model_type, layers)
        if key not in made:
            made[key] = _save_model(tmp_path_factory.mktemp(model_type), model_type, layers)
        return made[key]

    return make


@pytest.fixture(scope="session")
def family_model(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`family_model(name)`: a model of `families.FAMILIES` with the tokenizer of `tiny_model`; only read it."""
    from tests.families import FAMILIES, save_tiny

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save_tiny(FAMILIES[name], tiny_model("mpnet"), tmp_path_factory.mktemp("family"))
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_model: TinyModel) -> Path:
    """The two-layer BERT of `tiny_model`."""
    return tiny_model()


@pytest.fixture
def changed_model(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Path]:
    """`changed_model(...)`: a copy of a `tiny_model` whose owner has stored something else with it, in a new folder.

    Args:
        prompts, default: as they stand in its config, by name; and the name of the default one.
        similarity: name of its similarity.
        behind: modules behind the transformer, of width 32, instead of mean pooling and normalisation.
        dtype: the format that all weights are stored in.
        layers: of it.
    """

    def make(
        *,
        prompts: dict[str, str] | None = None,
        default: str | None = None,
        similarity: Any = None,
        behind: list[Any] | None = None,
        dtype: Any = None,
        layers: int = 2,
    ) -> Path:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(tiny_model(layers=layers)), device="cpu")
        if behind is not None:
            model = SentenceTransformer(modules=[model[0], *behind], device="cpu")
        if similarity is not None:
            model.similarity_fn_name = similarity
        folder = tmp_path / f"base-{len(list(tmp_path.glob('base-*')))}"
        (model if dtype is None else model.to(dtype)).save(str(folder), create_model_card=False)
        config = folder / "config_sentence_transformers.json"
        stored = json.loads(config.read_text()) | {"prompts": prompts or {}, "default_prompt_name": default}
        config.write_text(json.dumps(stored))
        return folder

    return make


@pytest.fixture
def searched(tiny_model: TinyModel, tiny_pairs_file: Path) -> Callable[..., Any]:
    """`searched(*depths)`: what a search has at its end, and a candidate with noise on its blocks for each depth.

    `base` names another base model of three blocks; `more` holds further settings by section.
    """
    import torch

    from nic_ray.config import Config
    from nic_ray.model.activations import feed, frozen_inputs
    from nic_ray.model.encoder import upper
    from nic_ray.model.evaluation import evaluate
    from nic_ray.selection.candidates import Candidate
    from nic_ray.training.prepared import prepare

    def make(*depths: int, base: Path | None = None, more: "dict[str, dict[str, Any]] | None" = None) -> Any:
        given = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        # in fp32 on any processor: what is compared with has not been rounded either
        train = {"base_model": str(base or tiny_model(layers=3)), "frozen_layers": depths[0], "max_tokens": 64}
        train["precision"] = "fp32"
        guard = {"min_neighbours_kept": 0}  # noise on the weights leaves no neighbour where it was
        sections = {"data": given, "train": train, "guard": guard}
        for name, values in (more or {}).items():
            sections[name] = {**sections.get(name, {}), **values}
        settings = Config.model_validate(sections)
        prepared = prepare(settings, on_gpu=False)
        inputs = frozen_inputs(prepared.encoder, prepared.tokens, sorted(set(depths)))
        candidates = []
        for number, depth in enumerate(depths):
            part = upper(prepared.encoder, depth, from_ids=False)
            generator = torch.Generator().manual_seed(number)
            weights = {
                name: value + 0.3 * torch.randn(value.shape, generator=generator)
                for name, value in part.trained_state().items()
            }
            part.load_trained_state(weights)
            rows = prepared.rows("validation").tolist()
            metrics = evaluate(part, feed(inputs[depth], "cpu"), prepared.collection, rows)
            own = prepared.config.train.model_copy(update={"frozen_layers": depth})
            candidates.append(Candidate(f"trial-{number:03d}", own, metrics | {"epoch": 1.0}, weights))
        return prepared, inputs, candidates

    return make


def _pairs() -> list[Pair]:
    rows = []
    for domain, parts in PARTS.items():
        cases = list(zip(parts.split(), FAULTS.split(), ACTIONS.split(), strict=True))
        passages = [f"{action} the {domain} {part} when it is {fault}." for part, fault, action in cases]
        others = passages[1:] + passages[:1]
        for (part, fault, _), passage, other in zip(cases, passages, others, strict=True):
            rows.append(Pair(f"what to do about a {fault} {part}?", passage, domain, (other,)))
            rows.append(Pair(f"my {part} is {fault}", passage, domain))
    return rows


def _save_model(folder: Path, model_type: ModelType, layers: int) -> Path:
    # Imported here, so that tests without a model do not wait for it.
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    checkpoint = folder / "checkpoint"
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * (model_type == "bert")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_word_pieces(),
        model_max_length=MAX_TOKENS,
        model_input_names=inputs,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    tokenizer.save_pretrained(checkpoint)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        pad_token_id=PAD_ID,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS + PAD_ID + 1,
        initializer_range=0.1,  # at the usual 0.02 attention in so narrow a model is even, and hides errors
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(checkpoint)
    transformer = Transformer(str(checkpoint), max_seq_length=MAX_TOKENS)
    modules = [transformer, Pooling(config.hidden_size, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def _word_pieces() -> "Tokenizer":
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    sentences = [text for pair in _pairs() for text in (pair.query, pair.positive)]
    words = dict.fromkeys(re.findall(r"[a-z]{2,}", " ".join(sentences).lower()))
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    pieces = [*SPECIAL_TOKENS, *characters, *(f"##{c}" for c in characters if c.isalnum()), *words]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer
