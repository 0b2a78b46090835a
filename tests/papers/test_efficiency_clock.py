"""The clock on the page on efficiency: measured against allowed, printed speed-ups read right, targets as measured."""

import pandas as pd
import pytest
from helpers import page_files

from thinsight.analysis.clocks import read_benchmarks, timing_frame
from thinsight.config.catalogue import method_entries
from thinsight.ledger.published import load_all
from thinsight.papers.efficiency.clock import (
    NO_GPU,
    TARGETS,
    Clock,
    clock_figure,
    not_run_table,
    printed_speedups,
    printed_table,
    target_frame,
    target_table,
)

PHASES = ("vision tower", "projector", "decoder", "prefill")


def spread(value: float) -> dict[str, float]:
    return {"median": value, "low": value - 0.1, "high": value + 0.1}


def record(method: str, realised: float, bound: float, own: float = 0.01, peak: int = 90) -> dict:
    """A method that is as much faster in every phase."""
    return {
        "method": method, "layer_mean": 64.0, "visual_tokens": 576, "own_share": own, "repeats": 5, "peak_bytes": peak,
        "speedup": {phase: spread(realised) for phase in PHASES}, "bound": dict.fromkeys(PHASES, bound),
    }  # fmt: skip


def benchmark(kind: str, *records: dict, batch: int = 1, label: int = 64) -> dict:
    part = {"model": "llava_1_5_7b", "shape": None, "dtype": "float32", "batch": batch, "label": label, "answers": []}
    part |= {"records": [{"arm": "plain, sdpa", "peak_bytes": 100}, *records]}
    return {
        "device": f"a {kind}", "kind": kind, "note": "A note.", "timings": [part], "minutes": 3.2, "not_run": [],
        "hardware": {"threads": 1}, "versions": {"torch": "2", "flash-attn": None},
    }  # fmt: skip


@pytest.fixture(scope="module")
def entries():
    return method_entries()


@pytest.fixture(scope="module")
def published():
    return load_all()


@pytest.fixture
def make(entries, published):
    return lambda *benchmarks: Clock(benchmarks, timing_frame(benchmarks), entries, published)


def targets(clock: Clock) -> pd.DataFrame:
    return target_frame(clock).set_index(["where", "what"])


def test_each_method_is_compared_where_it_acts(make):
    clock = make(benchmark("cpu", record("fastv", 2, 4), record("tome", 3, 4), record("random", 2, 2)))
    assert clock.acting.set_index("method")["phase"].to_dict() == {"fastv": "decoder", "tome": "prefill"}


def test_targets_are_the_worst_that_was_measured(make):
    found = targets(make(benchmark("cpu", record("fastv", 1.9, 2), record("vtw", 3, 4), record("ficoco_l", 0.9, 2))))
    scored = found.loc[("CPU", TARGETS[0].what)]
    assert (scored["worst"], scored["median"], scored["met"]) == ("0.75 (VTW, 64)", "0.85", "1 of 2")
    assert found.loc[("CPU", "times faster than plain: FiCoCo-L"), "met"] == "0 of 1"
    assert found.loc[("CPU", TARGETS[1].what), "worst"].startswith("not run: benchmarks/cpu.sh")
    assert (found.loc["GPU, 7B, batch 8", "worst"] == NO_GPU).all()


def test_targets_of_a_gpu_are_those_of_its_batch(make):
    greedy, fast = record("divprune", 1.8, 2, own=0.07, peak=101), record("fastv", 1.9, 2, own=0.0125)
    found = targets(make(benchmark("cuda", greedy, fast, batch=8)))
    own = [target.what for target in TARGETS if target.value == "own_share"]
    assert found.loc[("GPU, 7B, batch 8", own[0]), "met"] == "1 of 1"
    assert found.loc[("GPU, 7B, batch 8", own[1]), "met"] == "0 of 1"
    assert found.loc[("GPU, 7B, batch 8", TARGETS[-1].what), "worst"] == "1.01 (DivPrune, 64)"
    other = targets(make(benchmark("cuda", greedy, batch=1)))
    assert (other.loc["GPU, 7B, batch 8", "worst"] == NO_GPU).all()


class TestPrinted:
    @pytest.fixture(scope="class")
    def table(self, entries, published):
        return printed_speedups(Clock([], timing_frame([]), entries, published))

    def line(self, table, **where):
        for key, value in where.items():
            table = table[table[key] == value]
        assert len(table) == 1
        return table.iloc[0]

    def cells(self, **where):
        rows = [row for rows in page_files.printed(where.pop("file")).values() for row in rows]
        return [float(row["value"]) for row in rows if all(row[key] == value for key, value in where.items())]

    def test_a_printed_speed_up_is_taken_as_it_is(self, table):
        where = {"paper": "FiCoCo", "model": "LLaVA-1.5-7B", "method": "FiCoCo-V"}
        (value,) = self.cells(file="ficoco", column="speed-up", **where)
        found = self.line(table, paper="FiCoCo", model="LLaVA-1.5-7B", title="FiCoCo-V", how="speed-up")
        assert (found["printed"], found["tokens"]) == (value, 64)
        of_the_same = table[(table["paper"] == "FiCoCo") & (table["model"] == "LLaVA-1.5-7B")]
        assert sorted(of_the_same["title"]) == ["FiCoCo-L", "FiCoCo-V"]  # their rates in images/s say the same

    def test_two_times_of_one_table_make_one(self, table):
        times = {"file": "peers", "paper": "HoloV", "column": "latency"}
        (whole,), (fastv,) = (self.cells(**times, method=method) for method in ("vanilla", "FastV"))
        found = self.line(table, paper="HoloV", title="FastV")
        assert found["printed"] == pytest.approx(whole / fastv)
        assert str(whole) in found["how"]

    def test_quantised_rows_are_held_against_the_quantised_model(self, table):
        times = {"file": "peers", "paper": "FastV", "column": "latency", "model": "LLaVA-1.5-13B"}
        (whole,) = self.cells(**times, row="vanilla, 4-bit")
        (fastv,) = self.cells(**times, row="FastV K2 75 %, 4-bit")
        assert self.line(table, row="FastV K2 75 %, 4-bit")["printed"] == pytest.approx(whole / fastv)

    def test_more_of_a_rate_is_faster(self, table):
        rates = {"file": "vtw", "column": "speed"}
        (whole,), (vtw,) = (self.cells(**rates, method=method) for method in ("vanilla", "VTW"))
        assert self.line(table, row="VTW K=15")["printed"] == pytest.approx(vtw / whole)

    def test_a_saving_of_latency_is_its_inverse(self, table):
        (saved,) = self.cells(file="peers", column="latency saving", method="CDPruner")
        assert self.line(table, title="CDPruner", paper="CDPruner")["printed"] == pytest.approx(100 / (100 - saved))


def test_what_is_shown_is_what_was_measured(make):
    clock = make(benchmark("cpu", record("fastv", 1.91, 2.13, own=0.02), record("ficoco_v", 1.27, 2.31)))
    figure = clock_figure(clock)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["FiCoCo-V", "FastV"]
    assert sorted(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx([1.13, 1.31])
    table = printed_table(clock)
    assert "1.27" in table  # FiCoCo prints 1.43 at 64 tokens
    assert "1.43" in table
    assert "not run" in table
    assert "A note." in not_run_table(clock)
    assert NO_GPU in not_run_table(clock)
    assert NO_GPU in target_table(clock)
    assert (clock.facts["lines"], clock.facts["gpu"], clock.facts["worst"]) == (2, False, "FiCoCo-V")


def test_a_page_without_a_benchmark_says_so(make):
    clock = make()
    assert clock.facts == {"devices": [], "gpu": False}
    (axis,) = clock_figure(clock).axes
    assert "No benchmark has been run" in axis.texts[0].get_text()
    assert NO_GPU in target_table(clock)
    assert "not run" in printed_table(clock)


def test_the_files_in_git_can_be_read():
    for found in read_benchmarks():
        assert found["timings"] or found["not_run"]
        assert all(name in found for name in ("hardware", "versions", "note", "weights"))
