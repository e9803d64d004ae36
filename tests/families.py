"""Tiny random base models of every family, saved as Sentence Transformers folders."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoConfig, AutoModel, AutoTokenizer, T5Config, T5EncoderModel

WIDTH = 32
BLOCKS = 4
_SIZES = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 4, "intermediate_size": 64}
_ENCODER = _SIZES | {"max_position_embeddings": 66}
_DECODER = _SIZES | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is built, and what is expected of it."""

    kind: str
    """Transformers' name of the model type."""
    settings: dict[str, Any]
    pooling: str = "mean"
    uncut: str = ""
    """Why the model cannot be cut at a block; empty if it can."""
    no_onnx: str = ""
    """Why the model cannot be converted to ONNX; empty if it can."""
    plain: bool = False
    """Whether its blocks are replaced by `blocks.Blocks`."""
    special: dict[str, int] = field(default_factory=lambda: {"pad_token_id": 1})


FAMILIES = {
    "BERT": Family("bert", _ENCODER, plain=True),
    "RoBERTa": Family("roberta", _ENCODER, plain=True),
    "XLM-R": Family("xlm-roberta", _ENCODER, plain=True),
    "MPNet": Family("mpnet", _ENCODER),
    "DistilBERT": Family(
        "distilbert", {"dim": WIDTH, "hidden_dim": 64, "n_layers": BLOCKS, "n_heads": 4, "max_position_embeddings": 66}
    ),
    "ALBERT": Family("albert", _ENCODER | {"embedding_size": 16}, uncut="its blocks share their weights"),
    "DeBERTa-v2": Family(
        "deberta-v2",
        _ENCODER | {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]},
    ),
    "DeBERTa-v2 with a convolution": Family(
        "deberta-v2", _ENCODER | {"conv_kernel_size": 3}, uncut="a layer lies beside its first block"
    ),
    "ELECTRA": Family("electra", _ENCODER | {"embedding_size": 16}, pooling="cls", plain=True),
    "ModernBERT": Family(
        "modernbert",
        _SIZES | {"max_position_embeddings": 64, "global_attn_every_n_layers": 3, "local_attention": 8},
        pooling="cls",
        special={"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    ),
    "NomicBERT": Family("nomic_bert", _SIZES | {"max_position_embeddings": 64}),
    "T5 encoder": Family("t5", {"d_model": WIDTH, "d_ff": 64, "num_layers": BLOCKS, "num_heads": 4, "d_kv": 8}),
    "Qwen3": Family("qwen3", _DECODER, pooling="lasttoken"),
    "Gemma 3 text": Family("gemma3_text", _DECODER | {"sliding_window": 8}),
    "Llama": Family("llama", _DECODER, pooling="lasttoken"),
}


def save_tiny(family: Family, tokenizer: Path, folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny model with random weights.

    Args:
        tokenizer: folder of the tokenizer that it gets.
        folder: an empty folder.

    Returns:
        the Sentence Transformers folder inside `folder`.
    """
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(folder)
    deviation = {"initializer_factor": 1.0} if family.kind == "t5" else {"initializer_range": 0.1}
    settings = family.settings | family.special | deviation | {"vocab_size": len(words)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family.kind == "t5":
            T5EncoderModel(T5Config(**settings)).save_pretrained(folder)
        else:
            AutoModel.from_config(AutoConfig.for_model(family.kind, **settings)).save_pretrained(folder)
    modules = [Transformer(str(folder), max_seq_length=64), Pooling(WIDTH, family.pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    return folder / "model"
