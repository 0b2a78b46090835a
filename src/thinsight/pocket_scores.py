"""``python -m thinsight.pocket_scores``: pocket's own scores."""

import json

from thinsight.config.compose import load_config
from thinsight.config.schema import names
from thinsight.evaluation.run import evaluate
from thinsight.paths import ROOT

OUT = ROOT / "data" / "pocket" / "scores.json"


def measure() -> dict:
    """Accuracy and interval per task, whole and blind, and the hash of the weights they belong to."""
    tasks = ",".join(names("task"))
    found = {
        line: evaluate(
            load_config([f"method={method}", f"tasks=[{tasks}]", "limit=null", "batch_size=64"]), progress=True
        )
        for line, method in (("whole", "identity"), ("blind", "blind"))
    }
    record = {"weights_sha256": found["whole"]["protocol"]["model"]["weights_sha256"], "tasks": {}}
    for task, budgets in found["whole"]["scores"].items():
        (whole,), (blind,) = budgets.values(), found["blind"]["scores"][task].values()
        record["tasks"][task] = {"n": whole["n"]} | {
            line: {"accuracy": cell["accuracy"], "interval": cell["interval"], "kinds": cell["kinds"]}
            for line, cell in (("whole", whole), ("blind", blind))
        }
    return record


if __name__ == "__main__":
    OUT.write_text(json.dumps(measure(), indent=1) + "\n")
    print(OUT.read_text())
