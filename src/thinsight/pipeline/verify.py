"""Are the results just made those in git? ``python -m thinsight.pipeline.verify [REVISION]``, HEAD without one.

Each run's ``metrics.json`` in data/runs is compared with that of the revision and gets one of three verdicts:

same       equal to the byte
flipped    some answers were scored otherwise, at most `SHARE` of them: two tokens had nearly equal scores, and the last
           digits of another CPU or number of threads decided
different  anything beyond that: other tasks, budgets or numbers of questions, other token counts or FLOPs

Answers themselves are not in git, only how many of each kind of question were right, so that the number of flipped ones
is a lower bound: one more right answer and one less cancel. Where every question is left the same number of visual
tokens, token counts and FLOPs must be equal; a method that decides the number for each question may move by `SHARE`.

Exit status: 0 if every run is the same or flipped, 1 if one is different, 2 if they cannot be compared.
"""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, isclose
from pathlib import Path
from typing import Any

from thinsight.analysis.runs import config_facts, parse_json, read_json
from thinsight.errors import UserError, command
from thinsight.paths import ROOT

SHARE = 0.01
"""Of a run's answers that may be scored otherwise, and by which an average number of tokens may move."""

SAME, FLIPPED, DIFFERENT = "same", "flipped", "different"


@dataclass(frozen=True)
class RunComparison:
    """A run's verdict, how many answers were compared, how many flipped at least, and why it is different."""

    verdict: str
    answers: int = 0
    flipped: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.verdict == SAME:
            return SAME
        changed = f"at least {self.flipped} of {self.answers} answers flipped" if self.answers else ""
        if self.answers and not self.flipped:
            changed = f"none of {self.answers} answers is scored otherwise, but some are longer or shorter"
        return changed if self.verdict == FLIPPED else "; ".join(filter(None, [DIFFERENT, self.reason, changed]))


def compare_metrics(old: str, new: str, where: tuple[str, str] = ("the old text", "the new text")) -> RunComparison:
    """Compare the texts of two ``metrics.json``; ``where`` names their files in errors."""
    if old == new:
        return RunComparison(SAME)
    before, after = parse_json(old, where[0]), parse_json(new, where[1])
    cells, others = _cells(before), _cells(after)
    if cells.keys() != others.keys() or any(before[key] != after[key] for key in ("model", "method")):
        return RunComparison(DIFFERENT, reason="another model or method, or other tasks or budgets")
    answers = sum(cell["n"] for cell in cells.values())
    flipped = sum(_flipped(cell, others[key]) for key, cell in cells.items())
    for key, cell in cells.items():
        if reason := _cost_change(cell, others[key]):
            return RunComparison(DIFFERENT, answers, flipped, f"{reason} ({', '.join(key)})")
    verdict = FLIPPED if flipped <= SHARE * answers else DIFFERENT
    return RunComparison(verdict, answers, flipped)


def _cells(metrics: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """(task, budget) -> its scores and costs."""
    return {(task, budget): cell for task, cells in metrics["scores"].items() for budget, cell in cells.items()}


def _flipped(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
    """At least so many answers are scored otherwise, kind of question by kind of question."""
    kinds = old["kinds"].keys() | new["kinds"].keys()
    rights = [{kind: part["n"] * part["accuracy"] for kind, part in cell["kinds"].items()} for cell in (old, new)]
    change = sum(abs(rights[0].get(kind, 0) - rights[1].get(kind, 0)) for kind in kinds)
    return ceil(round(max(change, abs(old["correct"] - new["correct"])), 6))


def _cost_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs in questions, tokens or FLOPs beyond what a flip explains; empty if nothing does."""
    if old["n"] != new["n"] or old["picture_tokens"] != new["picture_tokens"]:
        return "other questions"
    fixed = all(float(tokens).is_integer() for tokens in old["visual_tokens"])
    near = 0.0 if fixed else SHARE
    tokens = zip(old["visual_tokens"], new["visual_tokens"], strict=True)
    if not all(isclose(before, after, rel_tol=near) for before, after in tokens):
        return "other numbers of visual tokens"
    flops, others = old["prefill_flops"], new["prefill_flops"]
    if flops.keys() != others.keys() or not all(isclose(flops[key], others[key], rel_tol=near) for key in flops):
        return "other FLOPs"
    return ""


def verify(runs: Path, revision: str = "HEAD") -> dict[str, RunComparison]:
    """Run -> its comparison, for each finished run in the folder ``runs`` that the revision of its git has too."""
    compared, commit = {}, _commit(revision)
    for file in sorted(runs.glob("*/metrics.json")):
        if (old := _committed(file, commit)) is not None:
            where = f"{revision}:{_path(file)}", str(file)
            try:
                compared[file.parent.name] = compare_metrics(old, file.read_text("utf-8", "replace"), where)
            except (KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{' or '.join(where)} does not hold what a run writes ({error!r})") from error
    return compared


def _path(file: Path) -> str:
    """Where ``file`` lies in the tree; data/runs may be a link to a folder outside it."""
    return file.relative_to(ROOT).as_posix()


def _commit(revision: str) -> str:
    """The hash of the revision's commit."""
    if commit := _git("rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}"):
        return commit.strip()
    raise UserError(f"git has no revision {revision}")


def _committed(file: Path, commit: str) -> str | None:
    """The text of ``file`` in the commit; None if it is not in it."""
    found = _git("ls-tree", "--name-only", commit, _path(file))
    return _git("show", f"{commit}:./{_path(file)}") if found else None


def _git(*words: str) -> str:
    """What git says in the tree, nothing where it fails without a word; its reason, where it gives one, is an error."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
    except OSError as error:
        raise UserError(f"git cannot be run ({error.strerror})") from error
    if done.returncode and (reason := done.stderr.decode("utf-8", errors="replace").strip()):
        raise UserError(f"git cannot read what is committed: {reason.splitlines()[0].removeprefix('fatal: ')}")
    return done.stdout.decode("utf-8", errors="replace")


def _hardware(cards: Iterator[Mapping[str, Any]]) -> str:
    """What the protocol cards say that runs were computed on."""
    parts = [card.get("hardware") for card in cards]
    texts = {", ".join(f"{key} {value}" for key, value in config_facts(part)) for part in parts if part}
    return " | ".join(sorted(texts)) or "not recorded"


def main(arguments: list[str]) -> None:
    """``[REVISION]``."""
    if len(arguments) > 1:
        raise UserError("usage: python -m thinsight.pipeline.verify [REVISION]")
    runs, revision = ROOT / "data" / "runs", (arguments or ["HEAD"])[0]
    compared = verify(runs, revision)
    if not compared:
        raise UserError(f"nothing to compare: no run of data/runs has results both here and in {revision}")
    cards, commit = [runs / run / "protocol.json" for run in compared], _commit(revision)
    old = [(text, f"{revision}:{_path(card)}") for card in cards if (text := _committed(card, commit)) is not None]
    hardware = _hardware(read_json(card) for card in cards if card.is_file()), _hardware(parse_json(*it) for it in old)
    print("hardware here:   ", hardware[0])
    print("hardware in git: ", hardware[1])
    width = max(map(len, compared))
    for run, comparison in compared.items():
        print(f"{run:<{width}}  {comparison}")
    counts = {verdict: sum(c.verdict == verdict for c in compared.values()) for verdict in (SAME, FLIPPED, DIFFERENT)}
    print(f"{len(compared)} runs: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    raise SystemExit(1 if counts[DIFFERENT] else 0)


if __name__ == "__main__":
    command(main)
