"""How an answer is scored against the reference: pure functions of two strings."""

from thinsight.errors import nearest


def normalise(text: str) -> str:
    """``text`` stripped, in lower case, without one final period, inner white space as single spaces."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def exact(prediction: str, answer: str) -> bool:
    """Whether the two are equal after `normalise`."""
    return normalise(prediction) == normalise(answer)


def score(metric: str, prediction: str, answer: str) -> bool:
    """Whether ``prediction`` is right by the metric that a task names."""
    if metric != "exact":
        raise nearest("metric", metric, ["exact"])
    return exact(prediction, answer)
