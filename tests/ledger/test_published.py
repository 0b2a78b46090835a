"""The published numbers: what stands in the files, and that a broken file is noticed."""

import csv
import io
import math
import re

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight.costs.conventions import FASTV, PROFILER, PYRAMIDDROP_VISUAL
from thinsight.costs.flops import DecoderShape, flops
from thinsight.errors import UserError
from thinsight.ledger import published
from thinsight.ledger.published import CELL, COLUMNS, FOLDER, SPELLINGS, check_table, load_all, load_published
from thinsight.ledger.verdicts import meets
from thinsight.paths import ROOT

SEVEN = DecoderShape(layers=32, width=4096, ffn=11008, matrices=3, queries=4096, keys=4096)


@pytest.fixture(scope="module")
def vtw():
    return load_published("vtw")


@pytest.fixture(scope="module")
def everything():
    return load_all()


def one(table, **where):
    """The only number of the lines that ``where`` selects."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, table
    return table.number.item()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.csv")))
def test_every_file_keeps_the_rules(name):
    table = load_published(name)
    assert len(table)
    assert table.number.notna().mean() > 0.95


def test_values_stay_as_printed(vtw):
    divprune = vtw[(vtw.paper == "DivPrune") & (vtw.column == "Flickr30k") & (vtw.method == "VTW")]
    assert divprune.value.tolist() == [".03"]
    assert divprune.number.tolist() == [0.03]
    assert divprune.unit.tolist() == ["CIDEr (0 to 1)"]
    assert vtw[vtw.column == "wall time"].number.isna().all()  # 8:08 is no single number


def test_some_cells(vtw):
    seven = {"model": "LLaVA-1.5-7B"}
    assert one(vtw, paper="VTW", trust="quoted", method="VTW") == 4.68
    assert one(vtw, paper="VTW", column="ScienceQA-IMG", method="VTW") == 0.6971
    assert one(vtw, paper="ShortV", method="VTW", column="Flickr30k", **seven) == 44.5
    assert one(vtw, paper="SPIDER", method="VTW", column="TextVQA") == 55.3
    assert one(vtw, paper="DivPrune", model="LLaVA-1.5-13B", column="POPE") == 0.40


def test_printed_flops_are_what_their_convention_gives(vtw):
    """The conventions named in the protocols are no guess: the formula meets the printed value to its digits."""
    short = [640] * 16 + [64] * 16
    assert round(flops(SEVEN, [640] * 32, PROFILER) / 1e12, 1) == one(
        vtw, paper="ShortV", model="LLaVA-1.5-7B", method="vanilla", column="TFLOPs"
    )
    assert round(flops(SEVEN, short, PROFILER) / 1e12, 1) == one(
        vtw, paper="ShortV", model="LLaVA-1.5-7B", method="VTW", column="TFLOPs"
    )
    assert round(flops(SEVEN, [622] * 32, FASTV) / 1e12, 2) == one(
        vtw, trust="issue", method="vanilla", column="TFLOPs"
    )
    assert round(flops(SEVEN, [576] * 32, PYRAMIDDROP_VISUAL, visual=[576] * 32) / 1e12, 2) == one(
        vtw, paper="BTP", method="vanilla", column="TFLOPs"
    )


SPOT = [  # (value, file, where): typed from the documents' tables
    ("84.1", "ficoco", {"version": "v1", "table": "Table 3", "method": "FiCoCo-L", "tokens": "64", "column": "POPE"}),
    ("82.1", "ficoco", {"version": "v4", "table": "Table 1", "method": "FiCoCo-L", "tokens": "64", "column": "POPE"}),
    ("85.3", "ficoco", {"version": "v1", "method": "TRIM (trained)", "tokens": "128", "column": "POPE"}),
    ("46.97", "ficoco", {"row": "FiCoCo-V, fixed K=1", "column": "TextVQA"}),
    ("53.24", "ficoco", {"row": "FiCoCo-V, scale=1", "column": "TextVQA"}),
    ("13m23s", "ficoco", {"row": "FiCoCo-L, FlashAttention off", "column": "wall time ScienceQA-IMG"}),
    ("65.0", "ficoco", {"row": "FiCoCo-V", "model": "LLaVA-1.5-7B", "column": "KV MB"}),
    ("11.6", "ficoco", {"row": "FiCoCo-L", "model": "LLaVA-1.5-7B", "column": "images/s"}),
    ("83", "par", {"paper": "PAR", "column": "FLOPs saving", "trust": "paper"}),
    ("20", "par", {"paper": "TRSM", "column": "token reduction"}),
    ("73.9", "holov", {"method": "DART", "tokens": "64", "column": "POPE"}),
    ("55.5", "restore", {"method": "PyramidDrop", "tokens": "64", "column": "POPE"}),
    ("58.0", "eadp", {"method": "CDPruner", "tokens": "64", "column": "VizWiz"}),
    ("50.8", "eadp", {"method": "TRIM", "tokens": "64", "column": "TextVQA"}),
    ("1353", "eadp", {"method": "CDPruner", "tokens": "32", "column": "MME-P"}),
    ("96.6", "peers", {"paper": "MMTok", "method": "MMTok", "tokens": "64"}),
    ("88.3", "peers", {"paper": "Cen-Prune", "method": "VisionZip", "tokens": "32"}),
    ("41", "peers", {"paper": "OccamToken", "method": "VisionZip", "tokens": "32", "column": "KV MB"}),
    ("2.33", "peers", {"paper": "CDPruner", "model": "LLaVA-1.5", "method": "DivPrune", "column": "end-to-end time"}),
]


@pytest.mark.parametrize(("value", "name", "where"), SPOT)
def test_spot_checks(value, name, where):
    with (FOLDER / f"{name}.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if where.items() <= line.items()]
    assert [line["value"] for line in lines] == [value]


def test_what_is_in_doubt_says_so(everything):
    tome = everything[(everything.file == "holov") & (everything.method == "ToMe") & (everything.tokens == "192")]
    doubtful = tome[tome.trust == "unverified"]
    assert doubtful.column.tolist() == ["POPE", "VQAv2", "TextVQA", "relative average"]
    vizwiz = everything[(everything.file == "eadp") & (everything.column == "VizWiz")]
    validation = vizwiz[vizwiz.protocol.str.contains("validation")]
    assert set(validation.method) == {"CDPruner", "DivPrune"}
    assert (everything[(everything.paper == "FiCoCo") & (everything.version == "v1")].trust != "paper").all()


def test_no_cell_is_there_twice(everything):
    assert not everything.duplicated(CELL).any()
    assert everything.columns[0] == "file"
    assert set(everything.file) == {path.stem for path in FOLDER.glob("*.csv")}


def test_columns_are_spelt_one_way(everything):
    assert set(everything.column) == set(SPELLINGS)  # a spelling that nothing uses is one too many
    assert len(set(SPELLINGS)) == len(SPELLINGS)
    squeezed = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in SPELLINGS]
    assert len(set(squeezed)) == len(squeezed)


def test_methods_that_are_here_bear_their_own_title(everything):
    """No other spelling of a title in ``conf/method``."""
    configs = [yaml.safe_load(path.read_text()) for path in (ROOT / "conf/method").glob("*.yaml")]
    titles = {config["title"].split(" (")[0] for config in configs}
    folded = {title.lower().removeprefix("llava-"): title for title in titles}
    for method in set(everything.method):
        assert folded.get(method.lower().removeprefix("llava-"), method) == method
    assert {"ToMe", "LLaVA-PruMerge+", "FiCoCo-VL", "Sparsity Meets Similarity"} <= set(everything.method) & titles
    assert not set(everything.method) & {"PDrop", "PruMerge", "PruMerge+", "V", "L", "VL", "dense"}


def test_settings_of_ficoco_have_the_tokens_that_its_authors_name(everything):
    """Issue 3 of its repository: 3.3, 2.4 and 1.5 T are 192, 128 and 64 visual tokens of LLaVA-1.5-7B."""
    lines = everything[(everything.file == "ficoco") & (everything.model == "LLaVA-1.5-7B")]
    lines = lines[(lines.column == "TFLOPs") & (lines.method != "vanilla") & ~lines.row.str.contains(",")]
    known = {"3.3": "192", "2.5": "128", "2.4": "128", "1.6": "64", "1.5": "64"}
    assert [known.get(value, "") for value in lines.value] == lines.tokens.tolist()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("trust", "sure", "line 3: trust is none of"),
        ("source", "hearsay", "line 3: source is none of"),
        ("value", "", "line 3: value is empty"),
        ("value", "n/a", "line 3: value has no digit"),
        ("arxiv", "2405.5803", "line 3: arxiv is not"),
        ("model", " 7B", "line 3: model begins or ends"),
        ("tokens", "many", "line 3: tokens is not an integer"),
        ("column", "VQA-v2", "column in vtw.csv 'VQA-v2': did you mean VQAv2"),
    ],
)
def test_a_broken_line_is_named(vtw, column, value, message):
    table = vtw.drop(columns="number").copy()
    table.loc[1, column] = value
    with pytest.raises(UserError, match=message):
        check_table(table, "vtw")


def test_a_doubled_cell_a_missing_column_and_a_wrong_name(vtw):
    table = vtw.drop(columns="number")
    with pytest.raises(UserError, match="there twice"):
        check_table(pd.concat([table, table.iloc[:1]], ignore_index=True), "vtw")
    with pytest.raises(UserError, match="must have the columns"):
        check_table(table.drop(columns="unit"), "vtw")
    with pytest.raises(UserError, match="did you mean vtw"):
        load_published("vwt")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    return tmp_path


LINES = (FOLDER / "vtw.csv").read_text(encoding="utf-8").splitlines()[:4]


def with_value(value):
    """The file with that value on line 3."""
    records = list(csv.reader(LINES))
    records[2][COLUMNS.index("value")] = value
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(records)
    return buffer.getvalue()


def refusal(folder, content):
    (folder / "own.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load_published("own")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "number"),
    [("1,862", 1862), ("12,345,678.5", 12345678.5), ("1862", 1862), ("-0.5", -0.5), ("+3.7", 3.7), (".03", 0.03),
     ("2e3", 2000), ("0", 0), ("007", 7), ("1.", 1)],
)  # fmt: skip
def test_a_printed_number_is_read(folder, value, number):
    (folder / "own.csv").write_text(with_value(value))
    table = load_published("own")
    assert table.number[1] == number
    assert table.value[1] == value


@pytest.mark.parametrize("value", ["8:08", "1:02:03", "12m01s", "61-67", "1.10–1.17", "1.61/26.84"])
def test_a_time_a_range_or_a_pair_is_no_single_number(folder, value):
    (folder / "own.csv").write_text(with_value(value))
    assert load_published("own").number.isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    "value",
    ["58.3%", "58,3", "1 862", "1\u00a0862", "1'862", "1.862,5", "1,86", "0,862", "1,8620", "~58", "58.3*", "58.3 (+1)",
     "\u22121.5", "1_000", "0x10", "e5", "\u0661\u0662", "4.5T", "nan1", "58.3±0.2", "1-", "5--6", "1,862,"],
)  # fmt: skip
def test_what_is_neither_is_refused_with_its_line(folder, value):
    assert refusal(folder, with_value(value)).startswith("own.csv, line 3: value ")


def test_no_text_becomes_a_missing_number_silently():
    """Whatever is accepted is a number, or looks like a time, a range or a pair."""
    for value in load_all().query("number != number").value:
        assert re.search(r"[0-9](:|m|-|–|/)[0-9]", value), value


@given(st.text("0123456789.,-+eE%: /m s\u00a0–", min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_value_is_what_a_reader_would_take_it_for(value):
    table = pd.DataFrame(list(csv.reader(LINES))[1:], columns=list(COLUMNS), dtype=str)
    table.loc[0, "value"] = value
    try:
        number = check_table(table, "own").number[0]
    except UserError as error:
        assert "own.csv, line 2: value" in str(error)  # noqa: PT017
        return
    if math.isnan(number):
        assert re.search(r"[0-9][:m/–-][0-9]", value)
    else:
        assert number == float(value.replace(",", ""))
        assert "," not in value or re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\..*)?([eE].*)?", value)


WHOLE = "\n".join(LINES) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        WHOLE.encode("utf-8-sig"),
        WHOLE.replace("\n", "\r\n").encode(),
        WHOLE.replace("\n", "\n\n").encode(),
        WHOLE.rstrip("\n").encode(),
    ],
    ids=["mark", "windows", "blank lines", "no last line end"],
)
def test_ways_to_save_the_same_file(folder, content):
    (folder / "own.csv").write_bytes(WHOLE.encode())
    plain = load_published("own")
    (folder / "own.csv").write_bytes(content)
    pd.testing.assert_frame_equal(load_published("own"), plain)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "own.csv must have the columns"),
        (b"\n\n", "own.csv must have the columns"),
        (WHOLE.replace(",", ";"), "with commas between them"),
        (WHOLE.replace(",", "\t"), "with commas between them"),
        (WHOLE.encode("utf-16"), "own.csv, line 1: this is no UTF-8 text"),
        (WHOLE.encode("utf-16-le"), "own.csv must have the columns"),
        (with_value("caf\xe9").encode("latin-1"), "own.csv, line 3: this is no UTF-8 text"),
        ("\n".join([*LINES[:2], LINES[2] + ",x", LINES[3]]), "own.csv, line 3: 15 fields in place of 14"),
        ("\n".join([*LINES[:2], LINES[2].rpartition(",")[0], LINES[3]]), "own.csv, line 3: 13 fields in place of 14"),
        ("\n".join([*LINES[:2], '"' + LINES[2], LINES[3]]), "own.csv, line 3: "),
        ("\n".join([*LINES[:2], LINES[2], '"' + LINES[3]]), "own.csv, line 4: unexpected end of data"),
        ("\n".join([LINES[0], "", *LINES[1:3], LINES[2]]), "own.csv, line 5: the same cell"),
        (with_value("-"), "own.csv, line 3: value has no digit"),
        (with_value(""), "own.csv, line 3: value is empty"),
        (with_value("\u00a058"), "own.csv, line 3: value begins or ends with a space"),
    ],
)
def test_a_file_that_cannot_be_read_names_its_line(folder, content, sentence):
    assert sentence in refusal(folder, content)


def test_a_table_without_lines_is_empty(folder):
    (folder / "own.csv").write_text(LINES[0] + "\n")
    assert len(load_published("own")) == 0


def test_a_line_is_counted_in_the_file_not_in_records(folder):
    """A field may hold a line break."""
    record = next(csv.reader(LINES[1:2]))
    record[COLUMNS.index("protocol")] = "one\ntwo"
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(record)
    bad = next(csv.reader(with_value("58.3%").splitlines()[2:3]))
    csv.writer(buffer, lineterminator="\n").writerow(bad)
    assert refusal(folder, LINES[0] + "\n" + buffer.getvalue()).startswith("own.csv, line 4: value ")


def test_commas_between_thousands_do_not_matter_to_a_verdict():
    assert meets("1,862", 1862.3)
    assert not meets("1,862", 1.862)
