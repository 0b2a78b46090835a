"""Yaml files of ``conf/`` and ``data/published`` as plain data: as OmegaConf reads them, but by libyaml."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

_Rules = get_yaml_loader()  # floats as 1e-3, no dates, no key twice

if hasattr(yaml, "CSafeLoader"):
    from yaml.cyaml import CParser

    class _Loader(CParser, _Rules):
        """libyaml's parser in place of the one in Python."""

        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

else:
    _Loader = _Rules


def read_yaml(path: Path) -> Any:
    """What the file holds; interpolations stay text. Raises what yaml and reading a file raise."""
    return parse_yaml(path.read_text(encoding="utf-8"))


def parse_yaml(text: str) -> Any:
    """What a file with this text holds."""
    return yaml.load(text, _Loader)
