"""README.md: its generated parts are what the files say now, its links lead somewhere, its commands exist."""

import re
import subprocess

import pytest

from thinsight import readme
from thinsight.config import ROOT, load_config
from thinsight.errors import UserError

TEXT = readme.FILE.read_text()


def test_generated_parts_are_up_to_date():
    """`python -m thinsight.readme` would change nothing."""
    assert readme.filled(TEXT) == TEXT


def test_a_missing_marker_is_named():
    with pytest.raises(UserError, match="pocket"):
        readme.filled(TEXT.replace("<!-- pocket -->", ""))


def test_links_and_pictures_resolve():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if not target.startswith("https://")]
    assert targets
    assert not [target for target in targets if not (ROOT / target).is_file()]


def test_make_targets_exist():
    known = subprocess.run(["make", "-pnq"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for target in re.findall(r"\bmake ([a-z-]+)", TEXT):
        assert re.search(rf"^{target}:", known, re.MULTILINE), target


def test_overrides_shown_are_valid():
    commands = re.findall(r"python -m thinsight\.(?:evaluate|cost) ([^`]+)`", TEXT)
    assert commands
    for line in commands:
        load_config(line.split())
