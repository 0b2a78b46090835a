"""The published numbers: what stands in the files, and that a broken file is noticed."""

import pandas as pd
import pytest

from thinsight.conventions import FASTV, PROFILER, PYRAMIDDROP_VISUAL
from thinsight.cost import Shape, flops
from thinsight.errors import UserError
from thinsight.published import FOLDER, check, load_published

SEVEN = Shape(layers=32, width=4096, ffn=11008, matrices=3, queries=4096, keys=4096)


@pytest.fixture(scope="module")
def vtw():
    return load_published("vtw")


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


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("trust", "sure", "line 3: trust is none of"),
        ("source", "hearsay", "line 3: source is none of"),
        ("value", "", "line 3: value is empty"),
        ("value", "n/a", "line 3: value has no digit"),
        ("arxiv", "2405.5803", "line 3: arxiv is not"),
        ("model", " 7B", "line 3: model begins or ends"),
    ],
)
def test_a_broken_line_is_named(vtw, column, value, message):
    table = vtw.drop(columns="number").copy()
    table.loc[1, column] = value
    with pytest.raises(UserError, match=message):
        check(table, "vtw")


def test_a_doubled_cell_a_missing_column_and_a_wrong_name(vtw):
    table = vtw.drop(columns="number")
    with pytest.raises(UserError, match="there twice"):
        check(pd.concat([table, table.iloc[:1]], ignore_index=True), "vtw")
    with pytest.raises(UserError, match="must have the columns"):
        check(table.drop(columns="unit"), "vtw")
    with pytest.raises(UserError, match="did you mean vtw"):
        load_published("vwt")
