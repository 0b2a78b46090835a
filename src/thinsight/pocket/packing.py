"""Many questions about one picture in one sequence: each sees the prompt's head and the picture, none sees another."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from thinsight.pocket.architecture import GRID
from thinsight.pocket.questions import Question
from thinsight.pocket.vocabulary import SYSTEM

IGNORE = -100


@dataclass(frozen=True)
class Packed:
    """All (batch, length): word ids, position ids, segment (0 = shared head, -1 = padding), labels, label weights."""

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def mask(self, visual: int, head: int) -> torch.Tensor:
        """(batch, 1, head + visual + length, same) bool: causal, and every question apart from the others."""
        batch = len(self.ids)
        shared = torch.zeros(batch, head + visual, dtype=torch.long)
        segment = torch.cat([shared, self.segments], 1)
        same = (segment[:, None] == segment[..., None]) | (segment[:, None] == 0)
        causal = torch.ones(segment.shape[1], segment.shape[1], dtype=torch.bool).tril()
        return (same & causal)[:, None]


class Packer:
    """Turns questions into sequences; words are looked up once and kept."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer, self.known = tokenizer, {}
        self.eos, self.pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        head = tokenizer(tokenizer.bos_token + SYSTEM + " USER: <image>", add_special_tokens=False)["input_ids"]
        self.head = torch.tensor(head[:-1])
        self.start = len(self.head) + GRID * GRID  # position of the first word after the picture

    def words(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.known[text]

    def __call__(self, batch: list[list[Question]], question_weight: float, multiple: int = 16) -> Packed:
        rows = [self._row(questions, question_weight) for questions in batch]
        longest = max(len(row[0]) for row in rows)
        longest += -longest % multiple
        fill = (self.pad, 0, -1, IGNORE, 0.0)
        columns = [
            torch.tensor([row[i] + [fill[i]] * (longest - len(row[i])) for row in rows]) for i in range(len(fill))
        ]
        return Packed(*columns)

    def _row(self, questions: list[Question], question_weight: float) -> tuple[list, ...]:
        ids, positions, segments, labels, weights = [], [], [], [], []
        for i, question in enumerate(questions, start=1):
            asked = self.words(f"\n{question.text} ASSISTANT:")
            answer = [*self.words(" " + question.answer), self.eos]
            ids += asked + answer
            positions += range(self.start, self.start + len(asked) + len(answer))
            segments += [i] * (len(asked) + len(answer))
            # the label of a word is the next one; a question's last word is followed by the answer's first
            following = [*asked[1:], *answer, IGNORE]
            labels += following
            weights += [question_weight] * (len(asked) - 1) + [1.0] * len(answer) + [0.0]
        return ids, positions, segments, labels, weights
