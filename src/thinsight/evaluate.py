"""``python -m thinsight.evaluate``: score a method on a task and print the scores, or one JSON object."""

import argparse
import json
import sys
from typing import Any

from thinsight.config.compose import load_config
from thinsight.errors import about, command


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What the command line prints: the result, and where there is one score only, that score's numbers on top."""
    cells = [cell for budgets in result["scores"].values() for cell in budgets.values()]
    if len(cells) != 1:
        return result
    (cell,) = cells
    head = {key: result[key] for key in ("model", "method")}
    top = {"score": cell["accuracy"], "interval": cell["interval"], "tokens": cell["visual_tokens"]}
    return head | top | {"flops": cell["prefill_flops"], "kv_bytes": cell["kv_bytes"]} | result


def main(arguments: list[str]) -> None:
    """``override... [--config FILE] [--out FOLDER] [--journal FILE] [--json] [--dry-run [--tflops N] [--gbps N]]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.evaluate", description=about(__doc__))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides: method=vtw limit=100")
    parser.add_argument("--config", help="a resolved config instead of the files in conf/")
    parser.add_argument("--out", help="a folder for metrics.json, predictions.parquet, ...")
    parser.add_argument("--journal", help="where to keep the journal of the unfinished run")
    parser.add_argument("--json", action="store_true", help="print the JSON object on a terminal, too")
    parser.add_argument("--dry-run", action="store_true", help="only print what it will load, need and take")
    parser.add_argument("--tflops", type=float, help="for the plan: what the device sustains")
    parser.add_argument("--gbps", type=float, help="for the plan: what it reads of its memory in a second")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.overrides, options.config)
    if options.dry_run:
        from thinsight.evaluation.dry_run import dry_run

        speeds = {"tflops": options.tflops, "gbps": options.gbps}
        answer = dry_run(config, **{name: speed for name, speed in speeds.items() if speed is not None})
    elif config.shard:
        from thinsight.evaluation.run import compute

        done, total = compute(config, options.journal, progress=True)
        answer = {"shard": config.shard, "answers": done, "of": total}
    else:
        from thinsight.evaluation.run import evaluate  # after a wrong word has been found: torch takes seconds

        result = evaluate(config, options.out, options.journal, progress=True)
        if sys.stdout.isatty() and not options.json:
            from thinsight.evaluation.score_table import plain_result, score_table

            print(score_table(result, plain_result(result)))
            return
        answer = summary(result)
    print(json.dumps(answer, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    command(main)
