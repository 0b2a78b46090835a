"""FiCoCo's table 1 (arXiv:2411.17686): its methods and those that it recasts, as printed and on the model at hand."""

from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import stats

from thinsight.catalogue import render
from thinsight.resampled import Resampled
from thinsight.results import cells
from thinsight.scoreboard import OF
from thinsight.standing import budgets_at

BENCHMARKS = ("ScienceQA-IMG", "TextVQA", "POPE", "GQA", "MMBench", "VQAv2")
MODEL = "LLaVA-1.5-7B"
SHARE = "relative average"
OTHERS = {"Random": "random", "ToMe": "tome", "EViT": "evit", "FastV": "fastv", "SparseVLM": "sparsevlm",
          "PyramidDrop": "pyramiddrop", "LLaVA-PruMerge": "prumerge"}  # fmt: skip
RUNS = {**OTHERS, "Grid": "grid", "FiCoCo-V": "ficoco_v", "FiCoCo-L": "ficoco_l", "FiCoCo-VL": "ficoco_vl"}
"""Method, as the printed tables have it -> the run that measures it."""


def printed(published: pd.DataFrame) -> pd.DataFrame:
    """One line per method and number of visual tokens of table 1: method, tokens (int; `OF` for vanilla), version, the
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
    table["tokens"] = table["tokens"].replace("", str(OF)).astype(int)
    return table.rename_axis(columns=None)


def measured(results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], base: str = "plain") -> pd.DataFrame:
    """One line per run of `RUNS` and budget that is there: method, run, keep, tokens (of `OF`), the tasks and mean (%),
    share (% of the mean of ``base``) with low and high (95 % bootstrap), kept, visual (a layer's mean), picture."""
    sampled, out = Resampled(rows), []
    whole = sampled.score(base, ["fixed"])
    for keep in keeps:
        for title, run in RUNS.items():
            budgets = budgets_at(results, run, keep) if run in set(results["run"]) else []
            if not budgets:
                continue
            score = sampled.score(run, budgets)
            part = cells(results, run)
            part = part[part["budget"].isin(budgets)]
            ratios = score.boots.mean(1) / whole.boots.mean(1)
            low, high = pd.Series(ratios).quantile([0.025, 0.975])
            line = {"method": title, "run": run, "keep": keep, "tokens": round(keep * OF)}
            line |= {task: 100 * point for task, point in zip(sampled.tasks, score.point, strict=True)}
            line |= {"mean": 100 * score.mean, "share": 100 * score.mean / whole.mean}
            line |= {"low": 100 * low, "high": 100 * high}
            out.append(line | {name: part[name].mean() for name in ("kept", "visual", "picture")})
    return pd.DataFrame(out)


def beside(print_: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """The shares of both where both are: tokens, method, run, printed, share, low, high."""
    both = print_[["method", "tokens", SHARE]].merge(ours, on=["method", "tokens"])
    both = both.rename(columns={SHARE: "printed"}).dropna(subset="printed")
    return both[["tokens", "method", "run", "printed", "share", "low", "high"]]


def ranks(both: pd.DataFrame) -> dict[int, tuple[float, int]]:
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
        for title in RUNS:
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
        head = f"{tokens} of {OF} visual tokens; here {here['keep'] * here['picture']:.0f} of {here['picture']:.0f}"
        blocks.append({"head": head, "lines": lines})
    return render("numbers.html.j2", groups=groups, blocks=blocks)


def _text(value: float | None, best: float | None = None, small: str = "", digits: int = 1) -> dict[str, object]:
    """A cell: a number, bold if it is the ``best``; a dash for none."""
    if value is None or value != value:
        return {"text": "–", "small": small, "best": False}
    return {"text": f"{value:.{digits}f}", "small": small, "best": best is not None and value >= best - 1e-9}
