"""``python -m thinsight.replicate``: a model's rows of the papers' tables, behind a check of its baseline."""

import argparse

from thinsight.config.schema import names
from thinsight.errors import UserError, about, command, nearest


def main(arguments: list[str]) -> None:
    """``model=NAME override... [--no-gate] [--dry-run] [--tflops N]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.replicate", description=about(__doc__))
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="key=value",
        help="model=llava_1_5_7b; limit=500, batch_size=8 and others for every run; tasks=pope,gqa and runs=plain,vtw: "
        "these only",
    )
    parser.add_argument("--no-gate", action="store_true", help="go on although the baseline is off")
    parser.add_argument("--dry-run", action="store_true", help="only print what it will load, need and take")
    parser.add_argument("--tflops", type=float, help="for the plan: what the device sustains")
    options = parser.parse_intermixed_args(arguments)
    words = [word for word in options.overrides if not word.startswith("model=")]
    models = [word.removeprefix("model=") for word in options.overrides if word.startswith("model=")]
    if len(models) != 1:
        raise UserError("name one model, a file in conf/model: thinsight replicate model=llava_1_5_7b")
    if models[0] not in names("model"):
        raise nearest("model", models[0], names("model"))
    from thinsight.pipeline.repro import job_count

    jobs = job_count()  # it says how many threads torch starts with
    from thinsight.evaluation.dry_run import TFLOPS  # after a wrong word has been found: torch takes seconds
    from thinsight.paths import ROOT
    from thinsight.pipeline import replication

    home, reports = (ROOT / folder / "replicate" / models[0] for folder in ("data", "reports"))
    params = replication.replication_params(models[0], words)
    configs = replication.plan_runs(params, home)
    for line in replication.estimate(configs, options.tflops or TFLOPS):
        print(line, flush=True)
    if options.dry_run:
        return
    replication.replicate(configs, params.pages, home, reports, gate=not options.no_gate, jobs=jobs)
    print(f"all is made: {reports / 'index.html'}" if params.pages else f"all is made: {home / 'runs'}")


if __name__ == "__main__":
    command(main)
