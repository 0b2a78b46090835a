"""``python -m thinsight.lmms``: score a method on tasks of lmms-eval and print the scores, or one JSON object."""

import argparse
import json
import sys
from typing import Any

from thinsight.config.compose import load_config, parse
from thinsight.errors import UserError, about, command
from thinsight.lmms import check_installed


def main(arguments: list[str]) -> None:
    """``tasks=NAME|[NAME,...] override... [--include FOLDER] [--out FOLDER] [--json]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.lmms", description=about(__doc__))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="tasks=[pope,gqa] model=pocket method=vtw")
    parser.add_argument("--include", action="append", default=[], help="a folder with more tasks of lmms-eval's kind")
    parser.add_argument("--out", help="a folder for metrics.json, predictions.parquet, ...")
    parser.add_argument("--json", action="store_true", help="print the JSON object on a terminal, too")
    options = parser.parse_intermixed_args(arguments)
    tasks, overrides = split_tasks(options.overrides)
    config = load_config(overrides)
    check_installed()
    from thinsight.lmms.evaluate import evaluate  # it imports lmms-eval

    result = evaluate(config, tasks, options.out, options.include)
    if sys.stdout.isatty() and not options.json:
        from thinsight.evaluation.score_table import score_table

        print(score_table(result, None))
        return
    print(json.dumps(result, indent=1, ensure_ascii=False))


def split_tasks(overrides: list[str]) -> tuple[list[str], list[str]]:
    """The names of lmms-eval's tasks in ``tasks=NAME`` or ``tasks=[NAME,...]``, and the other overrides."""
    tasks: list[str] = []
    others = []
    for text in overrides:
        key = text.partition("=")[0]
        if key == "tasks":
            value: Any = parse([text])[0].value()
            tasks += [str(name) for name in (value if isinstance(value, list) else [value])]
        elif key == "task" or key.startswith("task."):
            raise UserError(f"{text} is about Thinsight's own tasks: name those of lmms-eval by tasks=[pope,gqa]")
        else:
            others.append(text)
    if not tasks:
        raise UserError("name tasks of lmms-eval: tasks=pope, or tasks=[pope,gqa]")
    return tasks, others


if __name__ == "__main__":
    command(main)
