"""``docs/generation.md``: the table of ways of generating, written from outcomes and read back."""

import re
from collections import defaultdict
from collections.abc import Mapping

from helpers.generation import FEATURES

Outcomes = Mapping[tuple[str, str, str], str | None]
"""(feature, method, family) -> None where it is right, or the sentence with which it is refused."""

HEAD = """# Ways of generating

Written by `pytest tests/runtime/test_generation.py --write-docs`, which runs every way of generating inside `reduce`
with every method on a tiny model of every family, and compares what comes out with greedy decoding by the same method:
the logits of the first step, the places kept, the answer. A way that cannot be right is refused in one sentence, before
anything is computed where the arguments of `generate` show it. The tests that run by default try every method on one
family, and on each of the others a few, so that every kind of place is tried on two.

| way | what is called, and what has to come out | outcome |
| --- | --- | --- |
"""
TAIL = """
`torch.compile` is tried on the first family alone. Contrastive search is not in transformers 5 any more (it has moved
to a repository on the hub): not run. Quantised caches of quanto and hqq, which are not installed: not run.
Assistants that are the reduced model itself, `assistant_early_exit`, paged and sliding caches and flex attention are
refused. A random choice depends on the seed, the prompt and its pictures alone, and so on none of these.
Where a method acts in front of the projector, `image_hidden_states` of an output holds NaN rows for the patches that
have left. Decoders that are not quite Llama's (scaled residuals, another rotation) are compared with Llama's sums on
a small layer with random weights, and refused where a method would look at what differs.

## Methods that do not act on a family

The tiny models have no text tower (methods that need one take `space=llm`), and those of LLaVA-NeXT three blocks in
their vision towers; where positions have several axes, `positions=keep` is set.

| family | methods | sentence |
| --- | --- | --- |
"""


def written(acts: Mapping[tuple[str, str], str | None], outcomes: Outcomes) -> str:
    """The document."""
    lines = []
    for feature, (call, _) in FEATURES.items():
        refused, right = defaultdict(set), set()
        for (name, method, _), sentence in outcomes.items():
            if name == feature and sentence is None:
                right.add(method)
            elif name == feature:
                refused[sentence].add(method)
        parts = [f"refused for {_names(names, right)}: \u201c{sentence}\u201d" for sentence, names in refused.items()]
        lines.append(f"| {feature} | {call} | {'; '.join(parts) or 'right'} |")
    places = defaultdict(list)
    for (family, method), sentence in acts.items():
        if sentence is not None:
            places[family, sentence].append(method)
    where = [f"| {at} | {_code(sorted(names))} | {sentence} |" for (at, sentence), names in sorted(places.items())]
    return HEAD + "\n".join(lines) + "\n" + TAIL + "\n".join(where) + "\n"


def refusals(document: str) -> dict[str, dict[str, set[str]]]:
    """Feature -> sentence -> the methods that are refused with it; ``{"all"}`` for all of them."""
    table = {}
    for feature in FEATURES:
        outcome = re.search(rf"^\| {re.escape(feature)} \|.*\| (.*) \|$", document, re.MULTILINE)[1]
        found = re.findall(r"refused for (.*?): \u201c(.*?)\u201d", outcome)
        table[feature] = {sentence: set(re.findall(r"`(\w+)`", names)) or {"all"} for names, sentence in found}
    return table


def _names(methods: set[str], right: set[str]) -> str:
    return _code(sorted(methods)) if right else "all"


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
