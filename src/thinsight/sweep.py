"""``python -m thinsight.sweep``: many runs by Hydra's own sweepers and launchers, each a ``thinsight evaluate``.

``-m method=fastv,vtw method.layer=2,4 hydra/launcher=joblib`` makes a job of every combination. A job evaluates its own
words, as `thinsight.config.compose` reads them, so it has the same key, journal and result as the same command by hand.
Its folder holds the files of a run beside Hydra's ``.hydra``; the scores of all jobs are one table, ``scores.csv``.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
import pandas as pd
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thinsight.analysis.runs import read_json
from thinsight.config.compose import load_config, mark_open, quoted
from thinsight.config.schema import Config
from thinsight.errors import UserError, about, command
from thinsight.paths import CONF, save_whole

RESULT, SCORES, WRONG = "metrics.json", "scores.csv", "error.txt"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(_: DictConfig) -> None:
    """Evaluate this job's words into its folder. What is wrong with them is left there as a sentence, and the other
    jobs go on; a launcher keeps what a job prints in a place of its own."""
    from thinsight.evaluation.run import evaluate  # after a wrong word has been found: torch takes seconds

    words, folder = list(HydraConfig.get().overrides.task), Path(HydraConfig.get().runtime.output_dir)
    for left in (RESULT, WRONG):  # of another sweep into the same folder
        (folder / left).unlink(missing_ok=True)
    try:
        evaluate(load_config(words), folder)
    except UserError as error:
        save_whole(folder / WRONG, str(error))


def main(arguments: list[str]) -> None:
    """``[-m] override...``; without ``-m`` one job."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.sweep", description=about(__doc__))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for evaluate; and hydra/launcher=joblib")
    parser.add_argument("-m", "--multirun", action="store_true", help="a job of each combination: method=fastv,vtw")
    options = parser.parse_intermixed_args(arguments)
    hydras = [text for text in options.overrides if text.lstrip("+~").startswith(("hydra.", "hydra/"))]
    own = [text for text in options.overrides if text not in hydras]
    with schema_stored():
        settings = hydra_settings(hydras)
        if "slurm" in settings.launcher._target_.lower() and shutil.which("srun") is None:
            raise UserError("no srun here, so this is no SLURM cluster: take hydra/launcher=submitit_local")
        several = options.multirun or settings.mode == RunMode.MULTIRUN
        for words in combinations(own) if several else [own]:
            if load_config(words).shard:
                raise UserError("a job is a whole run: leave shard= out; `thinsight cluster` hands shards out.")
        folder = Path(settings.sweep.dir if several else settings.run.dir).absolute()
        place = f"hydra.{'sweep' if several else 'run'}.dir='" + str(folder).replace("'", "\\'") + "'"
        call_hydra(["--multirun"] * several + [*map(mark_open, own), *hydras, place])
    table, missing = read_scores(folder)
    if len(table):
        save_whole(folder / SCORES, lambda path: table.to_csv(path, index=False))
        print(table.to_string(index=False))
    if missing:
        raise UserError(f"jobs without a result in {folder}: {'; '.join(missing)}")


def hydra_settings(overrides: Sequence[str]) -> DictConfig:
    """Hydra's own node with these words of it; a launcher that is not installed is a `UserError`."""
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides), return_hydra_config=True).hydra
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from error


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The words of every job. Of values that a sweeper draws (``interval(0, 1)``) there is no list: nothing is checked
    here then, and each job reads its own words when it begins."""
    parsed = []
    for text in overrides:
        try:
            parsed.append(OverridesParser.create().parse_override(mark_open(text)))
        except HydraException as error:
            raise UserError(f"cannot read the override '{text}': write it as key=value{quoted(text)}") from error
    if any(override.is_sweep_override() and not override.is_discrete_sweep() for override in parsed):
        return []
    return [words for batch in BasicSweeper.split_arguments(parsed, None) for words in batch]


def call_hydra(arguments: list[str]) -> None:
    """Run `job` on a command line of Hydra."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        job()
    finally:
        sys.argv = before


@contextmanager
def schema_stored() -> Iterator[None]:
    """The schema of ``conf/config.yaml`` in the store that Hydra reads."""
    store = ConfigStore.instance()
    before = dict(store.repo)
    store.store(name="schema", node=Config)
    try:
        yield
    finally:
        store.repo = before


def read_scores(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """One line per job, task and budget, by job: its folder, its words that not all jobs have, score and number of
    answers; and of the jobs without a result these words and why."""
    files = sorted(folder.rglob(".hydra/overrides.yaml"), key=lambda file: (len(str(file)), file))
    jobs = {file.parent.parent: list(OmegaConf.load(file)) for file in files}
    shared = set.intersection(*map(set, jobs.values())) if len(jobs) > 1 else set()
    lines, missing = [], []
    for home, words in jobs.items():
        own = " ".join(word for word in words if word not in shared)
        if not (home / RESULT).is_file():
            wrong = home / WRONG
            missing.append(f"{own}: {wrong.read_text(encoding='utf-8') if wrong.is_file() else 'it did not end.'}")
            continue
        job = {"job": str(home.relative_to(folder)), "words": own}
        for task, budgets in read_json(home / RESULT)["scores"].items():
            for budget, cell in budgets.items():
                lines.append(job | {"task": task, "budget": budget, "score": cell["accuracy"], "n": cell["n"]})
    return pd.DataFrame(lines), missing


if __name__ == "__main__":
    command(main)
