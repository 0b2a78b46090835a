"""Train pocket from nothing: ``python -m thinsight.pocket [WORK]``; a killed run goes on from its last checkpoint.

Three processes' worth of work in order: the vision tower and the decoder apart, their translation, everything together.
"""

import sys
from pathlib import Path

from thinsight.paths import ROOT
from thinsight.pocket.recipe import save, train_all


def main() -> None:
    work = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".thinsight" / "pocket"
    save(train_all(work), ROOT / "data" / "pocket", work)


if __name__ == "__main__":
    main()
