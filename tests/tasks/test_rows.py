"""Rows from parquet and from easy-vqa, the prompt they become, and what is wrong with bad data in one sentence."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import tiny_checkpoint as tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from thinsight.config.compose import load_config, load_task, to_yaml
from thinsight.config.schema import ModelConfig, TaskConfig, names
from thinsight.errors import UserError
from thinsight.models.loading import load_processor
from thinsight.tasks.rows import collate, load_rows, prompt_text, rows_digest, run_tasks


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tiny.save_model(tmp_path_factory.mktemp("model"))
    return load_processor(OmegaConf.structured(ModelConfig(name="tiny", checkpoint=str(folder))))


def task(path, **fields):
    return OmegaConf.structured(TaskConfig(name="flat", path=str(path), **fields))


def test_a_limit_is_a_prefix_of_a_mixed_order(tmp_path):
    where = task(tiny.save_task(tmp_path / "flat.parquet", rows=40))
    rows = load_rows(where)
    assert [row.id for row in load_rows(where, 10)] == [row.id for row in rows[:10]]
    assert {row.kind for row in rows[:10]} == {"exist", "colour"}
    assert [row.id for row in rows] != sorted(row.id for row in rows)
    assert rows[0].image.mode == "RGB"
    assert rows_digest(rows) == rows_digest(load_rows(where))
    assert rows_digest(rows) != rows_digest(rows[::-1])


def test_the_order_of_the_file_does_not_matter(tmp_path):
    path = tiny.save_task(tmp_path / "flat.parquet")
    rows = load_rows(task(path))
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    assert rows_digest(load_rows(task(path))) == rows_digest(rows)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda t: t.drop(columns="answer"), "lacks the column answer"),
        (lambda t: t.assign(image=[None, *t["image"][1:]]), "row row-000 of task flat has no image"),
        (lambda t: t.assign(image=[b"not a png", *t["image"][1:]]), "image of row row-000 .* cannot be read"),
        (lambda t: t.assign(image=[t["image"][0][:-30], *t["image"][1:]]), "image of row row-000 .* cannot be read"),
        (lambda t: t.assign(question=[" ", *t["question"][1:]]), "row row-000 of task flat has no question"),
        (lambda t: t.assign(answer=[None, *t["answer"][1:]]), "row row-000 of task flat has no answer"),
        (lambda t: t.assign(id="same"), "two rows with the id same"),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, break_it, message):
    path = tiny.save_task(tmp_path / "flat.parquet")
    break_it(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(UserError, match=message):
        load_rows(task(path))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no data at .*none.parquet"):
        load_rows(task(tmp_path / "none.parquet"))
    with pytest.raises(UserError, match="make pocket-data"):
        load_rows(task("data/pocket/tasks/no such file.parquet"))
    torn = tiny.save_task(tmp_path / "flat.parquet")
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(UserError, match="not readable parquet"):
        load_rows(task(torn))
    with pytest.raises(UserError, match=r"task flat reads one parquet file, and .* is a folder"):
        load_rows(task(tmp_path))
    with pytest.raises(UserError, match="did you mean parquet"):
        load_rows(task(torn, kind="parket"))


def test_easyvqa_is_its_own_split_and_shuffled():
    test = load_task("easyvqa")
    rows = load_rows(test, 60)
    assert {row.kind for row in rows} == {"yes/no", "shape", "color"}
    assert all(row.id.startswith("test-") for row in rows)
    test.split = "train"
    assert all(row.id.startswith("train-") for row in load_rows(test, 5))
    test.split = "trian"
    with pytest.raises(UserError, match="did you mean train"):
        load_rows(test, 5)


def test_a_batch_is_padded_on_the_left_and_equals_its_rows(processor, tmp_path):
    where = task(tiny.save_task(tmp_path / "flat.parquet"))
    rows = load_rows(where, 6)
    batch = collate(processor, rows, where)
    assert batch["attention_mask"][:, -1].all()
    assert len({int(n) for n in batch["attention_mask"].sum(1)}) > 1  # otherwise nothing was padded
    for i, row in enumerate(rows):
        alone = collate(processor, [row], where)
        alive = batch["attention_mask"][i].bool()
        assert torch.equal(batch["input_ids"][i][alive], alone["input_ids"][0])
        assert torch.equal(batch["pixel_values"][i], alone["pixel_values"][0])
    assert (batch["input_ids"] == 4).sum(1).tolist() == [4] * 6


def test_the_prompt_is_the_chat_template_with_the_suffix(processor, tmp_path):
    where = task(tiny.save_task(tmp_path / "flat.parquet"), suffix=" yes no")
    row = next(row for row in load_rows(where) if row.question == "what colour")
    text = prompt_text(processor, row, where)
    assert text == "<s>USER: <image> what colour yes no ASSISTANT:"
    ids = collate(processor, [row], where)["input_ids"][0]
    assert processor.decode(ids).split() == text.replace("<s>", "<s> ").replace("<image>", "<image> " * 4).split()


def test_a_prompt_without_its_placeholder_or_with_two_is_refused(processor, tmp_path):
    where = task(tiny.save_task(tmp_path / "flat.parquet"))
    rows = load_rows(where, 2)
    two = type(rows[0])("odd", rows[0].image, "what <image> is", "x", "y")
    with pytest.raises(UserError, match="row odd holds the placeholder"):
        collate(processor, [rows[0], two], where)
    template, processor.chat_template = processor.chat_template, "USER: {{ messages[0]['content'][1]['text'] }}"
    try:
        with pytest.raises(UserError, match="no image placeholder <image>"):
            collate(processor, rows, where)
    finally:
        processor.chat_template = template


@pytest.mark.parametrize("name", names("task"))
def test_every_task_file_is_complete(name):
    found = load_task(name)
    assert found.name == name
    assert all((found.title, found.about, found.source, found.license, found.split))
    run_tasks(load_config([f"task={name}"]))  # its functions are there
    assert found.kind != "hub" or (found.hub and found.reader and found.columns and found.rows and found.gigabytes)
    assert found.max_new_tokens >= 1


METRIC = "thinsight.tasks.scorers.gqa.official"


@pytest.mark.parametrize("tasks", ["exist", "exist,read"])
def test_overrides_of_a_task_hold_for_all_tasks_of_a_run(tmp_path, tasks):
    overrides = [f"tasks=[{tasks}]", "task.max_new_tokens=8", "task.suffix=' Say no.'", f"task.metric={METRIC}"]
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(load_config(overrides)))
    for config in (load_config(overrides), load_config(path=path), load_config(overrides[1:], path)):
        found = run_tasks(config)
        assert [task.name for task in found] == tasks.split(",")
        assert {(task.max_new_tokens, task.suffix, task.metric) for task in found} == {(8, " Say no.", METRIC)}
        assert {task.path for task in found} == {f"data/pocket/tasks/{task.name}.parquet" for task in found}


def test_one_task_takes_the_path_of_an_override(tmp_path):
    (found,) = run_tasks(load_config(["tasks=[pope]", f"task.path={tmp_path}"]))
    assert (found.name, found.path, found.protocol) == ("pope", str(tmp_path), "llava")


def table(**columns):
    """Two questions, with some columns replaced."""
    plain = {
        "id": ["a", "b"],
        "image": [tiny.png((255, 0, 0)), tiny.png((0, 0, 255))],
        "question": ["what", "is it"],
        "answer": ["red", "no"],
        "kind": ["x", "y"],
    }
    return pa.table(plain | columns)


def rows_of(tmp_path, table, **fields):
    """Id -> row, of a parquet file of this table."""
    pq.write_table(table, tmp_path / "t.parquet")
    return {row.id: row for row in load_rows(task(tmp_path / "t.parquet", **fields))}


def refusal(tmp_path, table):
    with pytest.raises(UserError) as caught:
        rows_of(tmp_path, table)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_picture_is_bytes_a_path_or_both(tmp_path):
    red, blue = tiny.png((255, 0, 0)), tiny.png((0, 0, 255))
    (tmp_path / "blue.png").write_bytes(blue)
    cells = [
        [red, blue],
        [{"bytes": red, "path": "red.png"}, {"bytes": blue, "path": None}],
        [{"bytes": red, "path": None}, {"bytes": None, "path": "blue.png"}],
        [{"bytes": red, "path": None}, {"bytes": None, "path": str(tmp_path / "blue.png")}],
        pa.array([red, blue], pa.large_binary()),
        pa.array([red, blue], pa.binary()).dictionary_encode(),
    ]
    for images in cells:
        rows = rows_of(tmp_path, table(image=images))
        assert [rows[id].image.getpixel((0, 0)) for id in "ab"] == [(255, 0, 0), (0, 0, 255)]
    (tmp_path / "red.png").write_bytes(red)
    rows = rows_of(tmp_path, table(image=["red.png", "blue.png"]))
    assert rows["a"].image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([{"bytes": None, "path": None}] * 2, "row a of task flat has no image"),
        (["none.png"] * 2, "the image of row a of task flat cannot be read"),
        (
            [3, 4],
            "the image of row a of task flat cannot be read (it is a int, neither the bytes of a file nor its path)",
        ),
        ([[1, 2], [3]], "the image of row a of task flat cannot be read (it is a list"),
    ],
)
def test_a_picture_that_is_none_names_its_row(tmp_path, images, sentence):
    one = table(image=images).slice(0, 1)
    assert sentence in refusal(tmp_path, one)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (["a", None], "row 2 (the first is 1) of task flat has no id"),
        (["a", ""], "row 2 (the first is 1) of task flat has no id"),
        (["a", " "], "row 2 (the first is 1) of task flat has no id"),
        ([float("nan"), 1.5], "row 1 (the first is 1) of task flat has no id"),
        ([None, 7], "row 1 (the first is 1) of task flat has no id"),
        ([7, 7], "two rows with the id 7"),
        ([["a"], ["b"]], "the id of row 1 (the first is 1) of task flat is a list"),
        ([b"a", b"b"], "the id of row 1 (the first is 1) of task flat is a bytes"),
    ],
)
def test_an_id_that_names_no_row_is_refused(tmp_path, ids, sentence):
    assert sentence in refusal(tmp_path, table(id=ids))


@pytest.mark.parametrize(
    ("answer", "text"),
    [(3, "3"), (3.0, "3"), (0.5, "0.5"), (-2, "-2"), ("3.0", "3.0"), (Decimal("3.00"), "3"), (10**17, str(10**17))],
)
def test_a_number_is_an_answer(tmp_path, answer, text):
    assert {row.answer for row in rows_of(tmp_path, table(answer=[answer] * 2)).values()} == {text}


def test_numbers_are_ids_kinds_and_questions(tmp_path):
    rows = rows_of(tmp_path, table(id=[7, 8], kind=[1, None], question=[5, 6]))
    assert [(row.id, row.kind, row.question) for row in rows.values()] in (
        [("7", "1", "5"), ("8", "all", "6")],
        [("8", "all", "6"), ("7", "1", "5")],
    )


@pytest.mark.parametrize("type_", [pa.float16(), pa.float32(), pa.float64(), pa.dictionary(pa.int8(), pa.float32())])
def test_a_fraction_is_what_is_written_whatever_its_bits(tmp_path, type_):
    values = np.array([0.1, 2.5, 3], getattr(type_, "value_type", type_).to_pandas_dtype())
    column = pa.array(values).dictionary_encode() if pa.types.is_dictionary(type_) else pa.array(values)
    columns = {name: [*cells, cells[0]] for name, cells in table().to_pydict().items()}
    rows = rows_of(tmp_path, pa.table(columns | {"id": ["a", "b", "c"], "answer": column}))
    assert [rows[id].answer for id in "abc"] == ["0.1", "2.5", "3"]


@pytest.mark.parametrize("kinds", [[None, None], ["", " "], pa.nulls(2), [float("nan")] * 2])
def test_a_question_without_a_kind_has_the_kind_of_all(tmp_path, kinds):
    assert {row.kind for row in rows_of(tmp_path, table(kind=kinds)).values()} == {"all"}


@pytest.mark.parametrize(
    ("column", "cells", "sentence"),
    [
        ("answer", [True, False], "the answer of row a of task flat is a bool, 'True': write it as a text"),
        ("answer", [["red", "blue"], ["no"]], "the answer of row a of task flat is a list"),
        ("answer", [{"text": "red"}, {"text": "no"}], "the answer of row a of task flat is a dict"),
        ("answer", [None, "no"], "row a of task flat has no answer"),
        ("answer", ["red", "  "], "row b of task flat has no answer"),
        ("answer", [float("nan"), 1.0], "row a of task flat has no answer"),
        ("answer", pa.nulls(2), "row a of task flat has no answer"),
        ("question", [None, "x"], "row a of task flat has no question"),
        ("question", [b"what", b"x"], "the question of row a of task flat is a bytes"),
        ("kind", [["x"], ["y"]], "the kind of row a of task flat is a list"),
    ],
)
def test_a_cell_of_another_type_names_row_and_column(tmp_path, column, cells, sentence):
    assert sentence in refusal(tmp_path, table(**{column: cells}))


def test_the_storage_of_a_column_does_not_matter(tmp_path):
    plain = rows_digest([*rows_of(tmp_path, table()).values()])
    for type_ in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        texts = {name: table()[name].cast(type_) for name in ("id", "question", "answer", "kind")}
        assert rows_digest([*rows_of(tmp_path, table(**texts)).values()]) == plain
    categories = table().to_pandas().astype({"id": pd.CategoricalDtype(["b", "a"], ordered=True), "kind": "category"})
    categories.set_index("id").to_parquet(tmp_path / "t.parquet")
    assert rows_digest(load_rows(task(tmp_path / "t.parquet"))) == plain


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (pa.table({}), "lacks the column id (its columns: none)"),
        (pa.table({"Id": ["a"], "image": [b""]}), "lacks the column id (its columns: Id, image)"),
        (table().append_column("answer", [["x", "y"]]), "has more than one column answer"),
        (table().slice(0, 0), "task flat has no rows"),
    ],
)
def test_a_table_of_another_shape_is_named(tmp_path, broken, sentence):
    assert sentence in refusal(tmp_path, broken)


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**18), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.lists(st.text(max_size=2), max_size=2), st.dates(), st.decimals(-9, 9, allow_nan=False, places=2),
)  # fmt: skip


@given(st.sampled_from(["id", "question", "answer", "kind", "image"]), CELLS, st.booleans())
@settings(max_examples=120, deadline=None)
def test_whatever_a_cell_holds_is_a_row_or_one_sentence(tmp_path_factory, column, cell, alone):
    folder = tmp_path_factory.mktemp("t")
    changed = table(**{column: [cell, cell]}).slice(0, 1) if alone else table(**{column: [cell, None]})
    try:
        rows = rows_of(folder, changed)
    except UserError as error:
        rows, sentence = {}, str(error)
        assert "\n" not in sentence, sentence
        assert "task flat" in sentence, sentence
    assert all(isinstance(getattr(row, name), str) for row in rows.values() for name in ("id", "question", "answer"))
    assert "nan" not in {row.kind.lower() for row in rows.values()} or cell == "nan"
