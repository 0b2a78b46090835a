"""README.md: its generated parts are what the files say now, its links lead somewhere, its commands exist."""

import re
import subprocess

import pandas as pd
import pytest

from thinsight.config.catalogue import method_entries
from thinsight.config.compose import load_config
from thinsight.config.schema import MEASURES, names
from thinsight.errors import UserError
from thinsight.paths import ROOT
from thinsight.report import readme
from thinsight.report.readme import FILE, PARTS, filled, methods, standing

TEXT = FILE.read_text()


@pytest.mark.parametrize("name", [name for name in PARTS if name != "methods"])
def test_generated_parts_are_up_to_date(name):
    """`python -m thinsight.report.readme` would change nothing."""
    assert filled(TEXT, {name: PARTS[name]}) == TEXT


def test_the_catalogue_is_up_to_date():
    """Every line is as it is generated. Only the line of a method that git does not know yet may be missing."""
    made = methods().splitlines()
    there = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", TEXT, re.DOTALL)[1].splitlines()
    assert not [line for line in there if line not in made]
    missing = [re.match(r"\| `(\w+)`", line)[1] for line in made if line not in there]
    listed = ["git", "ls-files", *(f"conf/method/{name}.yaml" for name in missing)]
    assert not missing or not subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_a_missing_marker_is_named():
    with pytest.raises(UserError, match="pocket"):
        filled(TEXT.replace("<!-- pocket -->", ""))


def test_links_and_pictures_resolve():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if not target.startswith("https://")]
    assert targets
    assert not [target for target in targets if not (ROOT / target).is_file()]


def test_make_targets_exist():
    known = subprocess.run(["make", "-pnq"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", known, re.MULTILINE), target


def test_overrides_shown_are_valid():
    commands = re.findall(r"python -m thinsight\.(?:evaluate|cost|solve) ([^`]+)`", TEXT)
    assert commands
    for line in commands:
        load_config([word for word in line.split() if word.split("=")[0] not in MEASURES and word[:2] != "--"])


def test_every_method_has_a_line_with_what_its_file_says():
    lines = {line.split("`")[1]: line for line in methods().splitlines()[2:]}
    assert set(lines) == set(names("method"))
    for entry in method_entries():
        for words in (entry.about, entry.scores, entry.acts, entry.cost, entry.link, *entry.needs):
            assert words in lines[entry.name]
        assert ("control" in lines[entry.name].split("|")[-2]) == entry.is_control


def test_the_methods_standing_is_read_off_their_page(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "pages" / "methods"
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    with pytest.raises(UserError, match="make repro"):
        standing()
    line = {"task": "mean", "picture": 144.0, "flops": 0.4, "place": "before the decoder"}
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
    assert standing().splitlines() == [
        "|  | acts | 72 of 144 tokens | FLOPs | 36 of 144 tokens | FLOPs |",
        "| --- | --- | --- | --- | --- | --- |",
        "| random | before the decoder | 50.0% | 40% | 40.0% | 40% |",
        "| grid | before the decoder | 95.0% | 40% | – | – |",
        "| good | before the decoder | 90.0% | 40% | 80.0% ○ | 40% |",
        "| poor | before the decoder | 20.0% ▾ | 40% | – | – |",
    ]
