"""One reduction of one sample: shown what its filter chooses among, and put back among the rest."""

from thinsight.evidence import Evidence
from thinsight.reduction import Reduction
from thinsight.tokens import Tokens


def one_step(reduction: Reduction, tokens: Tokens, evidence: Evidence, columns: int) -> Tokens:
    """All tokens of a sample over ``columns`` columns, with states -> those that are left, by ascending index."""
    if reduction.merges:
        tokens = tokens.traced(columns)
    shown = tokens.visual.clone()
    if reduction.filter.among == "prompt":
        shown[:-1] = True  # the last token has to answer
    elif reduction.filter.among == "all":
        shown[:] = True
    return reduction(tokens.take(shown), evidence).joined(tokens.take(~shown))
