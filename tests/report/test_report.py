"""The pages in a real browser: nothing is fetched or broken; they read on a phone, in the dark and on paper."""

import csv
import json
import os
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from thinsight.analysis.runs import FinishedRun, config_file
from thinsight.config.compose import load_config, to_yaml
from thinsight.config.schema import names
from thinsight.errors import UserError
from thinsight.ledger.ledger import COLUMNS
from thinsight.ledger.verdicts import ADDS, AVERAGE, BADGES, COST, DIFFERS, NEEDS, RECOMPUTED, SCORE
from thinsight.paths import ROOT
from thinsight.pipeline.notebook import summarize
from thinsight.pipeline.plan import list_pages
from thinsight.report.__main__ import main
from thinsight.report.index import methods_by_place, run_conditions, verdict_counts
from thinsight.report.page import injected_parameters, link_runs, page_body, parse, to_mathml
from thinsight.report.tables import ledger_html

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="300"><rect width="700" height="200"/></svg>'
WIDE = (
    "<table><thead><tr>" + "<th>a long heading</th>" * 14 + "</tr></thead><tbody><tr><td>1.0</td></tr></tbody></table>"
)
VERDICT = [(COST, RECOMPUTED)] * 7 + [(COST, DIFFERS)] * 5 + [(SCORE, NEEDS)] * 12
LINES = [
    dict.fromkeys(COLUMNS, "")
    | {"file": "vtw", "paper": "A" if n % 3 else "B", "arxiv": "2405.05803", "row": f"setting {n}", "column": "POPE"}
    | {"printed": f"{(7 * n) % 24 + 0.5}", "computed": 1.0, "measured": float(n), question: verdict}
    | {"run": "par" if n % 2 else "absent", AVERAGE: ADDS if n > 22 else ""}
    for n, (question, verdict) in enumerate(VERDICT)
]
SPANS = """<table class="filter"><thead><tr><th>model</th><th>score</th></tr></thead><tbody>
<tr><th rowspan="2">big</th><td>10</td></tr><tr><td>9</td></tr>
<tr><th rowspan="2">small</th><td>–</td></tr><tr><td>11</td></tr></tbody></table>"""
INTRO = """# A title, with <b>care</b>

It finds nothing. See [the other](quickstart.ipynb#end) and [the runs](../params.yaml).

$$D_K = \\frac{1}{N}\\sum_n \\mathrm{KL}(p_n \\,\\|\\, q_n)$$ with $p_n$ plain; it costs 5$ or 6$, and `$x$` is code."""


def executed(*cells, **metadata):
    """An executed notebook: text for a string, else a code cell (source, tags, data of its output)."""
    parts = []
    for number, cell in enumerate(cells):
        if isinstance(cell, str):
            parts.append(new_markdown_cell(cell, id=f"cell-{number}"))
        else:
            text, tags, data = cell
            outputs = [new_output("display_data", data=data)] if data else []
            part = new_code_cell(text, execution_count=1, outputs=outputs, metadata={"tags": tags}, id=f"cell-{number}")
            parts.append(part)
    return new_notebook(cells=parts, metadata=metadata)


def paper():
    return executed(
        INTRO,
        ('runs: str = "data/runs"\nreads: list = ["plain"]', ["parameters"], None),
        ('# Parameters\nreads = ["par", "pla*", "nowhere", "trsm-*"]', ["injected-parameters"], None),
        ("finding", ["finding"], {"text/markdown": "It keeps **98 %**."}),
        "## Where it looks\n\nText.",
        ("a = 1\nprint('" + "long " * 60 + "')", [], {"image/svg+xml": SVG}),
        "**Figure 1.** What is seen,\nwith $K = 8$.\n\nAfter the caption.\n\n## The end of it",
        ("table", ["key-figure"], {"text/html": WIDE}),
        "**Table 1.** Everything.",
        ("picture", [], {"text/plain": "x" * 400}),
        "## The ledger",
        ("ledger", [], {"text/html": ledger_html(pd.DataFrame(LINES))}),
        "**Table 2.** Every number.",
        ("spans", [], {"text/html": SPANS}),
    )


def runs(folder):
    """Three finished runs, one of them a question about another, as far as pages look into them."""
    for name in ("plain", "par", "par-parts"):
        home = folder / name
        home.mkdir(parents=True)
        method = "identity" if name == "plain" else "par"
        group = "par_parts" if name == "par-parts" else "main"
        config = load_config([f"run={name}", f"method={method}", "tasks=[exist]", f"group={group}"])
        config_file(home).parent.mkdir(exist_ok=True)
        config_file(home).write_text(to_yaml(config))
        (home / "metrics.json").write_text("{}")
        card = {"name": "pocket", "checkpoint": "/home/somebody/pocket", "weights_sha256": "a" * 64, "device": "cpu"}
        (home / "protocol.json").write_text(json.dumps({"model": card, "tasks": {}, "versions": {"torch": "2.0"}}))


def write(root, notebooks):
    """Notebooks, pages and index in ``root``, by the command line."""
    for name, notebook in notebooks.items():
        path = root / "reports" / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
    (root / "contents.json").write_text(list_pages(list(notebooks), root / "reports" / "notebooks"))
    known = [
        "--runs",
        str(root / "data/runs"),
        "--pages",
        str(root / "data/pages"),
        "--contents",
        str(root / "contents.json"),
    ]
    for name in notebooks:
        main(
            [
                *known,
                "page",
                str(root / "reports/notebooks" / f"{name}.ipynb"),
                str(root / "reports/pages" / f"{name}.html"),
            ]
        )
    main([*known, "index", str(root / "reports")])
    return root / "reports"


@pytest.fixture(scope="module")
def gate():
    """What the gate says, to be filled by a test; pages ask it for the folder of their runs."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        for module in ("page", "index"):
            patch.setattr(
                f"thinsight.report.{module}.check_baseline",
                lambda folder: [f"{sentence} in {folder.name}" for sentence in said],
            )
        yield said


@pytest.fixture(scope="module")
def reports(tmp_path_factory, gate):
    """A small `reports/`, written by the command line, and the runs that it is about."""
    root = tmp_path_factory.mktemp("project")
    runs(root / "data" / "runs")
    saved = root / "data" / "pages" / "vtw" / "ledger.csv"
    saved.parent.mkdir(parents=True)
    with saved.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(LINES)
    quick = executed("# Quickstart\n\nA tour.", ("1", [], {"image/svg+xml": SVG}), thinsight={"order": 1})
    return write(root, {"quickstart": quick, "vtw": paper()})


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        assert not os.environ.get("CI"), "continuous integration must open the pages: install chromium"
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


def pages(reports):
    return [reports / "index.html", *sorted((reports / "pages").glob("*.html"))]


def opened(browser, file, anchor="", **options):
    """The page, open in a browser that knows no network; what went wrong is in ``page.troubles``."""
    page = browser.new_context(offline=True, **options).new_page()
    page.troubles = []
    page.on(
        "console", lambda message: page.troubles.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("requestfailed", lambda request: page.troubles.append(request.url))
    page.on("request", lambda request: page.troubles.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri() + anchor)
    return page


def check(page, file):
    """No failed request, no console error, every link and picture resolves, no horizontal scroll."""
    for image in page.query_selector_all("img"):
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth > 0)"), image.get_attribute("src")[:80]
    for href in page.eval_on_selector_all("a[href]", "links => links.map(link => link.getAttribute('href'))"):
        path, _, anchor = href.partition("#")
        if not path.startswith(("http:", "https:")):
            target = (file.parent / path).resolve() if path else file
            assert target.is_file() or not path, href
            if anchor and target == file:
                assert page.evaluate("id => document.getElementById(decodeURIComponent(id)) !== null", anchor), href
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.troubles == []


@pytest.mark.parametrize("width", [320, 390, 820, 1280, 1600])
def test_pages_are_whole_at_every_width(browser, reports, width):
    for file in pages(reports):
        page = opened(browser, file, viewport={"width": width, "height": 800})
        check(page, file)


BUILT = sorted((ROOT / "reports").glob("pages/*.html")) + sorted((ROOT / "reports").glob("index.html"))


@pytest.mark.parametrize("file", BUILT, ids=lambda file: file.stem)
def test_the_pages_of_this_workspace_are_whole(browser, file):
    for width in (390, 1280):
        check(opened(browser, file, viewport={"width": width, "height": 800}), file)


def test_the_toggle_shows_the_code_and_hides_it_again(browser, reports):
    page = opened(browser, reports / "pages" / "vtw.html")
    code = page.locator(".code").first
    assert not code.is_visible()
    page.click("#code")
    assert code.is_visible()
    assert page.get_attribute("#code", "aria-pressed") == "true"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#code")
    assert not code.is_visible()
    assert page.troubles == []


def light(page, selector="body"):
    """The lightness of a background, 0 to 255."""
    color = page.eval_on_selector(selector, "node => getComputedStyle(node).backgroundColor")
    return sum(float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]) / 3


def test_dark_follows_the_system_and_the_reader_and_figures_stay_legible(browser, reports):
    file = reports / "pages" / "vtw.html"
    assert light(opened(browser, file, color_scheme="light")) > 200
    page = opened(browser, file, color_scheme="dark")
    assert light(page) < 60
    assert light(page, ".picture") > 200
    page.click("#theme")
    assert light(page) > 200
    page.reload()
    assert light(page) > 200
    assert page.troubles == []


def test_on_paper_it_is_light_and_has_no_buttons(browser, reports):
    page = opened(browser, reports / "pages" / "vtw.html", color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible()
    assert light(page) > 200


def test_a_notebook_that_is_about_its_code_shows_it(browser, reports, tmp_path):
    notebook = executed("# T", ("print(1)", [], {"text/plain": "1"}), thinsight={"code": True})
    nbformat.write(notebook, tmp_path / "t.ipynb")
    main(["page", str(tmp_path / "t.ipynb"), str(tmp_path / "t.html")])
    page = opened(browser, tmp_path / "t.html")
    assert page.locator(".code").first.is_visible()
    assert page.get_attribute("#code", "aria-pressed") == "true"
    page.click("#code")
    assert not page.locator(".code").first.is_visible()


def test_captions_sections_formulae_and_links(reports):
    text = (reports / "pages" / "vtw.html").read_text()
    assert text.count("<figure") == 3
    assert text.count("<figcaption>") == 3
    assert 'alt="Figure 1. What is seen' in text
    assert text.index("</figcaption>") < text.index("<p>After the caption.</p>") < text.index('<h2 id="The-end-of-it"')
    assert text.count("<h1") == 1
    assert [name for name in ("Where it looks", "The end of it") if f">{name}</a></li>" in text] == [
        "Where it looks",
        "The end of it",
    ]
    assert text.count("<math") == 3
    assert "5$ or 6$" in text
    assert "<code>$x$</code>" in text
    assert 'href="quickstart.html#end"' in text
    assert "It keeps <strong>98 %</strong>" in text
    assert "<strong>aaaaaaaaaaaa</strong>" in text  # the protocol box, its hash shortened
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_the_index_has_a_card_a_page_and_a_line_a_run(reports):
    text = (reports / "index.html").read_text()
    assert text.count('class="card"') == 2
    assert (
        text.index('id="papers"') < text.index("A title") < text.index('id="more"') < text.index("Quickstart</a></h3>")
    )
    assert "It keeps <strong>98 %</strong>" in text
    assert 'href="../data/configs/plain.yaml"' in text
    assert yaml.safe_load((reports / "../data/configs/plain.yaml").read_text())["run"] == "plain"


def shown(page, table):
    """The first cells of a table's rows that are not filtered away."""
    script = "rows => rows.filter(r => !r.hidden).map(r => [...r.cells].find(c => !c.hidden).textContent)"
    return [text.strip() for text in page.eval_on_selector_all(f"{table} tbody tr", script)]


def rows(keep, key=lambda line: 0, reverse=False):
    """The settings of the ledger that are kept, paper by paper as on the page."""
    papers = [[line for line in LINES if line["paper"] == paper and keep(line)] for paper in "BA"]
    return [line["row"] for lines in papers for line in sorted(lines, key=key, reverse=reverse)]


def folds(page):
    """Of each printed table of the ledger: whether it is hidden and whether it is open."""
    return page.eval_on_selector_all(".ledger details:has(table)", "all => all.map(one => [one.hidden, one.open])")


def test_a_filter_goes_over_all_tables_of_a_ledger(browser, reports):
    page = opened(browser, reports / "pages" / "vtw.html")
    box = page.locator(".ledger .sift input")
    assert box.count() == 1
    assert shown(page, ".ledger table") == rows(lambda line: True)
    assert folds(page) == [[False, True], [False, False]]  # a long table waits behind its name
    box.fill("SETTING 12")
    assert shown(page, ".ledger table") == ["setting 12"]
    assert folds(page) == [[False, True], [True, False]]
    assert page.locator(".ledger output").inner_text() == "1 of 24 rows"
    box.fill("setting never")
    assert shown(page, ".ledger table") == []
    box.fill("a, setting 2")  # the name of a table counts for its rows
    assert {"setting 2", "setting 20"} <= set(shown(page, ".ledger table"))
    assert folds(page)[1] == [False, True]
    box.fill("")
    assert shown(page, ".ledger table") == rows(lambda line: True)
    assert folds(page) == [[False, True], [False, False]]
    assert page.troubles == []


def test_a_heading_sorts_by_keyboard_and_back(browser, reports):
    page = opened(browser, reports / "pages" / "vtw.html")
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    for direction in ("descending", "ascending"):
        for heading in page.locator(".ledger th:nth-child(3) .sort").all():
            heading.press("Enter")
        assert page.get_attribute(".ledger th:nth-child(3)", "aria-sort") == direction
        wanted = rows(lambda line: True, lambda line: float(line["printed"]), direction == "descending")
        assert shown(page, ".ledger table") == wanted
    for heading in page.locator(".ledger th:nth-child(3) .sort").all():
        heading.press("Space")
    assert page.get_attribute(".ledger th:nth-child(3)", "aria-sort") is None
    assert shown(page, ".ledger table") == rows(lambda line: True)
    for _ in range(2):
        page.locator(".ledger th:first-child .sort").last.click()
    assert shown(page, ".ledger table")[8] == "setting 23"  # words with numbers in them, by number


BLOCKS = """<table class="filter"><thead><tr><th>method</th><th>score</th></tr></thead>
<tbody><tr class="block"><th colspan="2">one third</th></tr>
<tr><th>FastV</th><td>1</td></tr><tr><th>VTW</th><td>2</td></tr></tbody>
<tbody><tr class="block"><th colspan="2">one ninth</th></tr><tr><th>FastV</th><td>0.5</td></tr></tbody>
<tbody><tr class="block"><th colspan="2">not run: PAR</th></tr></tbody></table>"""


def test_blocks_of_rows_keep_their_headings(browser, gate, tmp_path):
    reports = write(tmp_path, {"a": executed("# A\n\nText.", ("1", [], {"text/html": BLOCKS}))})
    page = opened(browser, reports / "pages" / "a.html")
    page.click(".sort >> nth=1")
    assert shown(page, ".filter") == ["one third", "VTW", "FastV", "one ninth", "FastV", "not run: PAR"]
    page.fill(".sift input", "vtw")
    assert shown(page, ".filter") == ["one third", "VTW", "not run: PAR"]
    page.fill(".sift input", "ninth fast")
    assert shown(page, ".filter") == ["one ninth", "FastV", "not run: PAR"]


def test_a_cell_over_several_rows_goes_with_each_of_them(browser, reports):
    page = opened(browser, reports / "pages" / "vtw.html")
    assert shown(page, ".filter") == ["big", "9", "small", "11"]
    page.locator(".filter th:nth-child(2) .sort").click()
    assert shown(page, ".filter") == ["small", "big", "big", "small"]  # 11, 10, 9, and what is no number last
    page.locator(".sift:has(+ .scroll .filter) input").fill("big")
    assert shown(page, ".filter") == ["big", "big"]
    page.locator(".sift:has(+ .scroll .filter) input").fill("")
    for _ in range(2):
        page.locator(".filter th:nth-child(2) .sort").click()
    assert page.eval_on_selector_all(".filter tbody th", "cells => cells.map(c => [c.rowSpan, c.hidden])") == [
        [2, False],
        [1, True],
        [2, False],
        [1, True],
    ]


def test_a_chip_shows_one_verdict_and_so_does_a_link(browser, reports):
    page = opened(browser, reports / "pages" / "vtw.html", viewport={"width": 390, "height": 800})
    chips = page.eval_on_selector_all(".chip", "chips => chips.map(chip => chip.innerText)")
    assert [" ".join(chip.split()) for chip in chips] == [
        "needs the model 12", "recomputed 7", "differs 5", "adds up 1",
    ]  # fmt: skip
    page.click(".chip-differs")
    assert page.get_attribute(".chip-differs", "aria-pressed") == "true"
    assert shown(page, ".ledger table") == rows(lambda line: line[COST] == DIFFERS)
    page.click(".chip-recomputed")
    assert shown(page, ".ledger table") == rows(lambda line: line[COST])
    linked = opened(browser, reports / "pages" / "vtw.html", "#ledger-needs")
    assert shown(linked, ".ledger table") == rows(lambda line: line[SCORE] == NEEDS)
    linked.click(".chip-needs")
    linked.click(".chip-adds")  # a line with two verdicts is found by either
    assert shown(linked, ".ledger table") == rows(lambda line: line[AVERAGE] == ADDS)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.troubles == linked.troubles == []


def test_without_scripts_everything_is_there(browser, reports):
    for file in pages(reports):
        page = opened(browser, file, viewport={"width": 390, "height": 800}, java_script_enabled=False)
        assert page.locator(".sift").count() == 0
        assert all(row.is_visible() for row in page.locator(".ledger details[open] tbody tr").all())


def test_the_glance_counts_the_ledgers(browser, reports):
    with (reports.parent / "data/pages/vtw/ledger.csv").open() as file:
        lines = list(csv.DictReader(file))
    wanted = {
        kind: count
        for question, kinds in BADGES.items()
        for verdict, kind in kinds.items()
        if (count := sum(line[question] == verdict for line in lines))
    }
    page = opened(browser, reports / "index.html")
    read = "rows => Object.fromEntries(rows.map(row => [row.dataset.kind, Number(row.querySelector('b').innerText)]))"
    for place in ('.row[data-page=""]', '.row[data-page="vtw"]', "#page-vtw"):
        assert page.eval_on_selector_all(f"{place} .legend li", read) == wanted
    assert page.locator('.row[data-page="vtw"] .total').inner_text() == "24"
    widths = page.eval_on_selector_all('.row[data-page="vtw"] .part', "parts => parts.map(p => p.offsetWidth)")
    assert [round(width / sum(widths[1:3]) * 12) for width in widths[1:3]] == [7, 5]  # a bar for each question
    assert "Scores obtained on the papers' models: none of 12. Cost numbers that recompute: 7 of 12" in page.inner_text(
        ".head"
    )
    page.click("text=Document by document")
    assert shown(page, ".documents") == ["B 2405.05803", "A 2405.05803"]
    page.click('.row[data-page="vtw"] .legend a:has-text("differs")')
    assert page.url.endswith("pages/vtw.html#ledger-differs")
    assert page.locator(".chip-differs").get_attribute("aria-pressed") == "true"


def test_a_number_in_two_ledgers_counts_once(reports, tmp_path):
    for name in ("vtw", "efficiency", "overview"):
        shutil.copytree(reports.parent / "data/pages/vtw", tmp_path / name)
    found = verdict_counts(tmp_path, ["vtw"])
    assert [counts.page for counts in found.pages] == ["vtw", "efficiency", "overview"]
    assert found.whole.total == found.pages[0].total == 24
    for text, words in (
        ("paper,mark,computation,score,cost,average\nA,,,sort of,,\n", "does not know: sort of"),
        ("paper,verdict\nA,reproduced\n", "make repro"),
    ):
        (tmp_path / "vtw/ledger.csv").write_text(text)
        with pytest.raises(UserError, match=words):
            verdict_counts(tmp_path)
    assert verdict_counts(tmp_path / "nowhere") is None


def test_an_index_without_ledgers_says_what_makes_them(tmp_path, gate):
    text = (write(tmp_path, {"quickstart": executed("# Quickstart\n\nA tour.")}) / "index.html").read_text()
    assert "There is no ledger yet" in text
    assert "make repro" in text


def test_a_baseline_that_misses_is_told_on_top_of_every_page_with_runs(browser, tmp_path, gate):
    runs(tmp_path / "data" / "runs")
    gate.append("exist is below what is stored")
    try:
        reports = write(tmp_path, {"vtw": paper(), "quickstart": executed("# Quickstart\n\nA tour.")})
    finally:
        gate.clear()
    for file in (reports / "index.html", reports / "pages" / "vtw.html"):
        page = opened(browser, file)
        assert "exist is below what is stored in runs" in page.locator(".banner").inner_text()
        assert page.locator(".banner").bounding_box()["y"] < page.locator("h1").bounding_box()["y"]
    assert 'banner"' not in (reports / "pages" / "quickstart.html").read_text()


def test_the_protocol_box_has_the_runs_that_the_page_read(reports):
    assert injected_parameters(paper())["reads"] == ["par", "pla*", "nowhere", "trsm-*"]
    text = (reports / "pages" / "vtw.html").read_text()
    assert 'id="run-plain"' in text
    assert 'id="run-par"' in text
    assert 'id="run-par-parts"' not in text
    assert "<strong>Not run:</strong> nowhere, trsm-*." in text
    assert (
        text.count('run <a href="../../data/runs/par/metrics.json" title="metrics of the run par"><code>par</code>')
        == 12
    )
    assert text.count("run <code>absent</code>") == 12
    assert 'id="protocol"' not in (reports / "pages" / "quickstart.html").read_text()
    for file in pages(reports):
        assert "/home/somebody" not in file.read_text()


def test_a_cell_that_names_a_run_leads_to_it(tmp_path):
    runs(tmp_path / "runs")
    cells = parse('<th data-run="par" data-short>PAR<small>x</small></th><td data-run="gone">1</td>')
    linked = str(link_runs(cells, tmp_path / "runs", tmp_path))
    assert linked.startswith('<th data-run="par" data-short=""><a href="runs/par/metrics.json"')
    assert 'href="configs/par.yaml"' in linked
    assert linked.endswith('config</a><small>x</small></th><td data-run="gone">1</td>')


def test_every_method_stands_where_it_acts():
    places = {place: [entry.name for entry in entries] for place, entries in methods_by_place().items()}
    assert sorted(name for group in places.values() for name in group) == names("method")
    assert "prumerge" in places["before the decoder"]
    assert list(places)[-1] == "control"


def test_runs_are_grouped_by_what_they_were_made_with():
    def run(name, device, rows):
        model = {"name": "pocket", "checkpoint": "/secret/pocket", "device": device, "dtype": "float32"}
        return FinishedRun(
            name, Path(), Path(), {}, {"model": model, "tasks": {"exist": {"rows": rows}}, "versions": {"torch": "2"}}
        )

    conditions = run_conditions(
        [run("a", "cuda", 9), run("b", "cpu", 5), run("c", "cpu", 60), FinishedRun("d", Path(), Path(), {}, {})]
    )
    assert [(group.runs, group.facts["hardware"]) for group in conditions] == [(["b", "c"], "CPU"), (["a"], "GPU")]
    assert conditions[0].tasks["exist"]["rows"] == 60
    assert conditions[0].facts["checkpoint"] == "pocket"
    assert conditions[0].facts["versions"] == "torch 2"


def test_pages_know_each_other(browser, reports):
    page = opened(browser, reports / "pages" / "vtw.html", viewport={"width": 390, "height": 800})
    links = "links => links.map(link => [link.innerText, link.getAttribute('href'), link.getAttribute('aria-current')])"
    assert page.eval_on_selector_all(".pages a", links) == [
        ["Quickstart", "quickstart.html", None],
        ["Vtw", "vtw.html", "page"],
    ]
    page.click("a[rel=prev]")
    assert page.url.endswith("quickstart.html")
    assert page.locator("a[rel=next]").count() == 1
    assert page.locator("a[rel=prev]").count() == 0


CONTRAST = """() => {
  const rgb = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [...[r, g, b].map(v => text.startsWith("color(") ? 255 * v : v), a];
  };
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => {
    if (!node) return [255, 255, 255];
    const [r, g, b, a] = rgb(getComputedStyle(node).backgroundColor);
    return a === 1 ? [r, g, b] : behind(node.parentElement).map((under, i) => a * [r, g, b][i] + (1 - a) * under);
  };
  const found = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement, text = texts.currentNode.data.trim().slice(0, 30);
    if (!text || !node.checkVisibility({ opacityProperty: true }) || node.closest("script")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.add(`${ratio.toFixed(2)} ${node.tagName}.${node.className} ${text}`);
  }
  return [...found];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(browser, reports, scheme):
    for file in pages(reports):
        page = opened(browser, file, color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
        assert page.evaluate(CONTRAST) == []


def test_equal_notebooks_give_equal_pages(reports, tmp_path):
    root, out = reports.parent, reports / "pages" / "again.html"
    known = ["--runs", str(root / "data/runs"), "--contents", str(root / "contents.json")]
    main([*known, "page", str(reports / "notebooks" / "vtw.ipynb"), str(out)])
    assert out.read_bytes() == (reports / "pages" / "vtw.html").read_bytes()
    out.unlink()


def test_finding_and_title_fall_back_on_the_text():
    plain = summarize(executed("# Title\n\nFirst *words*\nof it.\n\nMore.", ("1", [], None)), "x")
    assert (plain.title, plain.finding, plain.figure) == ("Title", "First *words* of it.", None)
    with pytest.raises(UserError, match="has no title"):
        summarize(executed("No heading."), "x")


def test_only_a_notebook_executed_to_its_end_makes_a_page(tmp_path):
    error = new_output("error", ename="E", evalue="", traceback=[])
    for outputs, count, sentence in (([error], 1, "stopped at an error"), ([], None, "was not executed")):
        cell = new_code_cell("1", execution_count=count, outputs=outputs)
        nbformat.write(new_notebook(cells=[new_markdown_cell("# T"), cell]), tmp_path / "a.ipynb")
        with pytest.raises(UserError, match=sentence):
            main(["page", str(tmp_path / "a.ipynb"), str(tmp_path / "a.html")])
    with pytest.raises(UserError, match="no pages in"):
        main(["index", str(tmp_path)])
    assert not list(Path(tmp_path).glob("*.html"))


def test_a_heading_with_signs_can_be_linked_to():
    notebook = new_notebook(cells=[new_markdown_cell('# T\n\n## What "192 tokens" means, at 83 %?')])
    text = str(page_body(notebook))
    assert '<h2 id="What-192-tokens-means-at-83">' in text
    assert 'href="#What-192-tokens-means-at-83"' in text


def test_formulae():
    assert to_mathml("`$a$` and $b$").count("<math") == 1
    assert 'display="block"' in to_mathml("$$\na\n$$")
    assert to_mathml("5$ and 6$, US$5, \\$3$") == "5$ and 6$, US$5, \\$3$"
