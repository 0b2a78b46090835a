"""From the vision tower to the decoder: which of a prompt's visual columns are left, and what a stage may ask of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from thinsight.encoding import Seen
from thinsight.errors import UserError
from thinsight.passage import Start
from thinsight.prompt import Prompt, Sight
from thinsight.reduction import Method
from thinsight.tokens import Tokens
from thinsight.trace import Trace


def arrive(
    method: Method,
    prompt: Prompt,
    sight: Sight,
    embeds: Tensor | None,
    seen: Seen | None,
    trace: Trace,
    aids: object,
    projector: Callable | None = None,
) -> tuple[Start, Tensor | None]:
    """What the decoder starts with, and its embeddings without holes; None where they need no change.

    embeds (batch, columns, width) with NaN in the visual columns whose patches are gone.
    """
    samples = range(len(prompt.alive))
    more = [{"words": partial(_words, prompt, sight, aids, sample)} for sample in samples]
    notes: list[dict] = [{} for _ in samples]
    start = Start(more=more, notes=notes, aids=aids)
    if seen is None or not prompt.visual.any():
        return start, None
    trace.tower = seen.lengths
    numbers = _images(prompt, len(seen.tokens) or len(seen.features))
    if seen.features and numbers is not None:
        for sample in samples:
            own = [seen.features[i] for i in numbers[sample]]
            more[sample]["features"] = partial(torch.cat, own)
            more[sample]["projector"] = lambda: projector
    if numbers is not None and seen.notes:
        for sample in samples:
            notes[sample]["images"] = [seen.notes[i] for i in numbers[sample]]
    if not method.ahead:
        return start, None
    if not seen.tokens:
        raise UserError(
            f"method {method.name} acts before the projector, but its picture came encoded already: pass the pixels"
        )
    hole = embeds[..., 0].isnan().cpu() & prompt.visual
    if numbers is None:
        start.tokens = [prompt.tokens(s).take(~hole[s][prompt.tokens(s).index]) for s in samples]
    else:
        start.tokens = [in_prompt(prompt, s, [seen.tokens[i] for i in numbers[s]]) for s in samples]
        for where, images in seen.steps.items():
            trace.step(where, [in_prompt(prompt, s, [images[i] for i in numbers[s]]) for s in samples])
    start.pack = any(r.site.positions == "pack" for r in method.ahead)
    return start, embeds.masked_fill(hole.to(embeds.device)[..., None], 0.0)


def in_prompt(prompt: Prompt, sample: int, images: list[Tokens]) -> Tokens:
    """The tokens of a sample whose images have been reduced to ``images``, each in its tower's own numbering."""
    text = prompt.tokens(sample)
    text = text.take(~text.visual)
    traced = any(image.sources is not None for image in images)
    found = text.traced(prompt.alive.shape[1]) if traced else text
    for number, image in enumerate(images):
        columns = (prompt.image[sample] == number).nonzero().squeeze(1)
        patches = image.take(image.visual)
        first = int((~image.visual).sum())  # class tokens, which are never removed
        index = columns[patches.index - first]
        origin = torch.where(patches.named < first, -1, columns[(patches.named - first).clamp(min=0)])
        sources = None
        if traced:
            sources = torch.zeros(len(patches), prompt.alive.shape[1])
            own = patches.sources if image.sources is not None else torch.eye(first + len(columns))[patches.index]
            sources[:, columns] = own[:, first:]
        placed = Tokens(None, index, patches.visual, patches.size, sources, origin)
        found = found.joined(placed)
    same = found.origin is None or torch.equal(found.origin, found.index)
    return replace(found, origin=None) if same else found


def _images(prompt: Prompt, count: int) -> list[list[int]] | None:
    """Per sample: the numbers of its images among ``count`` encoded ones; None where columns and images do not match
    (tiles, packing, samples that were repeated after encoding)."""
    each = (prompt.image.amax(1) + 1).tolist()
    if count == 0 or sum(each) != count:
        return None
    sizes = {int((row == n).sum()) for row, m in zip(prompt.image, each, strict=True) for n in range(m)}
    if len(sizes) != 1:
        return None
    ends = torch.tensor(each).cumsum(0).tolist()
    return [list(range(end - m, end)) for end, m in zip(ends, each, strict=True)]


def _words(prompt: Prompt, sight: Sight, aids: object, sample: int) -> list:
    if aids is None or sight.ids is None:
        raise UserError(
            "the words of the question are needed, and this model has no tokenizer or this prompt no ids: load the "
            "model with thinsight.load_model, or take the method's substitute (rewriting=none, space=llm)"
        )
    return aids.words(sight.ids[sample].cpu(), prompt, sample)
