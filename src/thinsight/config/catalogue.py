"""What `conf/method` says of every method: title, paper, place, needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from thinsight.config.methods import load_method, method_file, method_text, reading
from thinsight.config.schema import names
from thinsight.config.yaml_files import read_yaml
from thinsight.paths import CONF
from thinsight.reduction.method import Method
from thinsight.reduction.sites import Features, Projected, Vision

FAMILIES = ("in the vision tower", "before the decoder", "in the decoder", "at several places")
CONTROL = "control"
DEPTH = 32  # of the decoder in which it is asked where a method acts


@dataclass(frozen=True)
class MethodEntry:
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
    def short(self) -> str:
        """The title without what stands in brackets."""
        return without_brackets(self.title)

    @property
    def is_control(self) -> bool:
        """Whether it is no published method, but what one is compared with."""
        return self.family == CONTROL


def method_entry(name: str) -> MethodEntry:
    """The entry of ``conf/method/NAME.yaml``."""
    return _entry(name, method_text(name))


@lru_cache(maxsize=128)
def _entry(name: str, text: bytes) -> MethodEntry:
    """The entry of a file that holds ``text``."""
    fields = method_file(name)
    words = {key: str(fields.get(key) or "") for key in ("title", "about", "scores", "acts", "cost", "paper", "arxiv")}
    method = load_method(name)
    return MethodEntry(
        name=name,
        family=family(method) if words["paper"] else CONTROL,
        needs=tuple(fields.get("needs") or ()),
        version=str(fields.get("version") or ""),
        knobs=method.fields,
        official=fields.get("official") or {},
        deviations=tuple(fields.get("deviations") or ()),
        **words | {"title": words["title"] or name},
    )


def method_titles() -> dict[str, str]:
    """Name -> title without what stands in brackets, of every method; builds none, unlike `method_entries`."""
    return {name: without_brackets(str(method_file(name).get("title") or name)) for name in names("method")}


def without_brackets(title: str) -> str:
    """A title without what stands in brackets."""
    return title.partition(" (")[0]


def method_entries() -> list[MethodEntry]:
    """Every method, by name."""
    return [method_entry(name) for name in names("method")]


def family(method: Method) -> str:
    """Where ``method`` acts, one of `FAMILIES`; what acts before the decoder's first layer acts before the decoder."""
    places = set()
    for reduction in method.resolve(DEPTH).reductions:
        site = reduction.site
        first = isinstance(site, Features | Projected) or getattr(site, "layers", None) == (0,)
        places.add(FAMILIES[0 if isinstance(site, Vision) else 1 if first else 2])
    return places.pop() if len(places) == 1 else FAMILIES[3]


@cache
def printed_models() -> Mapping[str, tuple[str, int]]:
    """What papers call a model -> the file of ``conf/model`` with that decoder, and its visual tokens of a picture."""
    files = {}
    for name in names("model"):
        with reading(f"conf/model/{name}.yaml"):
            files[name] = read_yaml(CONF / "model" / f"{name}.yaml")
    return {title: (name, n) for name, file in files.items() for title, n in file.get("printed_as", {}).items()}
