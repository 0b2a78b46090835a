"""Where the workspace and its configuration files are, and files that are written whole or not at all."""

from collections.abc import Callable
from pathlib import Path

from thinsight.errors import writing

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


def save_whole(path: Path, content: str | Callable[[Path], object]) -> None:
    """Write ``path`` under another name and rename: a reader sees the old file or the new one, never a half.

    ``content``: a text, or a function that writes to the path which it is given. A full disk is a `UserError` and
    leaves the old file as it was.
    """
    part = path.with_name(path.name + ".part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(content, str):
                part.write_text(content, encoding="utf-8")
            else:
                content(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
