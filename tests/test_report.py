"""The pages in a real browser: nothing is fetched or broken; they read on a phone, in the dark and on paper."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from thinsight.config import ROOT, load_config, to_yaml
from thinsight.errors import UserError
from thinsight.formulas import to_mathml
from thinsight.report import main
from thinsight.summary import summarize

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="300"><rect width="700" height="200"/></svg>'
WIDE = (
    "<table><thead><tr>" + "<th>a long heading</th>" * 14 + "</tr></thead><tbody><tr><td>1.0</td></tr></tbody></table>"
)
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
        ('runs: str = "data/runs"', ["parameters"], None),
        ("finding", ["finding"], {"text/markdown": "It keeps **98 %**."}),
        "## Where it looks\n\nText.",
        ("a = 1\nprint('" + "long " * 60 + "')", [], {"image/svg+xml": SVG}),
        "**Figure 1.** What is seen,\nwith $K = 8$.\n\nAfter the caption.\n\n## The end of it",
        ("table", ["key-figure"], {"text/html": WIDE}),
        "**Table 1.** Everything.",
        ("picture", [], {"text/plain": "x" * 400}),
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A small `reports/`, written by the command line, and the runs that it is about."""
    root = tmp_path_factory.mktemp("project")
    home = root / "data" / "runs" / "plain"
    home.mkdir(parents=True)
    (home / "config.yaml").write_text(to_yaml(load_config(["run=plain", "tasks=[exist]"])))
    (home / "metrics.json").write_text("{}")
    (home / "protocol.json").write_text('{"model": {"name": "pocket", "weights_sha256": "' + "a" * 64 + '"}}')
    quick = executed("# Quickstart\n\nA tour.", ("1", [], {"image/svg+xml": SVG}), thinsight={"order": 1})
    for name, notebook in {"vtw": paper(), "quickstart": quick}.items():
        path = root / "reports" / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        page = root / "reports" / "pages" / f"{name}.html"
        main(["--runs", str(root / "data" / "runs"), "page", str(path), str(page)])
    main(["--runs", str(root / "data" / "runs"), "index", str(root / "reports")])
    return root / "reports"


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


def opened(browser, file, **options):
    """The page, open in a browser that knows no network; what went wrong is in ``page.troubles``."""
    page = browser.new_context(offline=True, **options).new_page()
    page.troubles = []
    page.on(
        "console", lambda message: page.troubles.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("requestfailed", lambda request: page.troubles.append(request.url))
    page.on("request", lambda request: page.troubles.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
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
    assert text.count("<figure") == 2
    assert text.count("<figcaption>") == 2
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
    assert text.index("Quickstart") < text.index("A title")  # by the order in the notebook's metadata
    assert "It keeps <strong>98 %</strong>" in text
    assert 'href="../data/runs/plain/config.yaml"' in text
    assert yaml.safe_load((reports / "../data/runs/plain/config.yaml").read_text())["run"] == "plain"


def test_equal_notebooks_give_equal_pages(reports, tmp_path):
    runs, out = reports.parent / "data" / "runs", reports / "pages" / "again.html"
    main(["--runs", str(runs), "page", str(reports / "notebooks" / "vtw.ipynb"), str(out)])
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


def test_formulae():
    assert to_mathml("`$a$` and $b$").count("<math") == 1
    assert 'display="block"' in to_mathml("$$\na\n$$")
    assert to_mathml("5$ and 6$, US$5, \\$3$") == "5$ and 6$, US$5, \\$3$"
