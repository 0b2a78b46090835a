"""Requests of lmms-eval -> answers of a reduced model, by the same code as in `thinsight.evaluate`."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from PIL import Image
from tqdm import tqdm

from thinsight.config.schema import TaskConfig
from thinsight.errors import UserError
from thinsight.evaluation.answer import answer, check_reduced
from thinsight.evaluation.journal import Journal, run_key
from thinsight.lmms.requests import Request, batches, by_pictures, cut
from thinsight.models.memory import free_memory, is_out_of_memory
from thinsight.reduction.method import Method
from thinsight.tasks.rows import ALL, Row, chat_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Read = list[tuple[Request, list[Image.Image]]]
"""A batch with its pictures."""


@dataclass
class Answerer:
    """A model under a method that answers requests; ``batch_size`` at a time, less where that does not fit in memory.

    identity  names what the answers depend on besides requests and budgets, for the journal of an unfinished run
    folder    where the journal is kept; None: nowhere
    point     the number of the budget, of several
    records   task -> id of a row -> what `evaluation.answer.answer` says of it, and ``digest``, that of the request
    asked     task -> its requests, in their order
    prompts   task -> the exact text of its first prompt
    """

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    method: Method
    batch_size: int = 1
    identity: str = ""
    folder: Path | None = None
    point: int = 0
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    asked: dict[str, list[Request]] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    journal: Journal | None = None

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[str]:
        """The answers in the order of the requests, each up to its first stop string."""
        once = {(request.task, request.id): request for request in requests}  # a task may ask again and again
        todo = list(batches(list(once.values()), self.batch_size, self._length))
        self._open(once.values())
        self.asked = {}
        for request in once.values():
            self.asked.setdefault(request.task, []).append(request)
        for task, some in self.asked.items():
            self.prompts[task] = self._prompt(some[0], some[0].pictures())
        with ThreadPoolExecutor(1) as pool, tqdm(total=len(todo), disable=not progress, unit="batch") as bar:
            coming = [pool.submit(_read, batch) for batch in todo[:1]]
            for number, batch in enumerate(todo):
                read = coming.pop().result()
                coming += [pool.submit(_read, later) for later in todo[number + 1 : number + 2]]  # meanwhile
                for record in self._known(batch[0].task, read):
                    self.records.setdefault(batch[0].task, {})[record["id"]] = record
                bar.update()
        return [self.records[request.task][request.id]["prediction"] for request in requests]

    def turn_to(self, point: int, method: Method) -> None:
        """Answer under another budget from now on."""
        self.point, self.method, self.records = point, method, {}

    def finish(self) -> None:
        """All budgets are answered and written: delete the journal."""
        if self.journal is not None:
            self.journal.remove()

    def close(self) -> None:
        """Let go of the journal and leave it for the next time."""
        if self.journal is not None:
            self.journal.close()

    def _open(self, requests: Iterable[Request]) -> None:
        """The journal of these requests, if one is kept: the same command goes on from it."""
        if self.folder is None or self.journal is not None:
            return
        asked = [(r.task, r.id, r.text, r.max_new_tokens, r.stops) for r in requests]
        key = run_key(run=self.identity, requests=asked)
        self.journal = Journal(self.folder / f"{key}.jsonl", key)

    def _known(self, task: str, read: Read) -> list[dict[str, Any]]:
        """The records of a batch, from the journal if it holds them for these very pictures."""
        digests = {request.id: request.digest(pictures) for request, pictures in read}
        key = task, self.point
        written = self.journal.records.get(key, {}) if self.journal is not None else {}
        known = [written[name] for name in digests if name in written]
        if {record["id"]: record["digest"] for record in known} == digests:
            return known
        records = [record for part in by_pictures(read) for record in self._answer(part)]
        for record in records:
            record["digest"] = digests[record["id"]]
        shown = [record for record in records if record["picture"]]
        if shown and task not in self.records:  # before hours are spent on it
            check_reduced(self.method, shown)
        if self.journal is not None:
            self.journal.add(key, records)
        return records

    def _answer(self, read: Read) -> list[dict[str, Any]]:
        """The records of some requests with the same number of pictures; in halves where memory is short."""
        try:
            return self._at_once(read)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if len(read) == 1:
            raise UserError(f"out of memory with {read[0][0].whose} alone: choose a smaller model, or a smaller dtype")
        free_memory()
        middle = len(read) // 2
        return self._answer(read[:middle]) + self._answer(read[middle:])

    def _at_once(self, read: Read) -> list[dict[str, Any]]:
        requests = [request for request, _ in read]
        inputs = chat_inputs(self.processor, [self._turn(*pair) for pair in read])
        inputs = inputs.to(self.model.device, self.model.dtype)
        task = OmegaConf.structured(TaskConfig(name=requests[0].task, max_new_tokens=requests[0].max_new_tokens))
        rows = [Row(id=request.id, picture=None, question=request.text, answer="", kind=ALL) for request in requests]
        records = answer(self.model, self.processor, self.method, inputs, rows, task)
        for request, record in zip(requests, records, strict=True):
            record["prediction"] = cut(record["prediction"], request.stops)
        return records

    def _turn(self, request: Request, pictures: list[Image.Image]) -> list[dict[str, Any]]:
        """The conversation of a request."""
        return [{"role": "user", "content": request.content(pictures, self.processor.image_token)}]

    def _prompt(self, request: Request, pictures: list[Image.Image]) -> str:
        """The exact text that a request becomes, the placeholders not yet widened to the visual tokens."""
        turn = self._turn(request, pictures)
        return self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)

    def _length(self, text: str) -> int:
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _read(batch: Sequence[Request]) -> Read:
    return [(request, request.pictures()) for request in batch]
