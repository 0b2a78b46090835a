"""Tables of the page on FiCoCo."""

from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import stats

from thinsight.analysis.results import PICTURE_TOKENS, budgets_at, score_cells
from thinsight.papers.ficoco.ablations import AS_IT_IS, PAIRS, POINTS
from thinsight.papers.ficoco.flops import PRINTED_MODELS
from thinsight.report.tables import board
from thinsight.stats import Bootstrap

BENCHMARKS = ("ScienceQA-IMG", "TextVQA", "POPE", "GQA", "MMBench", "VQAv2")
MODEL = "LLaVA-1.5-7B"
SHARE = "relative average"

OTHER_METHODS = {"Random": "random", "ToMe": "tome", "EViT": "evit", "FastV": "fastv", "SparseVLM": "sparsevlm",
          "PyramidDrop": "pyramiddrop", "LLaVA-PruMerge": "prumerge"}  # fmt: skip

TABLE_RUNS = {**OTHER_METHODS, "Grid": "grid", "FiCoCo-V": "ficoco_v", "FiCoCo-L": "ficoco_l", "FiCoCo-VL": "ficoco_vl"}
"""Method, as the printed tables have it -> the run that measures it."""


def printed_scores(published: pd.DataFrame) -> pd.DataFrame:
    """One line per method and number of visual tokens of table 1: method, tokens (int; `PICTURE_TOKENS` for vanilla),
    version, the benchmarks, and ``relative average`` (% of vanilla).

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
    """One line per run of `TABLE_RUNS` and budget that is there: method, run, keep, tokens (of `PICTURE_TOKENS`), the
    tasks and mean (%), share (% of the mean of ``base``) with low and high (95 % bootstrap), kept, visual (a layer's
    mean), picture."""
    sampled, out = Bootstrap(rows), []
    whole = sampled.score(base, ["fixed"])
    for keep in keeps:
        for title, run in TABLE_RUNS.items():
            budgets = budgets_at(results, run, keep) if run in set(results["run"]) else []
            if not budgets:
                continue
            score = sampled.score(run, budgets)
            part = score_cells(results, run)
            part = part[part["budget"].isin(budgets)]
            low, high = score.average().over(whole.average()).interval()
            line = {"method": title, "run": run, "keep": keep, "tokens": round(keep * PICTURE_TOKENS)}
            line |= {task: 100 * point for task, point in zip(sampled.tasks, score.estimate, strict=True)}
            line |= {"mean": 100 * score.mean, "share": 100 * score.mean / whole.mean}
            line |= {"low": 100 * low, "high": 100 * high}
            out.append(line | {name: part[name].mean() for name in ("kept", "visual", "picture")})
    return pd.DataFrame(out)


def published_beside(print_: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """The shares of both where both are: tokens, method, run, printed, share, low, high."""
    both = print_[["method", "tokens", SHARE]].merge(ours, on=["method", "tokens"])
    both = both.rename(columns={SHARE: "printed"}).dropna(subset="printed")
    return both[["tokens", "method", "run", "printed", "share", "low", "high"]]


def rank_correlations(both: pd.DataFrame) -> dict[int, tuple[float, int]]:
    """For each number of tokens: Spearman's correlation of printed and measured shares, and of how many methods."""
    found = {}
    for tokens, part in both.groupby("tokens", sort=False):
        rho = stats.spearmanr(part["printed"], part["share"]).statistic if len(part) > 2 else float("nan")
        found[int(tokens)] = (float(rho), len(part))
    return found


def comparison_table(printed: pd.DataFrame, measured: pd.DataFrame, whole: Mapping[str, float]) -> str:
    """Printed and measured scores, a block per budget; ``whole``: task -> accuracy (%) of the unreduced model."""
    tasks, here, head = list(whole), "measured here", f"printed, {MODEL}"
    columns = [("% of whole", "printed"), ("% of whole", "here"), ("tokens", "layer mean")]
    columns += [(head, name) for name in BENCHMARKS] + [(here, name) for name in (*tasks, "mean")]
    vanilla = printed[printed["method"] == "vanilla"].iloc[0]
    mean = sum(whole.values()) / len(whole)
    lines = [[100.0, 100.0, None, *vanilla[list(BENCHMARKS)], *whole.values(), mean]]
    index, notes, small, bold = [("", "whole model")], [""], [""], [pd.Series(False, columns)]
    for tokens, ours in measured.groupby("tokens", sort=False):
        theirs, row = printed[printed["tokens"] == tokens].set_index("method"), ours.iloc[0]
        ours = ours.set_index("method")
        titles = [title for title in TABLE_RUNS if title in ours.index or title in theirs.index]
        theirs, ours = theirs.reindex(titles), ours.reindex(titles)
        parts = [theirs[SHARE], ours[["share", "visual"]], theirs[list(BENCHMARKS)], ours[[*tasks, "mean"]]]
        block = pd.concat(parts, axis=1).set_axis(columns, axis=1)
        best = block.eq(block.max()) & (pd.Series(columns, columns) != ("tokens", "layer mean"))
        visible = f"here {row['keep'] * row['picture']:.0f} of {row['picture']:.0f}"
        index += [(f"{tokens} of {PICTURE_TOKENS} visual tokens; {visible}", title) for title in titles]
        notes += ["printed in v1" if version == "v1" else "" for version in theirs["version"]]
        small += [
            f"{low:.0f}–{high:.0f}" if low == low else "not run"
            for low, high in zip(ours["low"], ours["high"], strict=True)
        ]
        lines += block.to_numpy().tolist()
        bold += [best.loc[title] for title in titles]
    names = pd.MultiIndex.from_tuples(columns)
    frame = pd.DataFrame(lines, pd.MultiIndex.from_tuples(index, names=[None, "method"]), names, dtype=float)
    marks = pd.DataFrame([list(row) for row in bold], frame.index, names)
    prints = pd.DataFrame({("% of whole", "here"): small}, frame.index)
    controls = [title in ("whole model", "Random", "Grid") for _, title in index]
    formats = {name: "{:.0f}" if name == ("tokens", "layer mean") else "{:.1f}" for name in columns}
    return board(frame, formats=formats, bold=marks, small=prints, notes=notes, controls=controls)


def ablation_board(tables: Mapping[str, pd.DataFrame], tasks: Sequence[str]) -> str:
    """The `ablations.ficoco_ablation` of several methods: for each a block, and one of what only we ran. Small print
    below a printed number: its difference to the method as it is."""
    here, lines, prints, index, notes = "measured here", [], [], [], []
    columns = [("printed", name) for name in PAIRS]
    columns += [(here, name) for name in ("mean", "difference", "direction", "same answers", *tasks)]
    for title, table in tables.items():
        base = table.iloc[0]
        known = table["row"].isin(POINTS[title])
        further = ~known & ~table["row"].str.fullmatch(r"\w+=[\d.]+") | table["row"].str.startswith("most=")
        for head, part in ((title, table[known]), (f"{title}, not in the paper", table[further])):
            for _, row in part.iterrows():
                ran, is_base = pd.notna(row["point"]), row["point"] == AS_IT_IS
                changed = ran and not is_base
                line = {("printed", name): f"{row[name]:.2f}" for name in PAIRS if pd.notna(row[name])}
                print_ = {
                    ("printed", name): f"{row[name] - base[name]:+.2f}"
                    for name in PAIRS
                    if pd.notna(row[name] - base[name]) and row["row"] != "full"
                }
                line[here, "mean"] = f"{row['mean']:.1f}" if ran else "not run"
                if changed:
                    line[here, "difference"] = f"{row['difference']:+.1f}"
                    print_[here, "difference"] = f"{row['low']:+.0f} to {row['high']:+.0f}"
                    line[here, "same answers"] = f"{row['same']:.0%}"
                line[here, "direction"] = (
                    _direction(row) if changed and row["row"] != row["point"] else "" if ran else None
                )
                line |= {(here, task): f"{row[task]:.1f}" for task in tasks if ran and pd.notna(row.get(task))}
                lines.append(line)
                prints.append(print_)
                index.append((head, row["row"].replace("=True", "").replace(",", ", ")))
                notes.append(row["point"].replace("=True", "") if changed and row["row"] != row["point"] else "")
    names = pd.MultiIndex.from_tuples(columns)
    labels = pd.MultiIndex.from_tuples(index, names=[None, "row"])
    frame, small = (
        pd.DataFrame([[cells.get(column) for column in columns] for cells in some], labels, names)
        for some in (lines, prints)
    )
    return board(frame, small=small, notes=notes)


def _direction(row: pd.Series) -> str:
    """Whether print and run agree on which is better."""
    return "identical" if row["same"] == 1 else {True: "same", False: "opposite"}.get(row["agrees"], "undecided")


def flops_board(printed: pd.DataFrame, cached: pd.DataFrame, cost: pd.DataFrame, least: Mapping[int, float]) -> str:
    """`tflops_labels`, `cache_sizes`, `tflops_costs` and `cost_floor`: what is printed, then what runs."""
    alike, runs = "in every layer alike", "as it runs"
    columns = [(alike, name) for name in ("printed", "visual tokens", "uniform count", "tokens that fit")]
    columns += [(runs, name) for name in ("layer mean", "formula", "counted", "KV MB", "tower")]
    lines, index, notes = [], [], []

    def add(block: str, title: str, note: str = "", **cells: object) -> None:
        index.append((block, title))
        notes.append(note)
        lines.append([cells.get(name.replace(" ", "_"), "") for _, name in columns])

    for model, part in printed.groupby("model", sort=False):
        head = f"{model} with {part['text'].iloc[0]} text tokens"
        for _, row in part.iterrows():
            add(
                f"{head}: what the tables print", "whole model" if row["whole"] else "reduced", row["where"],
                printed=f"{row['printed']:g} T", visual_tokens="" if pd.isna(row["stated"]) else f"{row['stated']:.0f}",
                uniform_count=_tera(row["uniform"]), tokens_that_fit=f"{row['implied']}", counted=_tera(row["counted"]),
            )  # fmt: skip
        for _, row in cached[cached["model"] == model].iterrows():
            fits = f"{row['fits']:.1f}"
            add(
                f"{head}: what the tables print", f"KV cache, {row['row']}", printed=f"{row['printed']:g} MB",
                tokens_that_fit=fits,
            )  # fmt: skip
        if model != PRINTED_MODELS[0].title:
            continue
        for _, row in cost.iterrows():
            add(
                f"{head}: what runs", row["label"], visual_tokens=f"{row['kept']:.0f}", formula=_tera(row["formula"]),
                uniform_count=_tera(row["uniform"]), layer_mean=f"{row['mean']:.0f}", counted=_tera(row["counted"]),
                KV_MB=f"{row['cache']:.0f}", tower=_tera(row["tower"]),
            )  # fmt: skip
        for layers, value in least.items():
            add(f"{head}: what runs", f"no visual token after {layers} layers", formula=_tera(value))
    names = pd.MultiIndex.from_tuples(columns)
    return board(pd.DataFrame(lines, pd.MultiIndex.from_tuples(index), names), notes=notes)


def _tera(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f} T"
