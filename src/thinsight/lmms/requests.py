"""What lmms-eval asks, as requests of our own: text, pictures, most tokens, stop strings."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from PIL import Image

from thinsight.errors import UserError
from thinsight.tasks.pictures import decode_picture

PLACEHOLDER = "<image>"
"""What stands for a picture in a text of lmms-eval, where its task says at which place it belongs."""

MAX_NEW_TOKENS = 1024
"""Of an answer whose task names no limit, as in lmms-eval's own LLaVA (models/simple/llava_hf.py)."""

SEPARATOR = "\n\n"
"""lmms-eval's separator of examples, which it makes the stop string of every task that names none. It is none here, as
in its own models (qwen2_5_vl.py leaves it out, llava.py all stop strings): it would end an answer at a paragraph."""

SAMPLING = {"do_sample": False, "temperature": 0, "num_beams": 1}
"""Settings of lmms-eval's tasks that would not be greedy decoding with another value; a null is the same as these."""


@dataclass(frozen=True)
class Request:
    """One question. ``id``: the number of its row in the split; ``visuals``: its pictures, read when called for;
    ``sampling``: what the task asks for besides greedy decoding, which is what it gets."""

    task: str
    id: str
    text: str
    visuals: Callable[[], Sequence[Any] | None]
    max_new_tokens: int = MAX_NEW_TOKENS
    stops: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whose(self) -> str:
        """Its name in messages."""
        return f"row {self.id} of lmms-eval's task {self.task}"

    def pictures(self) -> list[Image.Image]:
        """The pictures in RGB; what is none (a video, a sound) is a `UserError`."""
        pictures = self.visuals() or []
        for picture in pictures:
            if not isinstance(picture, Image.Image):
                what = type(picture).__name__
                raise UserError(f"{self.whose} shows a {what}: Thinsight reduces pictures, no videos or sounds")
        return [decode_picture(self.whose, picture) for picture in pictures]

    def content(self, pictures: Sequence[Image.Image], token: str) -> list[dict[str, Any]]:
        """The user's turn of the conversation: pictures where the text has a `PLACEHOLDER`, or in front of it.

        ``token``: the placeholder of the model's own processor, which may not stand in the text.
        """
        images = [{"type": "image", "image": picture} for picture in pictures]
        first, *rest = self.text.split(PLACEHOLDER) if pictures else [self.text]
        if rest and len(rest) != len(pictures):
            raise UserError(f"{self.whose} has {len(rest)} places for {len(pictures)} pictures")
        if any(token in text for text in (first, *rest)):
            raise UserError(f"the question of {self.whose} holds the placeholder {token} itself")
        if not rest:
            return [*images, {"type": "text", "text": first}]
        turn = [{"type": "text", "text": first}]
        for image, text in zip(images, rest, strict=True):
            turn += [image, {"type": "text", "text": text}]
        return [part for part in turn if part.get("text") != ""]

    def digest(self, pictures: Sequence[Image.Image]) -> str:
        """SHA-256 of all that the answer depends on."""
        told = (self.task, self.id, self.text, str(self.max_new_tokens), *self.stops, *(str(p.size) for p in pictures))
        digest = hashlib.sha256("\0".join(told).encode())
        for picture in pictures:
            digest.update(picture.tobytes())
        return digest.hexdigest()


def read_request(arguments: tuple, documents: Mapping[str, Mapping[str, Any]]) -> Request:
    """The request in ``Instance.args`` of lmms-eval: text, settings, the function that makes pictures of a row, the
    row's number, task, split. ``documents``: task -> split -> its rows."""
    text, settings, to_visual, number, task, split = arguments
    stops = settings.get("until") or ()
    return Request(
        task=task,
        id=str(number),
        text=text,
        visuals=lambda: to_visual(documents[task][split][number]),
        max_new_tokens=int(settings.get("max_new_tokens") or MAX_NEW_TOKENS),
        stops=tuple(stop for stop in ([stops] if isinstance(stops, str) else stops) if stop and stop != SEPARATOR),
        sampling={
            name: settings[name] for name, greedy in SAMPLING.items() if settings.get(name) not in (None, greedy)
        },
    )


def cut(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first of the stop strings in it.

    Greedy decoding goes on in the same way whatever comes later, so this is where it would have stopped.
    """
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends)].strip() if ends else text


def batches(requests: Sequence[Request], size: int, length: Callable[[str], int]) -> Iterator[list[Request]]:
    """``requests``, ``size`` at a time, of one task and one limit, those of a like length together.

    ``length``: tokens of a text.
    """
    kinds = {(request.task, request.max_new_tokens): None for request in requests}
    for kind in kinds:
        alike = [request for request in requests if (request.task, request.max_new_tokens) == kind]
        ordered = sorted(alike, key=lambda request: length(request.text))
        yield from (ordered[start : start + size] for start in range(0, len(ordered), size))


def by_pictures(requests: Sequence[tuple[Request, list[Image.Image]]]) -> Iterator[list]:
    """The pairs of a batch with the same number of pictures: a processor takes no batch of which some have none."""
    ordered = sorted(requests, key=lambda pair: len(pair[1]))
    yield from (list(group) for _, group in groupby(ordered, key=lambda pair: len(pair[1])))
