"""The catalogue is what the files in conf/method say, whatever files there are."""

import re

import pytest

from thinsight import load_method
from thinsight.config.catalogue import CONTROL, FAMILIES, family, method_entries, method_entry
from thinsight.config.schema import names
from thinsight.methods.controls import Grid
from thinsight.papers.methods import catalogue_table, method_sections
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.sites import Decoder, Features, Projected, Vision


@pytest.fixture(scope="module")
def entries():
    return method_entries()


def test_every_file_is_an_entry(entries):
    assert [e.name for e in entries] == names("method")
    for e in entries:
        assert e.family in (*FAMILIES, CONTROL)
        assert e.title
        assert e.acts
        assert e.is_control or e.scores or e.name.startswith("vtw")
        assert e.is_control == (not e.paper)


@pytest.mark.parametrize(
    ("sites", "place"),
    [
        ([Vision()], "in the vision tower"),
        ([Features()], "before the decoder"),
        ([Projected()], "before the decoder"),
        ([Features(), Decoder(layers=[0])], "before the decoder"),
        ([Decoder(layers=[2])], "in the decoder"),
        ([Decoder(layers=None, start=0.25)], "in the decoder"),
        ([Vision(), Decoder(layers=[2])], "at several places"),
        ([Features(), Decoder(layers=[0.5])], "at several places"),
    ],
)
def test_families_go_by_the_sites(sites, place):
    assert family(Method("x", tuple(Reduction(Grid(), site=site) for site in sites))) == place


def test_known_methods_are_where_their_papers_put_them():
    for name, place in {"ficoco_v": 0, "fastv": 2, "ficoco_vl": 3}.items():
        assert method_entry(name).family == FAMILIES[place]
    assert method_entry("random").family == CONTROL


def test_the_pages_say_all_of_it(entries):
    table, more = catalogue_table(entries), method_sections(entries)
    order = re.findall(r'class="block"><th[^>]*>([^<]+)', table)
    assert order == [place for place in (*FAMILIES, CONTROL) if any(e.family == place for e in entries)]
    for e in entries:
        assert f"<code>{e.name}</code>" in table
        assert f'id="method-{e.name}"' in more
        assert e.link in table
        for field in e.official:
            assert f"<code>{field}=" in more
    assert more.count("<li>") == sum(len(e.deviations) for e in entries)


def test_markup_in_a_file_is_text():
    from dataclasses import replace

    odd = replace(method_entry("fastv"), scores="a < b", deviations=("<script>",))
    assert "a &lt; b" in catalogue_table([odd])
    assert "<script>" not in method_sections([odd])


def test_knobs_are_those_of_the_method():
    assert method_entry("fastv").knobs == load_method("fastv").fields
