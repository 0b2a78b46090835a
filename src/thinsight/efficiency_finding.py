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


def printed_for(title: str, one: Size, whole: pd.DataFrame) -> dict[str, Any]:
    """What `printed_whole` says; ``whole``: `thinsight.puzzle.baselines` of the model ``title``."""
    numbers = whole[whole["layers"] == one.stage.shape.layers].drop_duplicates("value")
    return {
        "model": title,
        "baselines": len(numbers),
        "lowest": numbers["value"].iloc[0],
        "highest": numbers["value"].iloc[-1],
        "rounded": int((numbers["off"] == 0).sum()),
    }


def left_by(one: Size, found: pd.DataFrame) -> dict[str, Any]:
    """What `label` says; ``found``: `thinsight.efficiency.costs`."""
    least = found["share"].min()
    own = found[(found["model"] == one.name) & (found["share"] == least) & (found["why"] == "")]
    return {
        "label": round(least * one.stage.total),
        "left": [float(own["profiler_left"].min()), float(own["profiler_left"].max())],
        "dearest": own.sort_values("profiler_left")["title"].iloc[-1].partition(" (")[0],
    }


def facts(sizes: Mapping[str, Size], found: pd.DataFrame, whole: pd.DataFrame, printed: pd.DataFrame) -> dict[str, Any]:
    """The numbers that `sentences` says. ``whole``: `thinsight.puzzle.baselines`; ``printed``: `footprints`."""
    least, shares = found["share"].min(), {}
    for title, one in sizes.items():
        own = found[(found["model"] == one.name) & (found["share"] == least) & (found["method"] == "random")]
        shares[title] = (cost(one, one.whole)["vision_share"], float(own["vision_share"].iloc[0]))
    title, first = next(iter(sizes.items()))
    weights, printed = sum(first.weights.values()), printed[printed["cache"] != ""]
    return {
        **printed_for(title, first, whole),
        **left_by(first, found),
        "vision_share": shares,
        "weights_share": weights / cost(first, first.whole)["peak"],
        "memory": {
            "printed": len(printed),
            "moved": int(printed["meets"].sum()),
            "held": sum(meets(value, held) for value, held in zip(printed["printed"], printed["held"], strict=True)),
        },
    }


def printed_whole(said: Mapping[str, Any]) -> str:
    """How many of the numbers printed for the whole model come out."""
    return (
        f"The whole {said['model']} is printed as {said['lowest']} T to {said['highest']} T; "
        f"{said['rounded']} of the {said['baselines']} numbers come out to their last digit in one of "
        f"{len(CONVENTIONS)} ways of counting."
    )


def label(said: Mapping[str, Any]) -> str:
    """What the smallest label leaves."""
    low, high = said["left"]
    return (
        f"**A label of {said['label']} tokens leaves {low:.0%} to {high:.0%} of the decoder's FLOPs** "
        f"({said['dearest']} the most), depending on where a method cuts."
    )


def sentences(said: Mapping[str, Any]) -> str:
    """``facts`` in words, in paragraphs."""
    most = max(said["vision_share"], key=lambda title: said["vision_share"][title][1])
    before, after = said["vision_share"][most]
    memory = said["memory"]
    told = [
        f"{printed_whole(said)} {label(said)}",
        f"Weights are {said['weights_share']:.0%} of the memory at one prompt, so no reduction saves much of it there. "
        f"On {most} the vision tower grows from {before:.0%} to {after:.0%} of a prefill.",
    ]
    if memory["printed"]:
        told.append(
            f"Of the {memory['printed']} gigabytes that a calculator gave in print, {memory['moved']} come out as "
            f"bytes read and written, and {memory['held'] or 'none'} as bytes held at once."
        )
    return "\n\n".join([*told, "Times are not run: no GPU here."])
