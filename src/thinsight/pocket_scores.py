"""``python -m thinsight.pocket_scores``: pocket's own scores."""

import json

from thinsight.config.compose import load_config
from thinsight.config.schema import names
from thinsight.errors import command
from thinsight.evaluation.run import evaluate
from thinsight.paths import ROOT, save_whole

OUT = ROOT / "data" / "pocket" / "scores.json"


def measure() -> dict:
    """Accuracy and interval per task, whole and blind, and the hash of the weights they belong to."""
    settings = [f"tasks=[{','.join(names('task'))}]", "limit=null", "batch_size=64"]
    results = [evaluate(load_config([f"method={name}", *settings]), progress=True) for name in ("identity", "blind")]
    record = {"weights_sha256": results[0]["protocol"]["model"]["weights_sha256"], "tasks": {}}
    for task in results[0]["scores"]:
        whole, blind = (next(iter(result["scores"][task].values())) for result in results)
        record["tasks"][task] = {"n": whole["n"]} | {
            line: {"accuracy": cell["accuracy"], "interval": cell["interval"], "kinds": cell["kinds"]}
            for line, cell in (("whole", whole), ("blind", blind))
        }
    return record


def main(arguments: list[str]) -> None:
    """No arguments: write `OUT` and print it."""
    text = json.dumps(measure(), indent=1) + "\n"
    save_whole(OUT, text)
    print(text)


if __name__ == "__main__":
    command(main)
