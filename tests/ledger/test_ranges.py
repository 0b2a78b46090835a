"""What several papers print for the same thing, as one range."""

import pytest

from thinsight.ledger.published import SETTING, load_all, ranges


@pytest.fixture(scope="module")
def everything():
    return load_all()


def only(table, **where):
    """The lines that ``where`` selects."""
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_ranges(everything):
    table = ranges(everything)
    where = {"model": "LLaVA-1.5-7B", "method": "FastV", "tokens": "64", "column": "POPE"}
    fastv = only(table, **where)
    assert fastv[["lowest", "highest"]].values.tolist() == [[36.1, 48.0]]
    papers = set(only(everything, **where).paper)
    assert fastv.papers.tolist() == [len(papers)]
    assert len(papers) >= 3
    assert fastv.shown.tolist() == [f"36.1-48.0 ({len(papers)} papers)"]
    assert (table.lowest <= table.highest).all()
    assert not table.duplicated(SETTING).any()


def test_ranges_leave_out_variants_readers_and_averages(everything):
    table = ranges(everything)
    ficoco = table[(table.method == "FiCoCo-V") & (table.tokens == "64") & (table.column == "TextVQA")]
    assert ficoco.shown.tolist() == ["55.5 (1 paper)"]  # v1 and v4 are one paper; its ablations are not the method
    assert "average" not in set(table.column)
    assert not ((table.method == "vanilla") & (table.column == "TFLOPs") & (table.lowest == 3.23)).any()  # a reader's
