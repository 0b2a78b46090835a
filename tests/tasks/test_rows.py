"""Rows from parquet and from easy-vqa, the prompt they become, and what is wrong with bad data in one sentence."""

import pandas as pd
import pytest
import torch
from helpers import tiny_checkpoint as tiny
from omegaconf import OmegaConf

from thinsight.config.compose import load_config, load_task
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
