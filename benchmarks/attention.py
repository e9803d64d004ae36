"""PyTorch's fused attention against the plain formulation, in the trained blocks, forward and backward, in turn.

    python benchmarks/attention.py --lengths 16 64 128 256 [--rounds 15] [--json]

The top blocks of the base model on random hidden states, as many texts of one length as a chunk holds. Both sides have
the same weights; `plain` is attention in separate steps (product, softmax, product). Both compute in bfloat16 where the
processor does, unless --precision says otherwise.
"""

import argparse
import functools
import json
import statistics
import time
from typing import Any
from unittest import mock

import torch
from timing import in_turn, ratios, spread

from nic_ray import hardware
from nic_ray.model import blocks
from nic_ray.model.activations import CHUNK_TOKENS
from nic_ray.model.base import load
from nic_ray.model.cut import set_dropout
from nic_ray.model.encoder import upper

SIDES = {"fused": blocks._fused, "plain": blocks._in_steps}


def main() -> None:
    """Print milliseconds of each side by length, and their ratios in pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64, 128, 256])
    parser.add_argument("--frozen-layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hardware.keep_freed_memory()
    results = [measure(length, arguments) for length in arguments.lengths]
    if arguments.json:
        print(json.dumps(results))
        return
    for result in results:
        shown = ", ".join(f"{side} {statistics.median(own) * 1000:.1f} ms" for side, own in result["seconds"].items())
        of = f"{result['texts']:3} texts of {result['length']:3} tokens"
        print(f"{of}: {shown}; plain / fused {spread(result['ratios'])}")


def measure(length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of forward and backward of one chunk, each side in turn."""
    encoder = load("all-MiniLM-L6-v2")
    part = upper(encoder, arguments.frozen_layers).train()
    set_dropout(part, attention=0.0, hidden=0.1)
    texts = CHUNK_TOKENS["cpu"] // length
    hidden = torch.randn(texts, length, int(encoder.transformer.config.hidden_size))  # type: ignore[union-attr, arg-type]
    mask = torch.ones(texts, length, dtype=torch.int64)
    mask[0, length // 2 :] = 0  # as in a batch of unlike texts, so that the mask is not left out
    bf16 = hardware.computes_in_bf16(arguments.precision, "cpu")
    hidden = hidden.to(torch.bfloat16 if bf16 else torch.float32)

    def chunk_with(attend: Any, _: int) -> float:
        with mock.patch.multiple(blocks, _fused=attend, _in_steps=attend):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                embedded = part(hidden, mask)
            embedded.square().sum().backward()
            return time.perf_counter() - started

    sides = {side: functools.partial(chunk_with, attend) for side, attend in SIDES.items()}
    seconds = in_turn(sides, arguments.rounds, warm_up=2)
    return {
        "precision": "bf16" if bf16 else "fp32",
        "length": length,
        "texts": texts,
        "seconds": seconds,
        "ratios": ratios(seconds["plain"], seconds["fused"]),
    }


if __name__ == "__main__":
    main()
