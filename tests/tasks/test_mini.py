"""The small part of a benchmark: all kinds in their shares, whole groups, the same for everybody, frozen in a list."""

import shutil
from collections import Counter

import pytest
from helpers.benchmark_configs import task

from thinsight.config.compose import load_config, to_yaml
from thinsight.errors import UserError
from thinsight.evaluation.sweep import sweep_points
from thinsight.pipeline.plan import run_code
from thinsight.tasks import mini
from thinsight.tasks.hub import provenance
from thinsight.tasks.mini import stratified
from thinsight.tasks.mini_lists import main
from thinsight.tasks.rows import load_rows, run_tasks

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Eight rows instead of five hundred, and lists of our own."""
    monkeypatch.setattr(mini, "ROWS", 8)
    monkeypatch.setattr(mini, "LISTS", tmp_path / "mini")


def lines(**counts):
    """As many rows of each kind, scored alone."""
    return [(f"{kind}{i}", kind, f"{kind}{i}") for kind, count in counts.items() for i in range(count)]


def test_kinds_have_their_shares_and_each_has_a_row():
    found = Counter(key[0] for key in stratified(lines(a=40, b=20, c=20)))
    assert found == {"a": 4, "b": 2, "c": 2}
    found = Counter(key[0] for key in stratified(lines(a=900, b=99, c=1)))
    assert sum(found.values()) == 8
    assert found["a"] >= 5
    assert found["b"] >= found["c"] == 1
    assert len(stratified(lines(a=3, b=2))) == 5  # there are no more
    assert stratified([]) == []


def test_the_first_of_a_kind_are_taken_and_no_group_is_parted():
    assert set(stratified(lines(a=40, b=40))) == {f"{kind}{i}" for kind in "ab" for i in range(4)}
    fours = [(f"q{i}-{turn}", "a", f"q{i}") for i in range(10) for turn in range(3)]
    found = stratified(fours)
    assert found == [f"q{i}-{turn}" for i in range(3) for turn in range(3)]  # nine: the third group goes beyond eight


@pytest.mark.parametrize("name", ["pope", "mme", "mmbench", "gqa", "vqav2"])
def test_the_rows_are_the_same_whatever_the_order_of_the_file(world, name):
    whole = load_rows(task(world, name))
    chosen = load_rows(task(world, name, "task.selection=mini"))
    assert 8 <= len(chosen) <= 11
    assert {row.kind for row in chosen} == {row.kind for row in whole}
    assert [row.id for row in chosen] == [row.id for row in whole if row.id in {row.id for row in chosen}]
    assert len(load_rows(task(world, name, "task.selection=mini"), 3)) <= 6
    groups = Counter(row.group for row in whole)
    assert all(count == groups[group] for group, count in Counter(row.group for row in chosen).items() if group)


def test_a_list_is_written_and_then_holds(world, capsys):
    override = f"task.path={world / 'pope'}"
    before = load_rows(task(world, "pope", "task.selection=mini"))
    assert (
        provenance(task(world, "pope", "task.selection=mini"))["selection"] == "mini, found anew, no list in data/mini"
    )
    assert "selection" not in provenance(task(world, "pope"))
    main(["pope", override])
    assert capsys.readouterr().out.endswith("pope.txt: 8 of 20 rows\n")
    path = mini.list_file("pope")
    assert path.read_text().splitlines()[1:] == sorted(row.id for row in before)
    assert provenance(task(world, "pope", "task.selection=mini"))["selection"] == f"mini, {path}"
    mini.ROWS = 4  # the list holds, whatever would be found now
    assert [row.id for row in load_rows(task(world, "pope", "task.selection=mini"))] == [row.id for row in before]


def test_a_list_that_was_changed_or_does_not_fit_is_refused(world, tmp_path):
    main(["pope", f"task.path={world / 'pope'}"])
    path = mini.list_file("pope")
    shutil.copy(path, mini.list_file("mme"))
    with pytest.raises(UserError, match=r"mme.txt names 8 rows that the data of task mme does not have, adversarial-"):
        load_rows(task(world, "mme", "task.selection=mini"))
    path.write_text(path.read_text().replace("popular", "random", 1))
    with pytest.raises(UserError, match=r"pope.txt was changed: its ids do not fit the hash at its head\.$"):
        load_rows(task(world, "pope", "task.selection=mini"))


def test_what_is_no_selection_is_one_sentence(world):
    with pytest.raises(UserError, match="unknown selection of task pope 'mni': did you mean mini"):
        load_rows(task(world, "pope", "task.selection=mni"))
    with pytest.raises(UserError, match="task exist has no selection mini: it is no benchmark, take limit=8"):
        load_rows(load_config(["task=exist", "task.selection=mini"]).task)


def test_a_selection_holds_for_all_tasks_of_a_run():
    tasks = run_tasks(load_config(["tasks=[pope,mme]", "task.selection=mini"]))
    assert [chosen.selection for chosen in tasks] == ["mini", "mini"]


def test_the_command_says_how_it_is_used(capsys):
    main([])
    assert capsys.readouterr().out.startswith(
        "usage: python -m thinsight.tasks.mini_lists TASK... [override...]: write"
    )


# The preset


def test_the_preset_is_mini_for_every_task_of_a_run(world, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        to_yaml(load_config(["model=llava_1_5_7b", "preset=mini", "tasks=[pope,gqa]", "sweep=budgets", "method=fastv"]))
    )
    for config in (
        load_config(path=path),
        load_config(["preset=mini", "task=pope"]),
        load_config(["preset=mini", "tasks=[pope]"]),
    ):
        assert [chosen.selection for chosen in run_tasks(config)] == ["mini"] * max(1, len(config.tasks))
        assert config.limit == 500
    assert len(sweep_points(load_config(path=path))) == 3
    for more, selection in ((["task.selection=''"], ""), (["preset=full"], "")):
        overrides = ["preset=mini", "tasks=[pope,gqa]", *more]
        assert {chosen.selection for chosen in run_tasks(load_config(overrides))} == {selection}
    assert len(load_rows(load_config(["preset=mini", "task=pope", f"task.path={world / 'pope'}"]).task, 500)) == 8


@pytest.mark.parametrize("frozen", [False, True])
def test_a_limit_takes_a_part_of_the_mini_rows_of_all_kinds(world, frozen):
    if frozen:
        main(["pope", f"task.path={world / 'pope'}"])
    chosen = task(world, "pope", "task.selection=mini")
    whole, six, three = (load_rows(chosen, limit) for limit in (None, 6, 3))
    for larger, smaller, count in ((whole, six, 6), (six, three, 3)):
        assert len(smaller) == count
        ids = [row.id for row in smaller]
        assert [row.id for row in larger if row.id in ids] == ids
    assert Counter(row.kind for row in six) == dict.fromkeys(("random", "popular", "adversarial"), 2)
    assert len(load_rows(chosen, 8)) == len(load_rows(chosen, 500)) == len(whole) == 8


def test_a_list_changes_the_code_of_the_runs_that_read_it_alone(world):
    mini_run, whole_run = (load_config([f"preset={preset}", "tasks=[pope,gqa]"]) for preset in ("mini", "full"))
    before = run_code(mini_run), run_code(whole_run)
    main(["pope", f"task.path={world / 'pope'}"])
    after = run_code(mini_run), run_code(whole_run)
    assert before[0] != after[0]
    assert before[1] == after[1]
    (line,) = set(after[0].splitlines()) - set(before[0].splitlines())
    assert line.endswith("mini/pope.txt")
