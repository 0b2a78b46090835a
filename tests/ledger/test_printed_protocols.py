"""Like with like: by whose rules a number was printed, and that a run by other rules is never held against it."""

import csv
import json
import re

import pandas as pd
import pytest
from test_baseline_check import printed as printed_by_papers
from test_baseline_check import write
from test_ledger import HEAD, ran

from thinsight.analysis.results import load_scores
from thinsight.config.compose import load_config
from thinsight.config.schema import names
from thinsight.errors import UserError
from thinsight.evaluation.protocol import LMMS_EVAL, run_protocol
from thinsight.ledger import protocols
from thinsight.ledger.baseline_check import check_baseline
from thinsight.ledger.ledger import ledger
from thinsight.ledger.lines import PrintedTable
from thinsight.ledger.protocols import NAMES, PrintedProtocol, RunProtocol, difference, printed_protocols
from thinsight.ledger.published import FOLDER, SPELLINGS, load_all
from thinsight.ledger.verdicts import NEEDS, OBTAINED, RANGE, SCORE
from thinsight.paths import ROOT
from thinsight.report.tables import ledger_html

LINES = [
    {"file": file.stem, **line}
    for file in sorted(FOLDER.glob("*.csv"))
    for line in csv.DictReader(file.read_text(encoding="utf-8").splitlines())
]


# What is said of print


def test_every_statement_has_its_source_and_its_lines():
    assert {*names("task")} >= {"textvqa", "textvqa_plain"}
    for paper, entries in printed_protocols().items():
        mine = [line for line in LINES if line["paper"] == paper]
        for entry in entries:
            about = [x for x in mine if entry.fits(x["table"], x["model"], x["column"], x["source"])]
            assert about, (paper, entry)
            assert len(entry.source) > 20
            assert entry.protocol or entry.tasks
            assert {*entry.tasks, *entry.rows} <= {line["column"] for line in about} <= set(SPELLINGS)
            for task in entry.tasks.values():
                chosen = load_config([f"task={task}"]).task
                assert entry.protocol is None or entry.protocol in chosen.protocols


def test_lines_that_say_lmms_eval_in_words_say_so_by_name():
    """The text of the column ``protocol`` and the statements agree, both ways."""
    printed = PrintedTable(load_all(), load_all()).lines
    for text, line in zip(LINES, printed, strict=True):
        assert (line.protocol == "lmms_eval") == ("lmms-eval" in text["protocol"] and line.is_score), text


def test_what_is_known_of_the_papers_that_are_replicated():
    lines = PrintedTable(load_all(), load_all()).lines
    known = {}
    for line in lines:
        known.setdefault((line.paper, line.version, line.table, line.source), set()).add(line.protocol)
    assert known["FiCoCo", "v4", "Table 1", "own paper"] == {"llava", ""}
    assert known["FiCoCo", "v4", "Table 1", "other paper"] == {"not known", ""}  # copied by its authors
    assert known["FiCoCo", "v4", "Table 3", "own paper"] == {"not known", ""}  # Qwen2-VL
    assert known["FiCoCo", "v4", "Table 4", "own paper"] == {"not known", ""}  # videos, a judge's scores
    assert known["VTW", "repository a3d8cfc", "README log", "own readme"] == {"lmms_eval", ""}
    assert known["VTW", "repository issue 6", "issue 6", "own issue"] <= {"not known", ""}
    holov, eadp = ("HoloV", "", "Table 1"), ("EADP", "", "comparison (table number not recorded)")
    assert known[*holov, "other paper"] | known[*eadp, "other paper"] == {"not known", ""}
    own = [line.made_under for line in lines if line.paper == "HoloV" and line.column == "TextVQA"]
    assert own
    assert all(entry.tasks == {"TextVQA": "textvqa"} for entry in own)


def test_the_docs_name_every_document_that_is_known():
    told = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    for paper, entries in printed_protocols().items():
        for entry in entries:
            if entry.protocol:
                assert re.search(rf"^\| {paper} \| .*\| `{entry.protocol}` \| ", told, re.MULTILINE), paper


def test_a_wrong_statement_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unknown protocol 'lava': did you mean llava"):
        PrintedProtocol(protocol="lava")
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "p.yaml").write_text("paper: P\nprotocols: [{protocl: llava}]\n")
    monkeypatch.setattr(protocols, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"^p\.yaml does not say by which protocols"):
        protocols.printed_protocols.__wrapped__()


# What a run may be held against


@pytest.mark.parametrize(
    ("printed", "column", "run", "words"),
    [
        ({"protocol": "llava"}, "POPE", ("pope", "llava", 9000), ""),
        ({"protocol": "llava"}, "POPE", ("pope", "lmms_eval", 9000), "printed under llava, run under lmms_eval"),
        ({}, "POPE", ("pope", "lmms_eval", 9000), ""),
        ({}, "POPE", ("pope", "", 9000), "pope was scored by a metric that is none of its protocols"),
        ({"protocol": "lmms_eval"}, "POPE", ("mine", "", 10), ""),  # a task of one's own, of which nothing is known
        ({"tasks": {"TextVQA": "textvqa"}}, "TextVQA", ("textvqa", "lmms_eval", 5000), ""),
        (
            {"tasks": {"TextVQA": "textvqa_plain"}},
            "TextVQA",
            ("textvqa", "llava", 5000),
            "printed as task textvqa_plain asks, textvqa was run",
        ),
        ({"rows": {"MMBench": 4377}}, "MMBench", ("mmbench", "llava", 4377), ""),  # the other copy, asked whole
        ({"rows": {"MMBench": 4377}}, "POPE", ("pope", "llava", 500), ""),
        ({"rows": {"MMBench": 4329}}, "MMBench", ("mmbench", "llava", 500), ""),  # some of these rows
        (
            {"rows": {"MMBench": 4377}},
            "MMBench",
            ("mmbench", "llava", 500),
            "printed on 4377 rows, mmbench has 4329: another version",
        ),
    ],
)
def test_in_what_print_and_run_differ(printed, column, run, words):
    assert difference(PrintedProtocol(**printed), column, RunProtocol(*run)) == words


def printed(column, *lines):
    """(paper, method, tokens, value) of one column; FiCoCo's and DivPrune's protocols are known, P's is not."""
    made = [
        {**HEAD, "paper": paper, "file": "p", "method": m, "tokens": t, "row": m, "column": column, "value": v,
         "number": float(v), "unit": "%", "source": "other paper" if paper == "DivPrune" else "own paper"}
        for paper, m, t, v in lines
    ]  # fmt: skip
    return pd.DataFrame(made)


def judged(table, *runs, **more):
    frame = ledger(table, *ran("llava_1_5_7b", *runs, plain=124, fastv=104, **more), every=table)
    return frame.set_index("paper")


THREE = [(paper, "vanilla", "", "62") for paper in ("FiCoCo", "DivPrune", "P")]


@pytest.mark.parametrize(("under", "other"), [("llava", "DivPrune"), ("lmms_eval", "FiCoCo")])
def test_a_run_is_never_held_against_another_protocol(under, other):
    frame = judged(printed("GQA", *THREE), "gqa", under)
    assert frame["protocol"].to_dict() == {"FiCoCo": "llava", "DivPrune": "lmms_eval", "P": "not known"}
    same = ({"FiCoCo", "DivPrune"} - {other}).pop()
    assert frame[SCORE].to_dict() == {other: NEEDS, same: OBTAINED, "P": NEEDS}
    printed_under = {"FiCoCo": "llava", "DivPrune": "lmms_eval"}[other]
    assert frame["why"][other] == f"other protocol: printed under {printed_under}, run under {under}"
    assert pd.isna(frame["measured"][other])
    assert frame["why"][same].endswith(f"; both under {under}")
    assert frame["why"]["P"].endswith(f", run under {under}, print under one that is not known: no verdict")
    assert frame["measured"]["P"] == frame["measured"][same]


def test_the_range_of_print_is_that_of_the_same_protocol():
    """62 is measured: within 55 to 70, but 70 is of another protocol or of one that is not known."""
    lines = [("FiCoCo", "vanilla", "", "55"), ("DivPrune", "vanilla", "", "70"), ("P", "vanilla", "", "70")]
    found = judged(printed("GQA", *lines), "gqa", "llava")
    assert found["why"]["FiCoCo"].count("1 document prints 55;") == 1
    assert found[SCORE]["FiCoCo"] != RANGE
    more = printed("GQA", *lines, ("FiCoCo", "vanilla", "", "70")).assign(table=["T", "T", "T", "T2"])
    assert (judged(more, "gqa", "llava")[SCORE]["FiCoCo"] == RANGE).all()


def test_text_that_ocr_found_and_rows_of_another_version():
    frame = judged(printed("TextVQA", *THREE), "textvqa", "llava")
    assert frame[SCORE]["FiCoCo"] == OBTAINED
    plain = judged(printed("TextVQA", *THREE), "textvqa_plain", "llava")
    assert set(plain["why"]) == {"TextVQA was not run"}
    frame = judged(printed("MMBench", *THREE), "mmbench", "llava")
    assert frame["why"]["FiCoCo"] == "other protocol: printed on 4377 rows, mmbench has 4329: another version"
    assert judged(printed("MMBench", *THREE), "mmbench", "llava", n=4377)[SCORE]["FiCoCo"] == OBTAINED


def test_a_run_by_a_metric_of_ones_own_is_held_against_nothing():
    frame = judged(printed("GQA", *THREE), "gqa", "")
    assert set(frame[SCORE]) == {NEEDS}
    assert frame["why"].str.startswith("other protocol: gqa was scored by a metric").all()


def test_the_protocol_is_on_the_page():
    frame = judged(printed("GQA", *THREE), "gqa", "llava").reset_index()
    html = ledger_html(frame)
    for name, count in (("llava", 1), ("lmms_eval", 1), ("not known", 1)):
        assert html.count(f"<small>%<br>protocol {name}</small>") == count
    costs = frame.assign(column="TFLOPs", protocol="")
    assert "<br>protocol " not in ledger_html(costs)


def test_the_results_of_a_run_say_its_protocol(tmp_path):
    cell = {"accuracy": 0.5, "interval": [0.4, 0.6], "n": 10, "layer": None, "kv_bytes": 1}
    cell |= {"prefill_flops": {"profiler_last_row": 1}}
    cell |= dict.fromkeys(("visual_tokens_mean", "visual_tokens_kept", "picture_tokens"), 1)
    tasks = {"pope": {"protocol": "llava"}, "gqa": {"protocol": LMMS_EVAL}, "exist": {}}
    (tmp_path / "plain").mkdir()
    scores = {task: {"fixed": cell} for task in tasks}
    metrics = {"model": "pocket", "method": "identity", "scores": scores}
    (tmp_path / "plain" / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "plain" / "protocol.json").write_text(json.dumps({"tasks": tasks}))
    found = load_scores(tmp_path).set_index("task")["protocol"].to_dict()
    assert found == {"pope": "llava", "gqa": "lmms_eval", "exist": ""}
    assert run_protocol({}, "pope") == ""
    assert set(found.values()) - {""} <= set(NAMES)


# The gate


def test_the_gate_holds_a_baseline_against_its_own_protocol(tmp_path):
    """FiCoCo prints 86.4 by LLaVA's scripts, above all others: a run of lmms-eval is not held against it."""
    every = printed_by_papers("LLaVA-1.5-7B", "POPE")
    assert max(every) == 86.4  # FiCoCo's
    others = max(value for value in every if value != 86.4)
    reach = {"llava": 86.4 + 0.9, "lmms_eval": others + 0.9}
    assert reach["lmms_eval"] + 0.3 < reach["llava"]
    for protocol, fine in reach.items():
        for more, told in ((0.0, 0), (0.3, 1)):
            cells = {"pope": (8000, 9000, {"summary": {"printed": {"POPE": fine + more}}})}
            folder = write(tmp_path / f"{protocol}{more}", cells, model="llava_1_5_7b", protocol=protocol)
            assert len(check_baseline(folder)) == told, (protocol, more)


def test_the_gate_tells_a_score_that_nothing_printed_is_like(tmp_path):
    cells = {"pope": (8000, 9000, {"summary": {"printed": {"POPE": 86.0}}})}
    (told,) = check_baseline(write(tmp_path, cells, model="llava_1_5_7b", protocol=""))
    why = "pope was scored by a metric that is none of its protocols"
    assert told == f"The baseline on POPE is held against nothing: {why}."
