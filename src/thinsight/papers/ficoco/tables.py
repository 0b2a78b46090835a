"""Tables of the page on FiCoCo."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from scipy import stats

from thinsight.analysis.results import PICTURE_TOKENS, budgets_at, score_cells
from thinsight.papers.ficoco.ablations import AS_IT_IS, PAIRS, POINTS
from thinsight.papers.ficoco.flops import PRINTED_MODELS
from thinsight.report.tables import render
from thinsight.report.wording import listed
from thinsight.stats import Resampled

PRUNED, ITSELF = "fixed K=0 (prune)", ("fixed K=1", "average compression")


def ficoco_finding(
    both: pd.DataFrame,
    ranks: Mapping[int, tuple[float, int]],
    ablations: Mapping[str, pd.DataFrame],
    counted: pd.DataFrame,
    cost: pd.DataFrame,
) -> str:
    """The page's finding, in paragraphs of markdown.

    both, ranks  `thinsight.papers.ficoco.tables.published_beside` and ``ranks``
    ablations    method -> `thinsight.papers.ficoco.ablations.ficoco_ablation`
    counted      edges of leavers (`thinsight.papers.ficoco.internals.edges_of`) of the method as it is
    cost         `thinsight.papers.ficoco.flops.tflops_costs`; of the lines that begin with "FiCoCo-L," the one with the fewest tokens
    """
    said = [standing_finding(both, ranks), _pruned(ablations), _itself(ablations), edges_finding(counted), _cost(cost)]
    return "\n\n".join(sentence for sentence in said if sentence)


def standing_finding(both: pd.DataFrame, ranks: Mapping[int, tuple[float, int]]) -> str:
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


def edges_finding(counted: pd.DataFrame) -> str:
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


def ablation_html(tables: Mapping[str, pd.DataFrame], tasks: Sequence[str]) -> str:
    """The `ablation`s of several methods as one table: for each a block, and one of what only we ran."""
    columns = ["mean", "difference", "direction", "same answers", *tasks]
    groups = [("printed", list(PAIRS)), ("measured here", columns)]
    blocks = []
    for title, table in tables.items():
        known = table["row"].isin(POINTS[title])
        further = ~known & ~table["row"].str.fullmatch(r"\w+=[\d.]+") | table["row"].str.startswith("most=")
        for head, part in ((title, table[known]), (f"{title}, not in the paper", table[further])):
            if len(part):
                blocks.append({"head": head, "lines": [_line(row, table.iloc[0], tasks) for _, row in part.iterrows()]})
    return render("numbers.html.j2", groups=groups, blocks=blocks)


def flops_html(printed: pd.DataFrame, cached: pd.DataFrame, cost: pd.DataFrame, least: Mapping[int, float]) -> str:
    """`labels`, `caches`, `costs` and `floor` as one table: what is printed, then what runs."""
    columns = ["printed", "visual tokens", "uniform count", "tokens that fit"]
    groups = [
        ("in every layer alike", columns),
        ("as it runs", ["layer mean", "formula", "counted", "KV MB", "tower"]),
    ]
    runs = [
        _cells("", f"{row['kept']:.0f}", row["uniform"], "", f"{row['mean']:.0f}", row["formula"], row["counted"],
               f"{row['cache']:.0f}", row["tower"])
        for _, row in cost.iterrows()
    ]  # fmt: skip
    runs = [{"title": title, "cells": cells} for title, cells in zip(cost["label"], runs, strict=True)]
    ends = {f"no visual token after {k} layers": value for k, value in least.items()}
    runs += [{"title": title, "cells": _cells(*[""] * 5, value, *[""] * 3)} for title, value in ends.items()]
    blocks = []
    for model, part in printed.groupby("model", sort=False):
        lines = [_label(row) for _, row in part.iterrows()]
        lines += [_cached(row) for _, row in cached[cached["model"] == model].iterrows()]
        with_text = f"{model} with {part['text'].iloc[0]} text tokens"
        blocks.append({"head": f"{with_text}: what the tables print", "lines": lines})
        if model == PRINTED_MODELS[0].title:
            blocks.append({"head": f"{with_text}: what runs", "lines": runs})
    return render("numbers.html.j2", groups=groups, blocks=blocks)


def _label(row: pd.Series) -> dict[str, Any]:
    """A printed TFLOPs label."""
    stated = "" if row["stated"] != row["stated"] else f"{row['stated']:.0f}"
    uniform, counted = ("" if row[name] != row[name] else row[name] for name in ("uniform", "counted"))
    title = "whole model" if row["whole"] else "reduced"
    cells = _cells(f"{row['printed']:g} T", stated, uniform, f"{row['implied']}", "", "", counted, "", "")
    return {"title": title, "note": row["where"], "cells": cells}


def _cached(row: pd.Series) -> dict[str, Any]:
    """A printed key-value cache."""
    cells = _cells(f"{row['printed']:g} MB", "", "", f"{row['fits']:.1f}", *[""] * 5)
    return {"title": f"KV cache, {row['row']}", "cells": cells}


def _cells(*values: Any) -> list[dict[str, str]]:
    """Texts as they are, numbers in T."""
    return [{"text": f"{v:.2f} T" if isinstance(v, float) else v} for v in values]


def _line(row: pd.Series, base: pd.Series, tasks: Sequence[str]) -> dict[str, object]:
    """One line of the table; small below a printed number: its difference to the method as it is."""
    cells = []
    for name in PAIRS:
        there = row[name] == row[name]
        small = f"{row[name] - base[name]:+.2f}" if there and row["row"] != "full" and base[name] == base[name] else ""
        cells.append({"text": f"{row[name]:.2f}" if there else "–", "small": small})
    if row["point"] is None or row["point"] != row["point"]:
        cells += [{"text": "not run" if at == 0 else "–"} for at in range(len(tasks) + 4)]
        return {"title": row["row"], "note": "", "cells": cells}
    is_base = row["point"] == AS_IT_IS
    words = {True: "same", False: "opposite"}
    said = "" if is_base or row["row"] == row["point"] else words.get(row["agrees"], "undecided")
    cells += [
        {"text": f"{row['mean']:.1f}"},
        {"text": "", "small": ""}
        if is_base
        else {"text": f"{row['difference']:+.1f}", "small": f"{row['low']:+.0f} to {row['high']:+.0f}"},
        {"text": "identical" if said and row["same"] == 1 else said},
        {"text": "" if is_base else f"{row['same']:.0%}"},
    ]
    cells += [{"text": f"{row[task]:.1f}" if task in row and row[task] == row[task] else "–"} for task in tasks]
    title = row["row"].replace("=True", "").replace(",", ", ")
    note = "" if row["row"] == row["point"] or is_base else row["point"].replace("=True", "")
    return {"title": title, "note": note, "cells": cells}


BENCHMARKS = ("ScienceQA-IMG", "TextVQA", "POPE", "GQA", "MMBench", "VQAv2")


MODEL = "LLaVA-1.5-7B"


SHARE = "relative average"


OTHER_METHODS = {"Random": "random", "ToMe": "tome", "EViT": "evit", "FastV": "fastv", "SparseVLM": "sparsevlm",
          "PyramidDrop": "pyramiddrop", "LLaVA-PruMerge": "prumerge"}  # fmt: skip


TABLE_RUNS = {**OTHER_METHODS, "Grid": "grid", "FiCoCo-V": "ficoco_v", "FiCoCo-L": "ficoco_l", "FiCoCo-VL": "ficoco_vl"}
"""Method, as the printed tables have it -> the run that measures it."""


def printed_scores(published: pd.DataFrame) -> pd.DataFrame:
    """One line per method and number of visual tokens of table 1: method, tokens (int; `PICTURE_TOKENS` for vanilla), version, the
    benchmarks, and ``relative average`` (% of vanilla).

    v4's table; what only v1 has (its table 3) has the share computed from the same six benchmarks, as v4 computes it.
    A benchmark that is not printed is NaN, and so is then a share that would have to be computed.
    """
    own = published[(published["model"] == MODEL) & published["table"].isin(["Table 1", "Table 3"])]
    own = own[own["version"].isin(["v4", "v1"]) & ((own["method"] == "vanilla") | (own["tokens"] != ""))]
    wide = own.pivot_table(index=["version", "method", "tokens"], columns="column", values="number")
    wide = wide.reindex(columns=[*BENCHMARKS, SHARE])
    means = wide[list(BENCHMARKS)].mean(axis=1, skipna=False)
    whole = means.xs(("vanilla", ""), level=("method", "tokens"))
    shares = 100 * means / means.index.get_level_values("version").map(whole)
    wide[SHARE] = wide[SHARE].fillna(shares)
    table = wide.reset_index().sort_values("version", ascending=False, kind="stable")
    table = table.drop_duplicates(["method", "tokens"])
    table["tokens"] = table["tokens"].replace("", str(PICTURE_TOKENS)).astype(int)
    return table.rename_axis(columns=None)


def measured_scores(
    results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], base: str = "plain"
) -> pd.DataFrame:
    """One line per run of `TABLE_RUNS` and budget that is there: method, run, keep, tokens (of `PICTURE_TOKENS`), the tasks and mean (%),
    share (% of the mean of ``base``) with low and high (95 % bootstrap), kept, visual (a layer's mean), picture."""
    sampled, out = Resampled(rows), []
    whole = sampled.score(base, ["fixed"])
    for keep in keeps:
        for title, run in TABLE_RUNS.items():
            budgets = budgets_at(results, run, keep) if run in set(results["run"]) else []
            if not budgets:
                continue
            score = sampled.score(run, budgets)
            part = score_cells(results, run)
            part = part[part["budget"].isin(budgets)]
            ratios = score.boots.mean(1) / whole.boots.mean(1)
            low, high = pd.Series(ratios).quantile([0.025, 0.975])
            line = {"method": title, "run": run, "keep": keep, "tokens": round(keep * PICTURE_TOKENS)}
            line |= {task: 100 * point for task, point in zip(sampled.tasks, score.point, strict=True)}
            line |= {"mean": 100 * score.mean, "share": 100 * score.mean / whole.mean}
            line |= {"low": 100 * low, "high": 100 * high}
            out.append(line | {name: part[name].mean() for name in ("kept", "visual", "picture")})
    return pd.DataFrame(out)


def published_beside(print_: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """The shares of both where both are: tokens, method, run, printed, share, low, high."""
    both = print_[["method", "tokens", SHARE]].merge(ours, on=["method", "tokens"])
    both = both.rename(columns={SHARE: "printed"}).dropna(subset="printed")
    return both[["tokens", "method", "run", "printed", "share", "low", "high"]]


def rank_agreement_text(both: pd.DataFrame) -> dict[int, tuple[float, int]]:
    """For each number of tokens: Spearman's correlation of printed and measured shares, and of how many methods."""
    found = {}
    for tokens, part in both.groupby("tokens", sort=False):
        rho = stats.spearmanr(part["printed"], part["share"]).statistic if len(part) > 2 else float("nan")
        found[int(tokens)] = (float(rho), len(part))
    return found


def table_html(print_: pd.DataFrame, ours: pd.DataFrame, whole: Mapping[str, float]) -> str:
    """Both as one table, a block per budget; ``whole``: task -> accuracy (%) of the unreduced model."""
    tasks = list(whole)
    groups = [("% of whole", ["printed", "here"]), ("tokens", ["layer mean"])]
    groups += [(f"printed, {MODEL}", list(BENCHMARKS)), ("measured here", [*tasks, "mean"])]
    vanilla = print_[print_["method"] == "vanilla"].iloc[0]
    mean = sum(whole.values()) / len(whole)
    first = [_text(100.0), _text(100.0), _text(None), *(_text(vanilla[b]) for b in BENCHMARKS)]
    first += [*map(_text, whole.values()), _text(mean)]
    blocks = [{"head": "", "lines": [{"title": "whole model", "note": "", "control": True, "cells": first}]}]
    for tokens, own in ours.groupby("tokens", sort=False):
        there = print_[print_["tokens"] == tokens].set_index("method")
        own = own.set_index("method")
        best = {**there[list(BENCHMARKS)].max(), SHARE: there[SHARE].max(), **own[[*tasks, "mean", "share"]].max()}
        lines = []
        for title in TABLE_RUNS:
            if title not in own.index and title not in there.index:
                continue
            said = there.loc[title] if title in there.index else {}
            got = own.loc[title] if title in own.index else {}
            span = f"{got['low']:.0f}–{got['high']:.0f}" if len(got) else "not run"
            row = [_text(said.get(SHARE), best[SHARE]), _text(got.get("share"), best["share"], span)]
            row += [_text(got.get("visual"), digits=0)]
            row += [_text(said.get(name), best[name]) for name in BENCHMARKS]
            row += [_text(got.get(name), best[name]) for name in (*tasks, "mean")]
            note = "printed in v1" if len(said) and said["version"] == "v1" else ""
            lines.append({"title": title, "note": note, "control": title in ("Random", "Grid"), "cells": row})
        here = own.iloc[0]
        head = f"{tokens} of {PICTURE_TOKENS} visual tokens; here {here['keep'] * here['picture']:.0f} of {here['picture']:.0f}"
        blocks.append({"head": head, "lines": lines})
    return render("numbers.html.j2", groups=groups, blocks=blocks)


def _text(value: float | None, best: float | None = None, small: str = "", digits: int = 1) -> dict[str, object]:
    """A cell: a number, bold if it is the ``best``; a dash for none."""
    if value is None or value != value:
        return {"text": "–", "small": small, "best": False}
    return {"text": f"{value:.{digits}f}", "small": small, "best": best is not None and value >= best - 1e-9}
