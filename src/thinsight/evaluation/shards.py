"""Shards of a run: several processes or machines compute its batches, each into a journal of its own.

Shard ``i/n`` (``shard=0/4`` to ``shard=3/4``) computes the batches of every task whose number leaves the rest ``i``
when divided by ``n``, into ``KEY.i-of-n.jsonl`` beside the run's own journal ``KEY.jsonl``. A shard is no part of a
run's identity, and batches keep their composition, so whoever opens the run, whole or another shard of it, reads all
of these files, and the result equals that of one process to the byte. Nothing is communicated but by these files.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thinsight.errors import UserError
from thinsight.evaluation.journal import Journal, read_records

FORM = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """The ``number``-th, from 0 on, of ``count`` shards."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that ``text`` names, ``0/4``; another text is a `UserError`."""
        found = FORM.fullmatch(text)
        if found is None or not int(found[1]) < int(found[2]):
            raise UserError(f"a shard is one of some, counted from 0: shard=0/4 to shard=3/4 are four, not '{text}'.")
        return cls(int(found[1]), int(found[2]))

    def has(self, batch: int) -> bool:
        """Whether the batch of this number, within its task, is its own."""
        return batch % self.count == self.number

    def journal(self, whole: Path) -> Path:
        """Its journal's file, where the run's own is ``whole``."""
        return whole.with_name(f"{whole.stem}.{self.number}-of-{self.count}{whole.suffix}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class ShardedJournal(Journal):
    """The journal of a run, or of one of its shards, which knows what the others hold as well.

    ``whole``: the file of the run's own; the others are read as they are now, while their processes may go on writing.
    """

    def __init__(self, whole: Path, head: str, shard: Shard | None = None) -> None:
        self.whole = whole
        super().__init__(shard.journal(whole) if shard else whole, head)
        for path in self._others():
            with suppress(FileNotFoundError):  # another process has just finished the run
                for key, records in read_records(path, head)[0].items():
                    self.records[key] = records | self.records.get(key, {})

    def _others(self) -> list[Path]:
        """The files of the run and of its shards that are there, but for this one's."""
        form = re.compile(rf"{re.escape(self.whole.stem)}(\.\d+-of-\d+)?{re.escape(self.whole.suffix)}", re.ASCII)
        found = (path for path in self.whole.parent.iterdir() if form.fullmatch(path.name))
        return sorted(path for path in found if path != self.path)

    def remove(self) -> None:
        """The run is complete: delete its file and those of its shards."""
        super().remove()
        with self._writing():
            for path in self._others():
                path.unlink(missing_ok=True)
