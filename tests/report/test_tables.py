"""Tables by `board`: what a reader of the page gets for a frame."""

import pandas as pd
from bs4 import BeautifulSoup

from thinsight.report.tables import Heat, board

FRAME = pd.DataFrame(
    {("scores", "POPE"): [0.9, 0.5], ("scores", "GQA"): [0.6, None], ("cost", "FLOPs\nleft"): ["<all>", "half"]},
    index=pd.MultiIndex.from_tuples([("", "whole"), ("64 tokens", "FastV")], names=["budget", "method"]),
)


def cells(html):
    return [
        [cell.get_text() for cell in row.find_all(["th", "td"])] for row in BeautifulSoup(html, "html.parser")("tr")
    ]


def test_spanning_heads_blocks_and_missing_values():
    html = board(FRAME, formats={("scores", "POPE"): "{:.0%}", ("scores", "GQA"): lambda value: f"{value:.1f}"})
    assert cells(html) == [
        ["", "scores", "cost"],
        ["method", "POPE", "GQA", "FLOPsleft"],
        ["whole", "90%", "0.6", "<all>"],
        ["64 tokens"],
        ["FastV", "50%", "–", "half"],
    ]
    soup = BeautifulSoup(html, "html.parser")
    assert [len(body("tr")) for body in soup("tbody")] == [1, 2]
    assert soup.find("tr", class_="block").th["colspan"] == "4"
    assert [head.get("colspan") for head in soup.thead.tr("th")] == [None, "2", None]
    assert "FLOPs<br/>left" in html
    assert "<all>" in board(FRAME, html=True)


def test_marks_of_cells_and_rows():
    html = board(
        FRAME,
        bold=FRAME[[("scores", "POPE")]] > 0.8,
        small=FRAME[[("cost", "FLOPs\nleft")]],
        tooltips=FRAME[[("scores", "GQA")]].map(lambda value: f"it is {value}"),
        notes=["", "in the decoder"],
        runs=["plain", ""],
        controls=[True, False],
        text=[("cost", "FLOPs\nleft")],
    )
    soup = BeautifulSoup(html, "html.parser")
    (bold,) = [cell for cell in soup("td") if cell.get("id")]
    assert bold.get_text() == "0.900000"
    assert f"#{bold['id']} {{\n  font-weight: 650;" in html
    assert [small.get_text() for small in soup("small")] == ["<all>", "in the decoder", "half"]
    assert [cell["title"] for cell in soup("td", title=True)] == ["it is 0.6", "it is nan"]
    assert [cell.get_text() for cell in soup("th", attrs={"data-run": "plain"})] == ["whole"]
    assert [row.th.get_text() for row in soup("tr", class_="control")] == ["whole"]
    assert len(soup("td", class_="text")) == 2


def test_colours_have_their_centre_and_text_that_stands_out():
    frame = pd.DataFrame({"a": [-0.8, 0.0, 0.2, None]})
    html = board(frame, heat=Heat("RdBu", -0.8, 0.2, centre=0.0))
    for colour, ink in (("#67001f", "#f1f1f1"), ("#f6f7f7", "#000000"), ("#053061", "#f1f1f1")):
        assert f"background-color: {colour};\n  color: {ink};" in html
    assert html.count("background-color: transparent") == 1


def test_equal_frames_give_equal_tables():
    heat = Heat("RdBu", 0, 1, columns=[("scores", "POPE")])
    assert board(FRAME, heat=heat) == board(FRAME.copy(), heat=heat)
    assert "<style" not in board(FRAME)
    assert "id=" not in board(FRAME)


def test_titles_may_be_equal():
    frame = pd.DataFrame({"a": [1, 2]}, index=["same", "same"])
    assert cells(board(frame, bold=frame == 2))[1:] == [["same", "1"], ["same", "2"]]
