"""The documents: generated parts are what the files say now; README's links lead somewhere, its commands exist."""

import re
import subprocess

import pandas as pd
import pytest

from thinsight.config.catalogue import method_entries
from thinsight.config.compose import load_config
from thinsight.config.schema import MEASURES, names
from thinsight.errors import UserError
from thinsight.paths import ROOT
from thinsight.report import docs
from thinsight.report.docs import METHODS, README, methods_document, standing_table, with_claims

TEXT = README.read_text()


def test_the_claims_are_up_to_date():
    """`python -m thinsight.report.docs` would change nothing in README.md."""
    assert with_claims(TEXT) == TEXT


def test_a_missing_marker_is_named():
    with pytest.raises(UserError, match="<!-- claims -->"):
        with_claims(TEXT.replace("<!-- claims -->", ""))


@pytest.fixture(scope="module")
def document():
    return methods_document()


def test_the_methods_are_up_to_date(document):
    assert METHODS.read_text() == document


def test_every_method_has_a_section_with_what_its_file_says(document):
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL))
    assert set(names("method")) <= set(sections)
    for entry in method_entries():
        for words in (entry.about, entry.scores, entry.cost, entry.link, entry.paper, *entry.deviations):
            assert words in sections[entry.name]


def test_links_of_the_methods_resolve(document):
    targets = set(re.findall(r"\]\((\.\.[^)]+)\)", document))
    assert targets
    assert all((METHODS.parent / target).is_file() for target in targets)


def test_links_and_pictures_resolve():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if not target.startswith("https://")]
    assert targets
    assert not [target for target in targets if not (ROOT / target).is_file()]


def test_make_targets_exist():
    known = subprocess.run(["make", "-pnq"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", known, re.MULTILINE), target


def test_overrides_shown_are_valid():
    commands = re.findall(r"`thinsight (?:evaluate|cost|solve) ([^`]+)`", TEXT)
    assert commands
    for line in commands:
        load_config([word for word in line.split() if word.split("=")[0] not in MEASURES and word[:2] != "--"])


def test_the_methods_standing_is_read_off_their_page(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "pages" / "methods"
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    with pytest.raises(UserError, match="make repro"):
        standing_table()
    line = {"task": "mean", "picture": 144.0, "flops": 0.4, "end_to_end": 0.5, "place": "before the decoder"}
    made = [
        ("poor", 0.5, 0.2, "below", False),
        ("good", 0.5, 0.9, "above", False),
        ("good", 0.25, 0.8, "inside", False),
        ("grid", 0.5, 0.95, "above", True),
        ("random", 0.5, 0.5, "inside", True),
        ("random", 0.25, 0.4, "inside", True),
    ]
    table = pd.DataFrame(
        [
            {**line, "run": run, "title": run, "keep": keep, "accuracy": score, "verdict": verdict, "control": control}
            for run, keep, score, verdict, control in made
        ]
    )
    folder.mkdir(parents=True)
    table.to_csv(folder / "standing.csv", index=False)
    flops = "FLOPs: decoder, end to end"
    assert standing_table().splitlines() == [
        f"| method | acts | 72 of 144 tokens | {flops} | 36 of 144 tokens | {flops} |",
        "| --- | --- | --- | --- | --- | --- |",
        "| random | before the decoder | 50.0% | 40%, 50% | 40.0% | 40%, 50% |",
        "| grid | before the decoder | 95.0% | 40%, 50% | – | – |",
        "| good | before the decoder | 90.0% | 40%, 50% | 80.0% ○ | 40%, 50% |",
        "| poor | before the decoder | 20.0% ▾ | 40%, 50% | – | – |",
    ]
