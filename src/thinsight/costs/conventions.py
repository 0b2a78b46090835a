"""The ways in which papers on visual-token reduction count floating-point operations, each with its name and source.

The same prefill of LLaVA-1.5-7B is printed as 2.99 T, 3.23 T, 3.82 T or 8.5 T, depending on four choices: whether a
multiply-add is one operation or two, how many matrices the MLP is taken to have, which tokens are counted, and whether
the LM head is. A `Convention` is these choices; a number without one means nothing, so nothing here has a default.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """How to count.

    ``per_mac``: operations per multiply-add (1 or 2). ``matrices``: MLP matrices of ``width x ffn``; None takes those
    that the layer really has (three if gated). ``visual_only``: count visual tokens only, as if the prompt had no text.
    ``head``: rows that the LM head is charged for, "none", "last" or "all". ``exact``: the real widths of grouped keys
    and values, and the biases (one operation per output); otherwise four square matrices, as the formulae are printed.

    Attention is counted in full (n x n products, no discount for causality) by all of them.
    """

    name: str
    sentence: str
    source: str
    per_mac: int
    matrices: int | None
    visual_only: bool = False
    head: str = "none"
    exact: bool = False


FASTV = Convention(
    "fastv",
    "multiply-adds, two MLP matrices: 4nd^2 + 2n^2d + 2ndm per layer, n = all tokens of the sequence, no LM head",
    "FastV (arXiv:2403.06764), FLOPs formula; the text of VTW (arXiv:2405.05803) states the same, see VTW issue #7",
    per_mac=1,
    matrices=2,
)

FASTV_VISUAL = Convention(
    "fastv_visual",
    "multiply-adds, two MLP matrices: 4nd^2 + 2n^2d + 2ndm per layer, n = visual tokens only, no LM head",
    "FastV (arXiv:2403.06764), FLOPs formula, with n read as the visual tokens",
    per_mac=1,
    matrices=2,
    visual_only=True,
)

PYRAMIDDROP = Convention(
    "pyramiddrop",
    "multiply-adds, three MLP matrices: 4nd^2 + 2n^2d + 3ndm per layer, n = all tokens of the sequence, no LM head",
    "PyramidDrop (arXiv:2410.17247) and SparseVLM's released code, per-layer formula, with the text counted",
    per_mac=1,
    matrices=3,
)

PYRAMIDDROP_VISUAL = Convention(
    "pyramiddrop_visual",
    "multiply-adds, three MLP matrices: 4nd^2 + 2n^2d + 3ndm per layer, n = visual tokens only, no LM head",
    "PyramidDrop (arXiv:2410.17247) and the tables that print 3.82 T for LLaVA-1.5-7B with 576 tokens",
    per_mac=1,
    matrices=3,
    visual_only=True,
)

PROFILER = Convention(
    "profiler",
    "two operations per multiply-add, the layer's real matrices (three in a gated MLP: 2n(4d^2 + 3dm) + 4n^2d), "
    "n = all tokens of the sequence, no LM head",
    "reproduces the profiler figures of VTW (8.48 T and 4.68 T; issue #7) and ShortV (8.5 T and 4.7 T)",
    per_mac=2,
    matrices=None,
    exact=True,
)

PROFILER_LAST = Convention(
    "profiler_last_row",
    PROFILER.sentence.replace("no LM head", "LM head on one row per forward pass (what generation computes)"),
    "dense count that reproduces the labels of FiCoCo (arXiv:2411.17686: 8.5 T at 576 visual and 60 text tokens)",
    per_mac=2,
    matrices=None,
    head="last",
    exact=True,
)

PROFILER_ALL = Convention(
    "profiler_all_rows",
    PROFILER.sentence.replace("no LM head", "LM head on every row (a profiler around a plain forward pass)"),
    "a FLOPs profiler run around model(...), which projects every position onto the vocabulary",
    per_mac=2,
    matrices=None,
    head="all",
    exact=True,
)

CONVENTIONS = (FASTV, FASTV_VISUAL, PYRAMIDDROP, PYRAMIDDROP_VISUAL, PROFILER, PROFILER_LAST, PROFILER_ALL)
