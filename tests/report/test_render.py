"""Templates filled, and how numbers are written in them."""

import pytest
from jinja2 import UndefinedError

from thinsight.report import render
from thinsight.report.render import finding, join_and, points


def test_findings_are_paragraphs(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "PAPERS", tmp_path)
    parts = [
        "{{ names | join_and }} keep\n{{ share | percent }} & {{ 0.0123 | points }}.",
        "{% if no %}no{% endif %}",
        "End.",
    ]
    (tmp_path / "finding.md.j2").write_text("\n\n".join(parts))
    facts = {"names": ["A", "B", "C"], "share": 0.5, "no": False}
    assert finding("finding.md.j2", facts) == "A, B and C keep 50% & +1.2.\n\nEnd."
    with pytest.raises(UndefinedError, match="names"):
        finding("finding.md.j2", {})


def test_words_and_signs():
    assert [join_and(parts) for parts in (["a"], ["a", 2], "abc")] == ["a", "a and 2", "a, b and c"]
    assert [points(value) for value in (0.015, -0.003, 0.0)] == ["+1.5", "−0.3", "0.0"]
