"""Seconds beside FLOPs: the figure, the tables and the targets of what machines have measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinsight.analysis.clocks import read_benchmarks, timing_frame
from thinsight.config.catalogue import FAMILIES, MethodEntry
from thinsight.report.figures import INK, PALETTE, subplots
from thinsight.report.tables import board

GREEDY = ("divprune", "cdpruner", "vispruner", "par")  # token by token, each choice after the one before
SCORED = ("vtw", "fastv", "pyramiddrop", "dart", "sparsevlm", "sparsevlm_v2")
IN_TOWER = ("ficoco_v", "tome")
BATCH = 8  # of the targets on a GPU
NO_GPU = "not run: no GPU was at hand"
RATES = ("speed", "images/s", "requests/s")  # printed numbers of which more is faster
SECONDS = ("latency", "end-to-end time", "prefill time")
CELL = ["paper", "version", "table", "model"]


@dataclass(frozen=True)
class Clock:
    """What was measured: the ``benchmarks`` as they stand in their files, and their ``timings`` (`timing_frame`).

    entries  the methods of the catalogue;  published  the papers' numbers
    """

    benchmarks: Sequence[Mapping[str, Any]]
    timings: pd.DataFrame
    entries: Sequence[MethodEntry]
    published: pd.DataFrame

    @classmethod
    def read(cls, entries: Sequence[MethodEntry], published: pd.DataFrame) -> "Clock":
        """From data/benchmarks."""
        benchmarks = read_benchmarks()
        return cls(benchmarks, timing_frame(benchmarks), entries, published)

    @property
    def acting(self) -> pd.DataFrame:
        """The lines of published methods in the phase where each acts: the decoder with all choosing in front of it, or
        the whole prefill for what acts in the tower. Columns besides: title, family."""
        table = self.timings.merge(self._named, on="method")
        tower = table["family"].isin([FAMILIES[0], FAMILIES[3]])
        return table[table["phase"] == tower.map({True: "prefill", False: "decoder"})]

    @property
    def _named(self) -> pd.DataFrame:
        compared = [e for e in self.entries if not e.is_control and "ablation" not in e.about]
        named = [(e.name, e.short, e.family) for e in compared]
        return pd.DataFrame(named, columns=["method", "title", "family"])

    @property
    def facts(self) -> dict[str, Any]:
        """For the finding: devices, and of the first one how much of the bound is realised."""
        acting = self.acting
        if acting.empty:
            return {"devices": [], "gpu": False}
        first = acting[acting["device"] == acting["device"].iloc[0]]
        worst = first.loc[first["share"].idxmin()]
        return {
            "devices": list(dict.fromkeys(acting["device"])),
            "gpu": bool((acting["kind"] == "cuda").any()),
            "median_share": float(first["share"].median()),
            "worst": str(worst["title"]),
            "worst_share": float(worst["share"]),
            "faster": int((first["realised"] > 1).sum()),
            "lines": len(first),
            "note": next(b.get("note", "") for b in self.benchmarks if b["device"] == first["device"].iloc[0]),
        }


def clock_figure(clock: Clock) -> Figure:
    """For each device, model and batch a row of panels, one a budget: what FLOPs allow (bar), what the clock says (dot
    with quartiles), and what papers print for that method at that budget (open marks)."""
    table = clock.acting
    places = list(table.groupby(["device", "model", "batch"], sort=False).groups)
    labels = sorted(table["label"].unique(), reverse=True)
    if not places:
        figure, axis = subplots(figsize=(7, 0.6))
        axis.axis("off")
        axis.text(0, 0.5, "No benchmark has been run: benchmarks/cpu.sh and benchmarks/gpu.sh measure a machine.")
        return figure
    count = table["title"].nunique()
    size = (7, 0.9 + len(places) * (0.55 + 0.17 * count))
    figure, axes = subplots(len(places), len(labels), figsize=size, squeeze=False, sharex=True, sharey=True)
    printed = printed_speedups(clock)
    order = table.assign(place=table["family"].map(FAMILIES.index)).sort_values(["place", "title"])
    titles = list(dict.fromkeys(order["title"]))
    for row, (device, model, batch) in enumerate(places):
        here = table[(table["device"] == device) & (table["model"] == model) & (table["batch"] == batch)]
        for axis, label in zip(axes[row], labels, strict=True):
            _panel(axis, here[here["label"] == label], printed[printed["tokens"] == label], titles)
            axis.set_title(f"{label} tokens, batch {batch}" + (f"\n{device}, {model}" if axis is axes[row][0] else ""))
    for axis in axes[-1]:
        axis.set_xlabel("times faster than the plain model")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def _panel(axis: Axes, table: pd.DataFrame, printed: pd.DataFrame, titles: Sequence[str]) -> None:
    places = table["title"].map(titles.index)
    axis.barh(places, table["bound"] - 1, left=1, height=0.7, color="#E6E6E6", label="FLOPs allow")
    axis.hlines(places, table["low"], table["high"], colors=PALETTE[0], lw=1.2)
    axis.scatter(table["realised"], places, s=12, color=PALETTE[0], zorder=3, label="measured, quartiles")
    shown = printed[printed["title"].isin(titles) & printed["printed"].notna()]
    axis.scatter(
        shown["printed"], shown["title"].map(titles.index), s=16, marker="D", facecolors="none", edgecolors=PALETTE[3],
        zorder=4, label="printed, another machine",
    )  # fmt: skip
    axis.axvline(1, color=INK, lw=0.8)
    axis.set(yticks=range(len(titles)), yticklabels=titles, ylim=(len(titles) - 0.4, -0.6), xscale="log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "235" else "")
    axis.tick_params(which="both", labelsize=6, pad=2, length=2)
    axis.grid(visible=False, axis="y")


def printed_speedups(clock: Clock) -> pd.DataFrame:
    """One line per printed speed-up of a method that is here: paper, model, title, tokens, value (as it
    stands there), printed (times; missing for a range), how.

    Printed as such, or as a saving of latency; or else of two times or rates in one table, the whole model's and the
    method's.
    """
    titles = {e.short for e in clock.entries if not e.is_control}
    rows = clock.published[clock.published["method"].isin(titles)]
    wholes = clock.published[clock.published["method"] == "vanilla"]
    out = []
    for _, row in rows.iterrows():
        number, how = row["number"], row["column"]
        if row["column"] in (*SECONDS, *RATES):
            same = wholes[(wholes[CELL] == row[CELL]).all(axis=1) & (wholes["column"] == row["column"])]
            same = same[[_variant(name) == _variant(row["row"]) for name in same["row"]]]
            if len(same) != 1:
                continue
            whole = same["number"].iloc[0]
            number = number / whole if row["column"] in RATES else whole / number
            how = f"{row['column']}: {same['value'].iloc[0]} and {row['value']} {row['unit']}"
        elif row["column"] == "latency saving":
            number, how = 1 / (1 - number / 100), f"{row['value']} {row['unit']}"
        elif row["column"] not in ("speed-up", "prefill speed-up"):
            continue
        tokens = int(row["tokens"]) if row["tokens"] else None
        line = {
            "paper": row["paper"],
            "model": row["model"],
            "title": row["method"],
            "tokens": tokens,
            "printed": number,
        }
        out.append(line | {"how": how, "row": row["row"], "protocol": row["protocol"]})
    said = {(line["paper"], line["model"], line["row"]) for line in out if line["how"] == "speed-up"}
    out = [line for line in out if line["how"] == "speed-up" or (line["paper"], line["model"], line["row"]) not in said]
    columns = ["paper", "model", "title", "tokens", "value", "printed", "how", "row", "protocol"]
    return pd.DataFrame(out, columns=columns).astype({"tokens": "Int64"})


def _variant(row: str) -> str:
    """What stands behind the comma: a quantisation, a setting."""
    return row.partition(", ")[2]


def printed_table(clock: Clock) -> str:
    """Printed speed-ups with what was measured of the same method at the same budget on each kind of device."""
    printed = printed_speedups(clock)
    acting = clock.timings[clock.timings["phase"] == "prefill"].merge(clock._named, on="method")
    measured = {kind: [] for kind in ("cpu", "cuda")}
    bounds = []
    for _, row in printed.iterrows():
        same = acting[(acting["title"] == row["title"]) & (acting["label"] == row["tokens"])]
        for kind, cells in measured.items():
            values = same.loc[same["kind"] == kind, "realised"]
            cells.append("–" if values.empty else " / ".join(f"{value:.2f}" for value in values))
        bounds.append("–" if same.empty else f"{same['bound'].iloc[0]:.2f}")
    frame = pd.DataFrame(
        {
            "method": printed["row"], "model": printed["model"], "tokens": printed["tokens"].astype(object),
            "printed": printed["value"].where(printed["printed"].isna(), printed["printed"].map("{:.2f}".format)),
            "read off": printed["how"],
            "by FLOPs,\nmeasured model": bounds, "measured,\nCPU": measured["cpu"],
            "measured,\nGPU": measured["cuda"] if clock.facts["gpu"] else "not run",
        }
    )  # fmt: skip
    frame.index = pd.Index(printed["paper"], name="by")
    return board(frame.astype(object).where(frame.notna(), None), text=["method", "model", "read off"],
                 tooltips=pd.DataFrame({"printed": printed["protocol"]}))  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A ratio that was set out to be reached: ``value`` of a line is to be at least (or at most) ``limit``."""

    where: str
    what: str
    kind: str
    lines: Callable[[pd.DataFrame], pd.DataFrame]
    value: str
    limit: float
    most: bool = False


TARGETS = (
    Target("CPU", "of the bound: VTW, FastV, PyramidDrop, DART, SparseVLM, SparseVLM+", "cpu",
           lambda t: t[t["method"].isin(SCORED) & (t["phase"] == "decoder")], "share", 0.95),
    Target("CPU", "of the bound: everything in front of the decoder", "cpu",
           lambda t: t[(t["family"] == FAMILIES[1]) & (t["phase"] == "decoder")], "share", 0.9),
    Target("CPU", "times faster than plain: FiCoCo-L", "cpu",
           lambda t: t[(t["method"] == "ficoco_l") & (t["phase"] == "decoder")], "realised", 1.0),
    Target("CPU", "of the bound: FiCoCo-L", "cpu",
           lambda t: t[(t["method"] == "ficoco_l") & (t["phase"] == "decoder")], "share", 0.8),
    Target("CPU", "times faster than plain in the tower: FiCoCo-V, ToMe", "cpu",
           lambda t: t[t["method"].isin(IN_TOWER) & (t["phase"] == "vision tower")], "realised", 1.0),
    Target("GPU, 7B, batch 8", "of the bound: methods that score once", "cuda",
           lambda t: _acting(t, [*GREEDY, "ficoco_l", "ficoco_vl"], False), "share", 0.9),
    Target("GPU, 7B, batch 8", "of the bound: greedy ones, FiCoCo-L", "cuda",
           lambda t: _acting(t, [*GREEDY, "ficoco_l", "ficoco_vl"], True), "share", 0.85),
    Target("GPU, 7B, batch 8", "of the plain prefill: own work of methods that score once", "cuda",
           lambda t: _acting(t, GREEDY, False), "own_share", 0.02, True),
    Target("GPU, 7B, batch 8", "of the plain prefill: own work of greedy ones", "cuda",
           lambda t: _acting(t, GREEDY, True), "own_share", 0.05, True),
    Target("GPU, 7B, batch 8", "of the plain model's peak memory: all", "cuda",
           lambda t: t[t["phase"] == "prefill"], "peak_share", 1.0, True),
)  # fmt: skip
"""What the project set out to reach. Nothing here is asserted: the table shows what was measured."""


def _acting(table: pd.DataFrame, methods: Sequence[str], named: bool) -> pd.DataFrame:
    """The lines of ``methods``, or of all others, in the phase where they act."""
    tower = table["family"].isin([FAMILIES[0], FAMILIES[3]])
    phase = table["phase"] == tower.map({True: "prefill", False: "decoder"})
    return table[(table["method"].isin(methods) == named) & phase]


def target_frame(clock: Clock) -> pd.DataFrame:
    """One line per target: where, what, wanted, and of each device the worst that was measured, or why nothing was."""
    table = clock.timings.merge(clock._named, on="method")
    table = table.assign(peak_share=table["peak"] / table["plain_peak"])
    out = []
    for target in TARGETS:
        lines = table[table["kind"] == target.kind]
        if target.kind == "cuda":
            lines = lines[(lines["batch"] == BATCH) & (lines["model"] == "llava_1_5_7b")]
        lines = target.lines(lines).dropna(subset=[target.value])
        wanted = f"{'at most' if target.most else 'at least'} {target.limit:g}"
        line = {"where": target.where, "what": target.what, "wanted": wanted, "worst": NO_GPU, "median": "", "met": ""}
        if target.kind == "cpu":
            line["worst"] = "not run: benchmarks/cpu.sh measures it"
        if len(lines):
            worst = lines.loc[lines[target.value].idxmax() if target.most else lines[target.value].idxmin()]
            met = lines[target.value] <= target.limit if target.most else lines[target.value] >= target.limit
            line["worst"] = f"{worst[target.value]:.2f} ({worst['title']}, {worst['label']})"
            line |= {"median": f"{lines[target.value].median():.2f}", "met": f"{int(met.sum())} of {len(met)}"}
        out.append(line)
    return pd.DataFrame(out)


def target_table(clock: Clock) -> str:
    """`target_frame` as a board."""
    frame = target_frame(clock).set_index(["where", "what"])
    frame.index.names = [None, "ratio"]
    titles = {"worst": "worst measured\n(method, tokens)", "met": "lines that\nmeet it"}
    return board(frame.rename(columns=titles), text=["wanted", titles["worst"]])


def not_run_table(clock: Clock) -> str:
    """Per device what was run, on what, and what was not, with the reason."""
    lines = []
    for benchmark in clock.benchmarks:
        versions = ", ".join(f"{name} {value}" for name, value in benchmark["versions"].items() if value)
        hardware = benchmark["hardware"]
        threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
        on = f"driver {hardware['driver']}" if hardware.get("driver") else threads
        run = f"parts: {len(benchmark['timings'])}, minutes: {benchmark.get('minutes', 0):.0f}"
        checks = _checks(benchmark)
        missing = "; ".join(f"{part['part']}: {part['why']}" for part in benchmark["not_run"])
        lines.append((benchmark["device"], on, versions, run, checks, missing or "nothing", benchmark.get("note", "")))
    if not any(b["kind"] == "cuda" for b in clock.benchmarks):
        lines.append(("a GPU (benchmarks/gpu.sh)", "", "", "", "", NO_GPU, ""))
    columns = ["device", "on", "versions", "run", "checks of results", "not run", "note"]
    return board(pd.DataFrame(lines, columns=columns).set_index("device"), text=columns[1:])


def _checks(benchmark: Mapping[str, Any]) -> str:
    """What a GPU's benchmark found of its results."""
    parts, parity, golden = [], benchmark.get("parity") or [], benchmark.get("golden")
    known = [record for record in parity if "why" not in record]
    for dtype in dict.fromkeys(record["dtype"] for record in known):
        same = [record["kept"] for record in known if record["dtype"] == dtype]
        parts.append(f"{dtype}: {sum(kept == 1 for kept in same)} of {len(same)} methods keep the CPU's tokens")
    if golden:
        parts.append(f"golden files: {golden.get('passed', 0)} passed, {golden.get('failed', 0)} failed")
    if search := benchmark.get("select_layer"):
        parts.append(f"select_layer over {search['candidates']} layers: {search['passes']:.1f} plain passes")
    return "; ".join(parts)
