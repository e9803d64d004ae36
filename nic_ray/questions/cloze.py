"""Questions from a section's first sentence, which is taken out of the passage that is to be found."""

import random
from collections.abc import Iterator, Sequence

from nic_ray.manuals.sections import Section
from nic_ray.questions.clauses import order_of
from nic_ray.questions.conditions import usable
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import clauses, joined, lowered, sentences, tokens, without_pronouns
from nic_ray.questions.steps import is_step, orders_in
from nic_ray.words import count_words

LARGEST_SHARE = 0.35
"""Of the passage's words that the sentence may have, so that most of the answer is left."""
FEWEST_WORDS = 40
"""That must be left to answer."""
_BEGINNING = frozenset(
    "use used apply applies needed required necessary stored stores set sets recorded logged".split()
)
"""Words of statements that the rest of a section goes on from: "Use this method when", "P0171 is stored when"."""


def from_first_sentence(section: Section, rng: random.Random, names: frozenset[str]) -> Iterator[Draft]:
    """Make questions that the rest of a section answers: what to do in the case that it begins with, what comes next.

    Source: Lee, Chang and Toutanova 2019, "Latent retrieval for weakly supervised open domain question answering"
    (arXiv:1906.00300), for the inverse cloze task.
    """
    found = sentences(section.text)
    if len(found) < 3:
        return
    left = " ".join(found[1:])
    if count_words(left) < FEWEST_WORDS or count_words(found[0]) > LARGEST_SHARE * count_words(section.passage):
        return
    parts = clauses(found[0])
    if len(parts) != 1:
        return
    clause = tokens(parts[0])
    for place, word in enumerate(clause):
        small = word.lower()
        if small in ("when", "if") and (place == 0 or place > 2):
            end = next((n for n in range(place + 1, len(clause)) if clause[n] in (",", ":")), len(clause))
            condition = clause[place + 1 : end]
            main = clause[end + 1 :] if place == 0 else clause[:place]
            if usable(condition) and _leaves_answer(main):
                case = joined([lowered(condition[0], names), *condition[1:]])
                query = rng.choice([f"{case}, what do I do?", f"what to do when {case}", f"{case}, how do I go on?"])
                yield Draft(query, "symptom", "cloze", left)
            return
    orders = orders_in(clause)
    steps = [order for order in orders if not order.never and order.object and without_pronouns(order.all)]
    if orders and steps and len(steps) == len(orders):
        last = steps[-1]
        if is_step(last):
            start = rng.choice(["what do I do after I", "what comes after I", "what is next once I"])
            yield Draft(question(f"{start} {joined(last.all)}"), "direct", "cloze", left, needs_topic=True)


def _leaves_answer(main: Sequence[str]) -> bool:
    """Whether the rest of a section says what to do in the case; not after "Protection is cancelled when ..."."""
    return order_of(main) is not None or bool(_BEGINNING & {word.lower() for word in main})
