"""How a server of embeddings handles prompts, long texts and lengths of vectors, found out by asking it.

Servers differ: one knows the role of a text and puts its prompt before it, one embeds every text as it is sent, one
puts the prompt for queries before passages as well. The golden vectors tell which way gives the exported model's, and
the model itself, run here, tells what the server does the other ways.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nic_ray.bundle.golden import Golden, cosines_of
from nic_ray.bundle.served import Asking, RefusedError, Role, Server, embedded
from nic_ray.errors import RunError

Raw = Callable[[Role, Sequence[str], str], NDArray[np.float32]]
"""Role, texts, and the prompt put before them, which may be another one than the role's -> what the model makes of
them here."""

ROLES: tuple[Role, Role] = ("query", "document")
NAMES: Mapping[Role, str] = {"query": "queries", "document": "passages"}
USUAL_LIMITS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
"""Numbers of tokens at which servers cut texts off."""
UNIT = 1e-3
"""By how much the length of a vector may differ from 1, or from the stored one's."""


@dataclass(frozen=True)
class Way:
    """A way of asking a server for the embedding of a query or of a passage."""

    name: str
    input_type: bool = False
    suffix: bool = False
    by_client: bool = False
    """Whether the client puts the prompts before the texts."""


PLAIN = Way("the texts as they are")
WAYS = (
    Way("input_type", input_type=True),
    Way("a suffix of the model's name", suffix=True),
    PLAIN,
    Way("prompts put before the texts by the client", by_client=True),
)
"""The first that gives the exported model's vectors is the one to use."""


@dataclass(frozen=True)
class Handling:
    """How a server is to be asked, and what it does otherwise."""

    way: Way
    """The way whose vectors are the exported model's; where there is none, the one that comes nearest."""
    lowest: Mapping[Role, float]
    """Lowest cosine of a golden text that is not cut off, asked in that way."""
    sound: bool
    findings: list[str]
    """What whoever asks this server must know, one sentence each."""


def embed_served(
    server: Server, way: Way, role: Role, texts: Sequence[str], prompts: Mapping[str, str]
) -> NDArray[np.float32]:
    """Embed texts of a role by a server, asked in a way; raises as `served.embedded`."""
    sent = [prompts.get(role, "") + text for text in texts] if way.by_client else texts
    return embedded(server, sent, asking_of(way, role))


def asking_of(way: Way, role: Role) -> Asking:
    """The request for texts of a role."""
    return Asking(role if way.input_type else None, f"-{role}" if way.suffix else "")


def handling_of(server: Server, golden: Golden, raw: Raw, least: float) -> Handling:
    """Find the way in which a server gives the exported model's vectors of the golden texts.

    Args:
        server: the server.
        golden: the golden texts and vectors.
        raw: the exported model itself.
        least: lowest cosine allowed.

    Raises:
        InputError, RunError: as `served.embedded`; or the vectors have another width than the model's.
    """
    short = _shortened(golden)
    texts: Mapping[Role, Sequence[str]] = {"query": short.queries, "document": short.documents}
    expected = {"query": short.query_vectors, "document": short.document_vectors}
    has_prompts = any(golden.prompts.get(role) for role in ROLES)
    vectors: dict[Way, dict[Role, NDArray[np.float32]]] = {}
    findings = []
    for way in WAYS if has_prompts else [PLAIN, WAYS[0]]:
        try:
            vectors[way] = {role: embed_served(server, way, role, texts[role], golden.prompts) for role in ROLES}
        except RefusedError as error:
            findings.append(f"{way.name}: refused ({error})")
    if not vectors:
        raise RunError(f"{server.base}: refuses the golden texts in every way of asking ({'; '.join(findings)})")
    _refuse_other_width(server, next(iter(vectors.values()))["query"], golden)
    lowest = {
        way: {role: float(np.nan_to_num(cosines_of(own[role], expected[role]), nan=-1).min()) for role in ROLES}
        for way, own in vectors.items()
    }
    order = [way for way in (WAYS if has_prompts else (PLAIN, WAYS[0])) if way in vectors]
    chosen = next((way for way in order if min(lowest[way].values()) >= least), None)
    best = chosen or max(order, key=lambda way: sum(cosines_of(vectors[way][r], expected[r]).sum() for r in ROLES))
    if chosen is None or has_prompts:
        findings += _what_it_does(vectors, texts, golden, raw, least)
    if chosen is not None and chosen.by_client:
        findings.append("clients must put the prompts before the texts themselves: " + _shown(golden.prompts))
    findings += _lengths(vectors[best], expected)
    return Handling(best, lowest[best], chosen is not None, findings)


def long_text_finding(
    server: Server, handling: Handling, golden: Golden, model: Callable[[int | None], Raw], least: float
) -> tuple[str | None, bool]:
    """Tell how a server treats a passage that is longer than the model reads.

    Args:
        server: the server.
        handling: how it is asked.
        golden: the golden texts; the last passage is the long one.
        model: the exported model when it cuts texts off at a number of tokens.
        least: lowest cosine allowed.

    Returns:
        a sentence, None where it does as the model does; and whether clients that cut texts off themselves are served
        well.
    """
    text, expected = golden.documents[-1:], golden.document_vectors[-1:]
    try:
        vector = embed_served(server, handling.way, "document", text, golden.prompts)
    except RefusedError as error:
        return f"refuses a text that is longer than the model reads, which it would cut off ({error})", True
    if cosines_of(vector, expected)[0] >= least:
        return None, True
    if (tokens := _cut_at(vector, golden, model, least)) is not None:
        return f"cuts texts at {tokens} tokens, the exported model at {golden.max_tokens}", False
    return (
        f"gives another vector of a text that is longer than the {golden.max_tokens} tokens that the exported model "
        f"reads (cosine {cosines_of(vector, expected)[0]:.4f})"
    ), False


def _cut_at(
    vector: NDArray[np.float32], golden: Golden, model: Callable[[int | None], Raw], least: float
) -> int | None:
    """The number of tokens at which the long passage was cut off, if it is one of the usual ones."""
    before = golden.prompts.get("document", "")
    for tokens in USUAL_LIMITS:
        if cosines_of(vector, model(tokens)("document", golden.documents[-1:], before))[0] >= least:
            return tokens
    return None


def _shortened(golden: Golden) -> Golden:
    """The golden texts without the long passage, which servers may refuse."""
    return replace(golden, documents=golden.documents[:-1], document_vectors=golden.document_vectors[:-1])


def _what_it_does(
    vectors: Mapping[Way, Mapping[Role, NDArray[np.float32]]],
    texts: Mapping[Role, Sequence[str]],
    golden: Golden,
    raw: Raw,
    least: float,
) -> list[str]:
    """What a server puts before texts, in each way of asking that does not give the exported model's vectors."""
    own = {role: golden.prompts.get(role, "") for role in ROLES}
    findings = []
    for way in (PLAIN, WAYS[0], WAYS[1]):
        if way not in vectors:
            continue
        for role in ROLES:
            candidates = dict.fromkeys(["", own["query"], own["document"], own[role] * 2])
            found = next(
                (
                    prompt
                    for prompt in [own[role], *candidates]
                    if cosines_of(vectors[way][role], raw(role, texts[role], prompt)).min() >= least
                ),
                None,
            )
            if found != own[role]:
                findings.append(_told(way, role, own, found))
    return findings


def _told(way: Way, role: Role, own: Mapping[Role, str], found: str | None) -> str:
    what = NAMES[role]
    asked = {PLAIN: "without input_type", WAYS[0]: "with input_type", WAYS[1]: "with a suffix"}[way]
    if found is None:
        return f"{asked}, the server gives vectors of {what} that are the model's with none of its prompts"
    if found == "":
        return f'{asked}, the server embeds {what} without the prompt "{own[role]}"'
    if found == own[role] * 2 and own[role]:
        return f'{asked}, the server puts the prompt "{own[role]}" twice before {what}'
    other = "queries" if found == own["query"] else "passages"
    return f'{asked}, the server puts the prompt for {other}, "{found}", before {what} as well'


def _lengths(vectors: Mapping[Role, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """Whether the vectors are as long as the exported model's; cosines do not depend on that."""
    served, stored = (
        np.concatenate([np.linalg.norm(own[role], axis=1) for role in ROLES]) for own in (vectors, expected)
    )
    if np.allclose(served, stored, rtol=UNIT):
        return []
    if np.allclose(served, 1, atol=UNIT):
        return ["the server normalises vectors to length 1, which the exported model does not; cosines are the same"]
    if np.allclose(stored, 1, atol=UNIT):
        return [
            f"the server does not normalise vectors (lengths {served.min():.3g} to {served.max():.3g}), the exported "
            "model gives them length 1: compare them by cosine, not by dot product"
        ]
    return [f"the server's vectors have lengths {served.min():.3g} to {served.max():.3g}, the model's others"]


def _refuse_other_width(server: Server, vectors: NDArray[np.float32], golden: Golden) -> None:
    width, want = vectors.shape[1], golden.query_vectors.shape[1]
    if width != want:
        raise RunError(
            f"{server.base}: vectors of {width} numbers, want {want}; another model is served, or its vectors are cut"
        )


def _shown(prompts: Mapping[str, str]) -> str:
    return ", ".join(f'"{prompt}" before {NAMES[role]}' for role in ROLES if (prompt := prompts.get(role)))
