"""Overrides that are refused."""

from collections.abc import Sequence

import pytest

from thinsight.config.compose import load_config
from thinsight.errors import UserError


def refused(overrides: Sequence[str], sentence: str) -> None:
    """The overrides are refused in one line that holds ``sentence``."""
    with pytest.raises(UserError) as caught:
        load_config(overrides)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
