"""VTW's criterion: mean KL divergence of the output at each candidate layer, from one pass.

P is the distribution over the vocabulary after the last prompt token of the plain model, Q_k that of the model whose
visual tokens leave before layer k. The chosen layer is the smallest k with mean divergence at or below a threshold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax
from torch.utils.hooks import RemovableHandle

from thinsight.errors import UserError, nearest
from thinsight.models.architecture import ModelParts
from thinsight.models.families import find_parts
from thinsight.reduction.method import Method
from thinsight.reduction.sites import POSITIONS
from thinsight.runtime.attach import Attachment, attached
from thinsight.runtime.decoder_inputs import cut_arguments
from thinsight.runtime.hooks import pre_hook
from thinsight.runtime.layout import Layout, take_rows


class SharedPrefix:
    """What a plain pass leaves: the text rows that enter each candidate layer, and the layers' other arguments."""

    def __init__(self, parts: ModelParts, attachment: Attachment, layers: list[int], pack: bool) -> None:
        self.parts, self.attachment, self.layers, self.pack = parts, attachment, layers, pack
        self.states: dict[int, Tensor] = {}  # layer -> (batch, held, width)
        self.final: Tensor  # (batch, columns, width): what enters the final norm
        self.layout: Layout  # without the visual columns
        self.arguments: dict

    def hook(self) -> list[RemovableHandle]:
        """Listen at the candidates and at the final norm."""
        handles = [pre_hook(self.parts.layers[layer], partial(self._record, layer)) for layer in self.layers]
        return [*handles, self.parts.decoder.norm.register_forward_pre_hook(self._end)]

    def finish(self, layer: int) -> Tensor:
        """The text rows through the rest of the decoder, from ``layer`` on."""
        hidden = self.states.pop(layer)
        for block in self.parts.layers[layer:]:
            hidden = block(hidden, **self.arguments)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden

    @property
    def layout_before(self) -> Layout:
        """The prompt as it came."""
        return self.attachment.state.decoder.layouts.full

    def _record(self, layer: int, arguments: dict) -> None:
        hidden, full = arguments.pop("hidden_states"), self.layout_before
        if not self.states:
            prompt = self.attachment.state.decoder.state.prompt
            stay = [tokens.shown(visual=False).index for tokens in self.attachment.state.decoder.state.tokens]
            self.layout = full.narrow(stay, [self.pack and patches > 0 for patches in prompt.patches])
        text = take_rows(hidden, self.layout.rows_in(full, hidden.device))
        if not self.states:
            self.arguments = {
                **arguments,
                **cut_arguments(self.attachment.state.decoder, layer, text, arguments, self.layout, full),
            }
        self.states[layer] = text

    def _end(self, module: nn.Module, args: tuple) -> None:
        self.final = args[0]


DIRECTIONS = ("withdrawn_to_full", "full_to_withdrawn")
"""KL(Q || P), what the released code computes, and KL(P || Q), what secondary sources say of the paper."""


@dataclass(frozen=True)
class Selection:
    """What the search found; divergences are in nats.

    layer       the smallest layer at or below the first threshold that any layer meets
    layers      the same for each threshold; None where no layer meets it
    divergence  layer -> mean over samples
    per_sample  layer -> value of each sample that has an image, in the order of the batches
    """

    layer: int
    layers: dict[float, int | None]
    divergence: dict[int, float]
    per_sample: dict[int, list[float]]
    direction: str


class NoLayerError(UserError):
    """No candidate is at or below any threshold. ``divergence`` holds the whole curve, layer -> mean."""

    def __init__(self, thresholds: Sequence[float], divergence: dict[int, float]) -> None:
        curve = ", ".join(f"{layer}: {value:.3g}" for layer, value in divergence.items())
        limits = " or ".join(f"{threshold:g}" for threshold in thresholds)
        super().__init__(f"no layer has a divergence of at most {limits}; by layer it is {curve}")
        self.divergence = divergence


@torch.no_grad()
def select_layer(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    candidates: Iterable[int] | None = None,
    threshold: float | Sequence[float] = 0.003,
    direction: str = "withdrawn_to_full",
    positions: str = "keep",
) -> Selection:
    """Search the layer before which the visual tokens can leave.

    Each batch is a dict of model inputs, optionally with ``visual`` (batch, columns) bool. Samples without an image say
    nothing and are left out. Candidates default to every layer but the first. One plain pass per batch gives the inputs
    of all candidates; only text rows go on from there, so it costs far less than one pass per candidate.
    """
    limits = _thresholds(threshold)
    found = layer_divergences(model, batches, candidates=candidates, directions=[direction], positions=positions)
    return choose_layer(found[direction], limits, direction)


def choose_layer(per_sample: Mapping[int, Sequence[float]], limits: Sequence[float], direction: str) -> Selection:
    """The selection by the divergences of `layer_divergences` in one ``direction``, or of some samples of it."""
    divergence = {layer: sum(values) / len(values) for layer, values in per_sample.items()}
    chosen = {limit: next((k for k, value in divergence.items() if value <= limit), None) for limit in limits}
    layer = next((layer for layer in chosen.values() if layer is not None), None)
    if layer is None:
        raise NoLayerError(limits, divergence)
    return Selection(layer, chosen, divergence, {k: list(values) for k, values in per_sample.items()}, direction)


@torch.no_grad()
def layer_divergences(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    candidates: Iterable[int] | None = None,
    directions: Sequence[str] = DIRECTIONS,
    positions: str = "keep",
) -> dict[str, dict[int, list[float]]]:
    """What `select_layer` chooses by, in several ``directions`` from the same pass: direction -> layer -> value of each
    sample that has an image, in the order of the batches."""
    if isinstance(batches, Mapping):
        raise UserError("batches is a sequence of batches of model inputs: for a single one, [batch]")
    for direction in directions:
        if direction not in DIRECTIONS:
            raise nearest("direction", direction, DIRECTIONS)
    if positions not in POSITIONS:
        raise nearest("positions", positions, POSITIONS)
    parts = find_parts(model)
    layers = list(range(1, parts.depth)) if candidates is None else _layers(candidates, parts.depth)
    if parts.head is None:
        raise UserError(f"{type(model).__name__} has no LM head: the criterion compares next-token distributions")
    found: dict[str, dict[int, list[float]]] = {direction: {layer: [] for layer in layers} for direction in directions}
    for batch in batches:
        values = _one_batch(model, parts, batch, layers, directions, positions)
        for direction, by_layer in zip(directions, values.tolist(), strict=True):
            for layer, row in zip(layers, by_layer, strict=True):
                found[direction][layer] += row
    if not found[directions[0]][layers[0]]:
        raise UserError("no sample has an image, so there is nothing whose withdrawal could be measured")
    return found


def _thresholds(threshold: float | Sequence[float]) -> list[float]:
    """One or more limits of the mean divergence, in the order in which they are tried."""
    limits = [threshold] if isinstance(threshold, Real | str) or getattr(threshold, "ndim", 1) == 0 else threshold
    if not isinstance(limits, Iterable) or not (limits := list(limits)):
        raise UserError(f"threshold is a divergence or a list of them, not {threshold!r}")
    for limit in limits:
        if not isinstance(limit, Real) or isinstance(limit, bool) or limit != limit:  # NaN
            raise UserError(f"threshold is a divergence in nats, not {limit!r}")
    return [float(limit) for limit in limits]


def _layers(candidates: Iterable[int], depth: int) -> list[int]:
    """The layers to try, ascending."""
    layers = list(candidates) if isinstance(candidates, Iterable) else []
    whole = all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in layers)
    if not layers or not whole or not all(0 <= layer < depth for layer in layers):
        shown = layers or candidates
        raise UserError(f"candidates are layers from 0 to {depth - 1}, a list with at least one of them, not {shown!r}")
    return sorted({int(layer) for layer in layers})


def _one_batch(
    model: nn.Module,
    parts: ModelParts,
    batch: Mapping[str, Tensor],
    layers: list[int],
    directions: Sequence[str],
    positions: str,
) -> Tensor:
    """(directions, candidates, samples with an image) fp32."""
    if not isinstance(batch, Mapping):
        raise UserError(f"a batch is a dict of model inputs, not {type(batch).__name__}")
    inputs = {key: value.to(model.device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    with attached(model, Method("plain"), inputs.pop("visual", None), strict=True) as attachment:
        prefix = SharedPrefix(parts, attachment, layers, positions == "pack")
        handles = prefix.hook()
        try:
            logits = model(**inputs | {"use_cache": False, "logits_to_keep": 1, "return_dict": True}).logits[:, -1]
        finally:
            for handle in handles:
                handle.remove()
    full = _distribution(parts, prefix.final, prefix.layout_before)
    last = prefix.layout_before.alive[:, -1].to(logits.device)
    own = log_softmax(logits[last].float(), dim=-1)
    if not torch.allclose(full[last].to(own.device).exp(), own.exp(), rtol=0.05, atol=1e-4):
        raise UserError(
            f"the logits of {type(model).__name__} are not those of its LM head alone (scaled, or capped), which the "
            "criterion compares: this model is not supported here"
        )
    with_image = attachment.state.decoder.state.prompt.visual.any(1)
    rows = []
    for layer in layers:
        withdrawn = _distribution(parts, prefix.finish(layer), prefix.layout)
        pairs = [(withdrawn, full) if way == "withdrawn_to_full" else (full, withdrawn) for way in directions]
        rows.append(torch.stack([(q.exp() * (q - p)).sum(-1) for q, p in pairs]))
    return torch.stack(rows, 1).cpu()[:, :, with_image]


def _distribution(parts: ModelParts, hidden: Tensor, layout: Layout) -> Tensor:
    """(batch, vocabulary) fp32 log-probabilities after each sample's last token."""
    columns = torch.arange(layout.held, device=layout.alive.device).expand_as(layout.alive)
    last = columns.masked_fill(~layout.alive, -1).amax(1, keepdim=True)
    normed = parts.decoder.norm(take_rows(hidden, last))[:, 0]
    if isinstance(parts.head, nn.Linear) and parts.head.weight.is_floating_point():
        # in 16 bits a logit of 20 is known to 0.1 at best, which alone is a divergence of the size of a threshold
        bias = None if parts.head.bias is None else parts.head.bias.float()
        return log_softmax(linear(normed.float(), parts.head.weight.float(), bias), dim=-1)
    return log_softmax(parts.head(normed).float(), dim=-1)
