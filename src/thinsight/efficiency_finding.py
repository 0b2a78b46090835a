"""What the page on efficiency found, in sentences of markdown made of its tables' own numbers."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from thinsight.conventions import CONVENTIONS
from thinsight.efficiency import Size, cost
from thinsight.verdict import meets

UNITS = ("T", "1e9", "MB", "GB", "ms", "s", "min:s", "it/s", "images/s", "requests/s")
COLUMNS = ("FLOPs", "memory", "KV MB", "time", "latency", "speed-up", "throughput")


def efficient(published: pd.DataFrame) -> pd.DataFrame:
    """The printed numbers that are about efficiency: costs in bytes and operations, shares of them, and times."""
    named = published["column"].str.contains("|".join(COLUMNS), case=False)
    return published[published["unit"].isin(UNITS) | named]


def facts(sizes: Mapping[str, Size], found: pd.DataFrame, whole: pd.DataFrame, printed: pd.DataFrame) -> dict[str, Any]:
    """The numbers that `sentences` says. ``whole``: `thinsight.puzzle.baselines`; ``printed``: `footprints`."""
    least, shares = found["share"].min(), {}
    for title, one in sizes.items():
        own = found[(found["model"] == one.name) & (found["share"] == least) & (found["method"] == "random")]
        shares[title] = (cost(one, one.whole)["vision_share"], float(own["vision_share"].iloc[0]))
    first = next(iter(sizes.values()))
    own = found[(found["model"] == first.name) & (found["share"] == least) & (found["why"] == "")]
    numbers = whole[whole["layers"] == first.stage.shape.layers].drop_duplicates("value")
    weights, printed = sum(first.weights.values()), printed[printed["cache"] != ""]
    return {
        "model": next(iter(sizes)),
        "baselines": len(numbers),
        "lowest": numbers["value"].iloc[0],
        "highest": numbers["value"].iloc[-1],
        "rounded": int((numbers["off"] == 0).sum()),
        "label": round(least * first.stage.total),
        "left": [float(own["profiler_left"].min()), float(own["profiler_left"].max())],
        "dearest": own.sort_values("profiler_left")["title"].iloc[-1].partition(" (")[0],
        "vision_share": shares,
        "weights_share": weights / cost(first, first.whole)["peak"],
        "memory": {
            "printed": len(printed),
            "moved": int(printed["meets"].sum()),
            "held": sum(meets(value, held) for value, held in zip(printed["printed"], printed["held"], strict=True)),
        },
    }


def sentences(said: Mapping[str, Any]) -> str:
    """``facts`` in words."""
    most = max(said["vision_share"], key=lambda title: said["vision_share"][title][1])
    before, after = said["vision_share"][most]
    low, high = said["left"]
    memory = said["memory"]
    text = (
        f"The whole {said['model']} is printed as {said['lowest']} T to {said['highest']} T; "
        f"{said['rounded']} of the {said['baselines']} numbers come out to their last digit in one of "
        f"{len(CONVENTIONS)} ways of counting. **A label of {said['label']} tokens leaves {low:.0%} to {high:.0%} of "
        f"the decoder's FLOPs** ({said['dearest']} the most), depending on where a method cuts. Weights are "
        f"{said['weights_share']:.0%} of the memory at one prompt, so no reduction saves much of it there. On {most} "
        f"the vision tower grows from {before:.0%} to {after:.0%} of a prefill."
    )
    if memory["printed"]:
        text += (
            f" Of the {memory['printed']} gigabytes that a calculator gave in print, {memory['moved']} come out as "
            f"bytes read and written, and {memory['held'] or 'none'} as bytes held at once."
        )
    return text + " Times are not run: no GPU here."
