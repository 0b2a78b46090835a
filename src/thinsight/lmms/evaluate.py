"""lmms-eval's tasks for every budget of one config, landed as a run of ours."""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from omegaconf import DictConfig, OmegaConf
from tenacity import RetryError

from thinsight.costs.flops import decoder_shape
from thinsight.errors import UserError
from thinsight.evaluation.outputs import write_run
from thinsight.evaluation.protocol import protocol_card, weights_hash
from thinsight.evaluation.run import JOURNALS, output_folder, run_identity
from thinsight.evaluation.sweep import sweep_points
from thinsight.lmms.answers import Answerer
from thinsight.lmms.model import Thinsight
from thinsight.lmms.results import cell, lmms_card, metric_names, scored, task_card
from thinsight.models.checkpoint import first_line
from thinsight.models.loading import load_model

CODE = OmegaConf.create({"_target_": "thinsight.lmms.answers"})
"""What answers depend on besides the code of a run."""


def evaluate(
    config: DictConfig, tasks: Sequence[str], out: Path | str | None = None, include: Sequence[str] = ()
) -> dict[str, Any]:
    """Run lmms-eval's ``tasks`` (names or groups) and return the result, as `thinsight.evaluation.run.evaluate` does.

    ``out``: a folder for the files of the run; ``include``: folders with more tasks of lmms-eval's kind. ``limit`` of
    ``config`` takes the first rows, as lmms-eval's does. The same command goes on from the journal of a killed one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("this command runs in one process: start lmms-eval itself for several (docs/lmms-eval.md)")
    out, started = output_folder(out), time.perf_counter()
    points, manager = sweep_points(config), TaskManager("ERROR", include_path=list(include) or None)
    tasks = _known(tasks, manager)
    torch.manual_seed(config.seed)
    model, processor = load_model(config)
    reads_tower = any("text_tower" in point.method.needs for point in points)
    card = protocol_card(model, processor, config, {}, weights_hash(config.model), reads_tower)
    answerer = Answerer(model, processor, points[0].method, config.batch_size, folder=JOURNALS)
    wrapped = Thinsight(answerer)
    answerer.identity = run_identity(config, lmms_card(card, {}), [CODE])
    records: dict[str, dict[str, list]] = {}
    scores: dict[str, dict[str, dict]] = {}
    cards: dict[str, dict] = {}
    try:
        for number, point in enumerate(points):
            answerer.turn_to(number, point.method)
            found, budget = _simple_evaluate(wrapped, tasks, manager, config), str(point.budget)
            for name, samples in found["samples"].items():
                metrics = metric_names(found["results"][name], samples)
                rows = scored(answerer.records[name], samples, metrics)
                records.setdefault(name, {})[budget] = rows
                scores.setdefault(name, {})[budget] = cell(
                    rows, decoder_shape(model), model.dtype.itemsize, found["results"][name]
                )
                cards[name] = task_card(
                    answerer.asked[name],
                    answerer.records[name],
                    answerer.prompts[name],
                    found["configs"][name],
                    wrapped.task_dict[name],
                )
        result = {"model": config.model.name, "method": config.method.name, "scores": scores}
        result["protocol"] = lmms_card(card, cards)
        if out is not None:
            timing = {"seconds": time.perf_counter() - started}
            write_run(out, config, points, records, result, timing)
        answerer.finish()
    except BaseException:
        answerer.close()
        raise
    return result


def _known(tasks: Sequence[str], manager: TaskManager) -> list[str]:
    """The tasks of these names or patterns, of which each has to name one."""
    for name in tasks:
        if not manager.match_tasks([name]):
            close = get_close_matches(name, manager.all_tasks)
            hint = f"did you mean {' or '.join(close)}?" if close else "`python -m lmms_eval tasks list` lists them."
            raise UserError(f"unknown task of lmms-eval '{name}': {hint}")
    return manager.match_tasks(list(tasks))


def _simple_evaluate(
    model: Thinsight, tasks: Sequence[str], manager: TaskManager, config: DictConfig
) -> dict[str, Any]:
    """lmms-eval's own results; what it prints goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = simple_evaluate(
                model=model,
                tasks=list(tasks),
                task_manager=manager,
                batch_size=config.batch_size,
                limit=config.limit,
                random_seed=config.seed,
                log_samples=True,
                bootstrap_iters=0,
            )
    except RetryError as error:  # it tries to load data, and to score an answer, five times
        cause = error.last_attempt.exception()
        raise UserError(f"lmms-eval gave up on {', '.join(tasks)}: {first_line(cause)}") from error
    except ImportError as error:
        raise UserError(f"{', '.join(tasks)} of lmms-eval needs more packages ({error}): install them") from error
    return found
