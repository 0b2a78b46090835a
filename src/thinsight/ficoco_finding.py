"""What FiCoCo's page found, in sentences of markdown, from the same numbers as its tables."""

from collections.abc import Mapping

import pandas as pd

from thinsight.ficoco_fields import PAIRS
from thinsight.words import listed

PRUNED, ITSELF = "fixed K=0 (prune)", ("fixed K=1", "average compression")


def finding(
    both: pd.DataFrame,
    ranks: Mapping[int, tuple[float, int]],
    ablations: Mapping[str, pd.DataFrame],
    counted: pd.DataFrame,
    cost: pd.DataFrame,
) -> str:
    """The page's finding, in paragraphs of markdown.

    both, ranks  `thinsight.ficoco_table.beside` and ``ranks``
    ablations    method -> `thinsight.ficoco_fields.ablation`
    counted      edges of leavers (`thinsight.ficoco_edges.edges_of`) of the method as it is
    cost         `thinsight.ficoco_flops.costs`; of the lines that begin with "FiCoCo-L," the one with the fewest tokens
    """
    said = [standing(both, ranks), _pruned(ablations), _itself(ablations), edges(counted), _cost(cost)]
    return "\n\n".join(sentence for sentence in said if sentence)


def standing(both: pd.DataFrame, ranks: Mapping[int, tuple[float, int]]) -> str:
    own = both[both["method"].str.startswith("FiCoCo")]
    if not len(own):
        return "None of FiCoCo's methods has been run."
    tokens = own["tokens"].min()
    rows = own[own["tokens"] == tokens]
    said = zip(rows["method"].str.removeprefix("FiCoCo-"), rows["share"], rows["printed"], strict=True)
    parts = [f"{method} keeps {share:.0f} % (printed {there:.0f} %)" for method, share, there in said]
    rho, count = ranks[int(tokens)]
    tail = f"; printed and measured order of {count} methods: rank correlation {rho:+.2f}" if rho == rho else ""
    return f"At {tokens} tokens of 576 {listed(parts)} of the whole model's score{tail}."


def _pruned(ablations: Mapping[str, pd.DataFrame]) -> str:
    """Pruning beside merging."""
    parts = []
    for method, table in ablations.items():
        ran, change = _ran(table)
        if PRUNED in ran.index:
            row = ran.loc[PRUNED]
            mark = "" if row["low"] <= 0 <= row["high"] else "**"
            here = f"{mark}{row['difference']:+.1f} points{mark}"
            parts.append(f"{method.removeprefix('FiCoCo-')} by {here} (printed {change[PRUNED]:+.1f})")
    return f"Pruning by the same scores instead of merging changes {listed(parts)}." if parts else ""


def _itself(ablations: Mapping[str, pd.DataFrame]) -> str:
    """Rows of the ablations that are the method itself."""
    parts = []
    for method, table in ablations.items():
        ran, change = _ran(table)
        if all(name in ran.index and ran.loc[name, "same"] == 1 for name in ITSELF):
            printed = " and ".join(f"{change[name]:+.1f}" for name in ITSELF)
            parts.append(f"{method.removeprefix('FiCoCo-')} (printed {printed} points)")
    return f"Fixed K = 1 and average compression are, answer by answer, the same as {listed(parts)}." if parts else ""


def _ran(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The lines that were run, by row, and the printed differences to the method as it is."""
    ran = table[table["point"].notna()].set_index("row")
    return ran, (ran[list(PAIRS)] - table.set_index("row").loc["full", list(PAIRS)]).mean(axis=1)


def edges(counted: pd.DataFrame) -> str:
    if not len(counted):
        return ""
    kinds = counted.groupby("layer")["edges"].nunique().max()
    most = counted.groupby("layer")["most"].mean().max()
    what = "gives all leavers equally many edges" if kinds == 1 else f"gives up to {kinds} numbers of edges"
    return (
        f"The quantile of a row {what}, and the busiest stayer takes in {most:.0f} leavers: {1 / (1 + most):.0%} of it "
        "is its own, where the paper claims half or more."
    )


def _cost(cost: pd.DataFrame) -> str:
    own = cost[cost["label"].str.startswith("FiCoCo-L,")]
    if not len(own):
        return ""
    row = own.loc[own["kept"].idxmin()]
    return (
        f"The TFLOPs printed for L count the last layer's tokens in every layer ({row['uniform']:.1f} T for "
        f"{row['kept']:.0f}); the prefill that ends with them takes **{row['formula']:.1f} T**."
    )
