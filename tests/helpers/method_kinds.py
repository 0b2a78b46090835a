"""One method for each combination of places, for what depends on where a method acts and not on how it ranks."""

from collections.abc import Iterable

from thinsight.reduction.method import Method


def one_of_each_kind(methods: Iterable[Method], needs: bool = False) -> list[str]:
    """Names of methods, the first of each kind: its places, whether they are inside a layer, whether tokens merge there
    and, if ``needs``, what it asks of the model."""
    kinds: dict[tuple, str] = {}
    for method in methods:
        places = tuple((type(r.site), getattr(r.site, "inside", False), r.merges) for r in method.reductions)
        kinds.setdefault((places, method.needs if needs else None), method.name)
    return list(kinds.values())
