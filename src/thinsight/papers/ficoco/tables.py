"""Tables of the page on FiCoCo."""

from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import stats

from thinsight.analysis.results import PICTURE_TOKENS, budgets_at, score_cells
from thinsight.evaluation.budget import FIXED
from thinsight.papers.ficoco.ablations import PAIRS, POINTS
from thinsight.papers.ficoco.flops import PRINTED_MODELS
from thinsight.report.tables import board
from thinsight.stats import Bootstrap

BENCHMARKS = ("ScienceQA-IMG", "TextVQA", "POPE", "GQA", "MMBench", "VQAv2")
MODEL = "LLaVA-1.5-7B"
SHARE = "relative average"
HERE = "measured here"

TABLE_RUNS = {"Random": "random", "ToMe": "tome", "EViT": "evit", "FastV": "fastv", "SparseVLM": "sparsevlm",
              "PyramidDrop": "pyramiddrop", "LLaVA-PruMerge": "prumerge", "Grid": "grid", "FiCoCo-V": "ficoco_v",
              "FiCoCo-L": "ficoco_l", "FiCoCo-VL": "ficoco_vl"}  # fmt: skip
"""Method, as the printed tables have it -> the run that measures it."""


ALIKE, RUNS = "in every layer alike", "as it runs"
FLOPS_COLUMNS = {
    "printed": ((ALIKE, "printed"), "{}"),
    "visual": ((ALIKE, "visual tokens"), "{:.0f}"),
    "uniform": ((ALIKE, "uniform count"), "{:.2f} T"),
    "fits": ((ALIKE, "tokens that fit"), "{}"),
    "mean": ((RUNS, "layer mean"), "{:.0f}"),
    "formula": ((RUNS, "formula"), "{:.2f} T"),
    "counted": ((RUNS, "counted"), "{:.2f} T"),
    "cache": ((RUNS, "KV MB"), "{:.0f}"),
    "tower": ((RUNS, "tower"), "{:.2f} T"),
}
"""What `flops_board` has of each line -> its heading and format."""


def printed_scores(published: pd.DataFrame) -> pd.DataFrame:
    """One line per method and number of visual tokens of table 1: method, tokens (int; `PICTURE_TOKENS` for vanilla),
    version, the benchmarks, and ``relative average`` (% of vanilla).

    v4's table; what only v1 has (its table 3) has the share computed from the same six benchmarks, as v4 computes it.
    A benchmark that is not printed is NaN, and so is then a share that would have to be computed.
    """
    rows = published[(published["model"] == MODEL) & published["table"].isin(["Table 1", "Table 3"])]
    rows = rows[rows["version"].isin(["v4", "v1"]) & ((rows["method"] == "vanilla") | (rows["tokens"] != ""))]
    wide = rows.pivot_table(index=["version", "method", "tokens"], columns="column", values="number")
    wide = wide.reindex(columns=[*BENCHMARKS, SHARE])
    means = wide[list(BENCHMARKS)].mean(axis=1, skipna=False)
    whole = means.xs(("vanilla", ""), level=("method", "tokens"))
    wide[SHARE] = wide[SHARE].fillna(100 * means / means.index.get_level_values("version").map(whole))
    table = wide.reset_index().sort_values("version", ascending=False, kind="stable")
    table = table.drop_duplicates(["method", "tokens"])
    table["tokens"] = table["tokens"].replace("", str(PICTURE_TOKENS)).astype(int)
    return table.rename_axis(columns=None)


def measured_scores(results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float]) -> pd.DataFrame:
    """One line per run of `TABLE_RUNS` and budget that is there: method, run, keep, tokens (of `PICTURE_TOKENS`), the
    tasks and mean (%), share (% of the whole model's mean) with low and high (95 % bootstrap), kept, visual (a layer's
    mean), picture."""
    sampled, out = Bootstrap(rows), []
    whole = sampled.score("plain", [FIXED])
    for keep in keeps:
        for title, run in TABLE_RUNS.items():
            budgets = budgets_at(results, run, keep) if run in set(results["run"]) else []
            if not budgets:
                continue
            score, cells = sampled.score(run, budgets), score_cells(results, run)
            low, high = score.average().over(whole.average()).interval()
            line = {"method": title, "run": run, "keep": keep, "tokens": round(keep * PICTURE_TOKENS)}
            line |= {task: 100 * point for task, point in zip(sampled.tasks, score.estimate, strict=True)}
            line |= {"mean": 100 * score.mean, "share": 100 * score.mean / whole.mean}
            line |= {"low": 100 * low, "high": 100 * high}
            counts = cells.loc[cells["budget"].isin(budgets), ["kept", "visual", "picture"]]
            out.append(line | counts.mean().to_dict())
    return pd.DataFrame(out)


def published_beside(printed: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """The shares of both where both are: tokens, method, run, printed, share, low, high."""
    both = printed[["method", "tokens", SHARE]].merge(measured, on=["method", "tokens"])
    both = both.rename(columns={SHARE: "printed"}).dropna(subset="printed")
    return both[["tokens", "method", "run", "printed", "share", "low", "high"]]


def rank_correlations(both: pd.DataFrame) -> dict[int, tuple[float, int]]:
    """For each number of tokens: Spearman's correlation of printed and measured shares, and of how many methods."""
    out = {}
    for tokens, part in both.groupby("tokens", sort=False):
        rho = stats.spearmanr(part["printed"], part["share"]).statistic if len(part) > 2 else float("nan")
        out[int(tokens)] = (float(rho), len(part))
    return out


def comparison_table(printed: pd.DataFrame, measured: pd.DataFrame, whole: Mapping[str, float]) -> str:
    """Printed and measured scores, a block per budget; ``whole``: task -> accuracy (%) of the unreduced model."""
    columns = [("% of whole", "printed"), ("% of whole", "here"), ("tokens", "layer mean")]
    columns += [(f"printed, {MODEL}", name) for name in BENCHMARKS] + [(HERE, name) for name in (*whole, "mean")]
    theirs, ours = printed.set_index(["tokens", "method"]), measured.set_index(["tokens", "method"])
    shown = [(n, title) for n in measured["tokens"].unique() for title in TABLE_RUNS]
    shown = pd.MultiIndex.from_tuples(line for line in shown if line in theirs.index or line in ours.index)
    ours, vanilla = ours.reindex(shown), theirs.loc[PICTURE_TOKENS, "vanilla"]
    parts = [theirs[[SHARE]], ours[["share", "visual"]], theirs[list(BENCHMARKS)], ours[[*whole, "mean"]]]
    reduced = pd.concat([part.reindex(shown) for part in parts], axis=1).set_axis(
        pd.MultiIndex.from_tuples(columns), axis=1
    )
    bold = reduced.eq(reduced.groupby(level=0).transform("max"))
    bold["tokens", "layer mean"] = False
    first = [100.0, 100.0, None, *vanilla[list(BENCHMARKS)], *whole.values(), sum(whole.values()) / len(whole)]
    heads = {
        n: f"{n} of {PICTURE_TOKENS} visual tokens; here {row['keep'] * row['picture']:.0f} of {row['picture']:.0f}"
        for n, row in measured.drop_duplicates("tokens").set_index("tokens").iterrows()
    }
    labels = [("", "whole model"), *((heads[n], title) for n, title in shown)]
    index = pd.MultiIndex.from_tuples(labels, names=[None, "method"])
    frame = pd.DataFrame([first, *reduced.to_numpy()], index, reduced.columns, dtype=float)
    marks = pd.DataFrame([[False] * len(columns), *bold.to_numpy()], index, reduced.columns)
    ranges = [f"{row.low:.0f}–{row.high:.0f}" if row.low == row.low else "not run" for row in ours.itertuples()]
    notes = theirs["version"].reindex(shown).eq("v1").map({True: "printed in v1", False: ""})
    return board(
        frame, formats={name: "{:.0f}" if name[0] == "tokens" else "{:.1f}" for name in columns}, bold=marks,
        small=pd.DataFrame({("% of whole", "here"): ["", *ranges]}, index), notes=["", *notes],
        controls=[title in ("whole model", "Random", "Grid") for _, title in labels],
    )  # fmt: skip


def ablation_board(tables: Mapping[str, pd.DataFrame], tasks: Sequence[str]) -> str:
    """The `ablations.ficoco_ablation` of several methods: for each a block, and one of what only we ran. Small print
    below a printed number: its difference to the method as it is."""
    parts = []
    for title, table in tables.items():
        known = table["row"].isin(POINTS[title])
        other = ~known & (~table["row"].str.fullmatch(r"\w+=[\d.]+") | table["row"].str.startswith("most="))
        table = table.join((table[list(PAIRS)] - table[list(PAIRS)].iloc[0]).add_prefix("change "))
        parts += [table[known].assign(block=title), table[other].assign(block=f"{title}, not in the paper")]
    measured = ["mean", "difference", "low", "high", "same", *tasks]
    table = pd.concat(parts, ignore_index=True).pipe(lambda t: t.reindex(columns=t.columns.union(measured)))
    ran = table["point"].notna()
    changed, is_printed = ran & (table["point"] != FIXED), table["row"] != table["point"]

    def text(column: str, form: str) -> pd.Series:
        return table[column].astype(float).map(form.format, na_action="ignore")

    direction = (
        table["agrees"].map({True: "same", False: "opposite"}).fillna("undecided").mask(table["same"] == 1, "identical")
    )
    cells = {("printed", name): text(name, "{:.2f}") for name in PAIRS} | {
        (HERE, "mean"): text("mean", "{:.1f}").where(ran, "not run"),
        (HERE, "difference"): text("difference", "{:+.1f}").where(changed),
        (HERE, "direction"): direction.where(changed & is_printed, "").where(ran),
        (HERE, "same answers"): text("same", "{:.0%}").where(changed),
        **{(HERE, task): text(task, "{:.1f}") for task in tasks},
    }
    small = {("printed", name): text(f"change {name}", "{:+.2f}").where(table["row"] != "full") for name in PAIRS}
    low, high = (text(name, "{:+.0f}").astype(str) for name in ("low", "high"))
    small[HERE, "difference"] = (low + " to " + high).where(changed)
    rows = table["row"].str.replace("=True", "").str.replace(",", ", ")
    index = pd.MultiIndex.from_arrays([table["block"], rows], names=[None, "row"])
    notes = table["point"].str.replace("=True", "").where(changed & is_printed, "")
    frame, prints = (pd.DataFrame(columns).set_axis(index) for columns in (cells, small))
    return board(frame, small=prints, notes=list(notes))


def flops_board(printed: pd.DataFrame, cached: pd.DataFrame, cost: pd.DataFrame, least: Mapping[int, float]) -> str:
    """`tflops_labels`, `cache_sizes`, `tflops_costs` and `cost_floor`: what is printed, then what runs."""
    in_print, runs = "what the tables print", {"model": PRINTED_MODELS[0].title, "what": "what runs"}
    floor = pd.DataFrame({"title": [f"no visual token after {k} layers" for k in least], "formula": least.values()})
    table = pd.concat(
        [
            printed.assign(
                what=in_print, title=printed["whole"].map({True: "whole model", False: "reduced"}),
                printed=printed["printed"].map("{:g} T".format), visual=printed["stated"],
                fits=printed["implied"].map("{}".format),
            ),
            cached.assign(
                what=in_print, title="KV cache, " + cached["row"], printed=cached["printed"].map("{:g} MB".format),
                fits=cached["fits"].map("{:.1f}".format),
            ),
            cost.assign(**runs, title=cost["label"], visual=cost["kept"]),
            floor.assign(**runs),
        ]
    )  # fmt: skip
    texts = printed.groupby("model", sort=False)["text"].first()
    table = table.sort_values("model", key=lambda models: models.map(list(texts.index).index), kind="stable")
    heads = table["model"] + " with " + table["model"].map(texts).astype(str) + " text tokens: " + table["what"]
    frame = pd.DataFrame(
        {
            column: table[name].map(form.format, na_action="ignore").fillna("")
            for name, (column, form) in FLOPS_COLUMNS.items()
        }
    )
    index = pd.MultiIndex.from_arrays([heads, table["title"]], names=[None, None])
    return board(frame.set_axis(index), notes=list(table["where"].fillna("")))
