"""The methods of ``conf/method``, as their files describe them: what stands in README.md and on the methods' page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf

from thinsight.config import load_config, load_method, names
from thinsight.reduction import Method
from thinsight.site import Features, Projected, Vision

TEMPLATES = Path(__file__).parent / "templates"
FAMILIES = ("in the vision tower", "before the decoder", "in the decoder", "at several places")
CONTROL = "control"
DEPTH = 32  # of the decoder in which it is asked where a method acts


@dataclass(frozen=True)
class Entry:
    """One method: the words of its file, ``knobs`` it can be given, and the ``family`` of its places in the model.

    ``official``: field -> (its value in the released code, where that is said). A control has no ``paper``.
    """

    name: str
    title: str
    family: str
    about: str
    scores: str
    acts: str
    needs: tuple[str, ...]
    cost: str
    paper: str
    arxiv: str
    version: str
    knobs: Mapping[str, Any]
    official: Mapping[str, Sequence[Any]]
    deviations: tuple[str, ...]

    @property
    def link(self) -> str:
        """Where the paper is; empty if it has no arXiv number."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    @property
    def is_control(self) -> bool:
        """Whether it is no published method, but what one is compared with."""
        return self.family == CONTROL


def entry(name: str) -> Entry:
    """The entry of ``conf/method/NAME.yaml``."""
    node = load_config([f"method={name}"]).method
    said = OmegaConf.to_container(node, resolve=False)
    words = {key: str(said.get(key) or "") for key in ("title", "about", "scores", "acts", "cost", "paper", "arxiv")}
    method = load_method(node)
    return Entry(
        name=name,
        family=family(method) if words["paper"] else CONTROL,
        needs=tuple(said.get("needs") or ()),
        version=str(said.get("version") or ""),
        knobs=method.fields,
        official=said.get("official") or {},
        deviations=tuple(said.get("deviations") or ()),
        **words | {"title": words["title"] or name},
    )


def catalogue() -> list[Entry]:
    """Every method, by name."""
    return [entry(name) for name in names("method")]


def family(method: Method) -> str:
    """Where ``method`` acts, one of `FAMILIES`; what acts before the decoder's first layer acts before the decoder."""
    found = set()
    for reduction in method.resolve(DEPTH).reductions:
        site = reduction.site
        first = isinstance(site, Features | Projected) or getattr(site, "layers", None) == (0,)
        found.add(FAMILIES[0 if isinstance(site, Vision) else 1 if first else 2])
    return found.pop() if len(found) == 1 else FAMILIES[3]


def overview(entries: Sequence[Entry]) -> str:
    """The catalogue as a table in HTML, family by family."""
    order = [*FAMILIES, CONTROL]
    return render("catalogue.html.j2", entries=entries, order=order)


def particulars(entries: Sequence[Entry]) -> str:
    """As HTML, for each method what opens on a click: its source, fields, official values, and deviations."""
    return render("particulars.html.j2", entries=entries)


def render(template: str, **values: Any) -> str:
    """A file of ``templates/``, filled."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["literal"] = _literal
    return environment.get_template(template).render(**values)


def _literal(value: Any) -> str:
    """A field's value as its file has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
