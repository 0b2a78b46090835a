"""What a run has computed so far, on disk after every batch, so that a killed run resumes, with batches of any size."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from thinsight.errors import UserError, writing

Key = tuple[str, int]
"""A task, and the number of a budget."""


BEGINNING = b'{"run":'
"""Of every journal."""


class Journal:
    """A JSON-lines file: a head that names the run, then one line per finished batch, each on disk when `add` returns.

    A last line that a kill tore is dropped. A file with another head (other config, code, data or weights) is not read
    but begun anew. One process at a time may hold it. A full disk is a `UserError`; what was there before stays.
    ``records``: task and number of a budget -> id of a row -> its record.
    """

    def __init__(self, path: Path, head: str) -> None:
        self.path, self.head = path, head
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)  # nothing is held back that closing would write once more
        self._lock()
        try:
            self._check_own()
            with self._writing():
                self.records, self._end = read_records(path, head)
                self._file.truncate(self._end)
            if not self._end:
                self._write({"run": head})
        except UserError:
            self.close()
            raise

    def add(self, key: Key, records: list[dict]) -> None:
        """Note the records of a finished batch, each with the ``id`` of its row."""
        self._write({"key": key, "records": records})
        self.records.setdefault(key, {}).update((record["id"], record) for record in records)

    def __len__(self) -> int:
        """Records of all budgets."""
        return sum(map(len, self.records.values()))

    def lacks(self, key: Key, ids: Iterable[str]) -> bool:
        """Whether any of the rows ``ids`` has no record."""
        return not self.records.get(key, {}).keys() >= set(ids)

    def close(self) -> None:
        """Let go of the file and leave it for the next time."""
        self._file.close()

    def remove(self) -> None:
        """The run is complete: delete the file."""
        self.close()
        with self._writing():
            self.path.unlink(missing_ok=True)

    def _check_own(self) -> None:
        """Refuse a file that is no journal: it would be begun anew."""
        with self._writing(), self.path.open("rb") as file:
            first = file.read(len(BEGINNING))
        if first and not BEGINNING.startswith(first):  # what a kill tore is a journal still
            raise UserError(f"{self.path} is there already and is no journal: name another file")

    def _write(self, entry: Mapping[str, Any]) -> None:
        rest = memoryview(json.dumps(entry).encode() + b"\n")
        with self._writing():
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._end)  # half a line is none
                raise
        self._end = self._file.tell()

    def _writing(self) -> AbstractContextManager[None]:
        return writing(f"the journal {self.path}")

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UserError(f"the same evaluation is running in another process (it holds {self.path}).") from error
        except OSError as error:
            self._file.close()
            raise UserError(
                f"the journal {self.path} cannot be locked ({error.strerror}), so two processes might write it: name "
                "one on a file system with locks, --journal FILE"
            ) from error


def read_records(path: Path, head: str) -> tuple[dict[Key, dict[str, dict]], int]:
    """What the file of a journal holds of the run ``head``: task and budget -> id of a row -> its record; and how many
    of the file's bytes are whole lines of that run."""
    records: dict[Key, dict[str, dict]] = {}
    whole = 0
    for line, end in _lines(path):
        try:
            entry = json.loads(line)
            if whole == 0:
                if entry["run"] != head:
                    break
            else:
                task, budget = entry["key"]
                records.setdefault((task, budget), {}).update((record["id"], record) for record in entry["records"])
        except (ValueError, KeyError, TypeError):
            break
        whole = end
    return records, whole


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Each complete line of a file with the offset of its end."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            if line.endswith(b"\n"):
                yield line, end


def run_key(**parts: Any) -> str:
    """A short name for everything that the results depend on; any change in ``parts`` changes it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
