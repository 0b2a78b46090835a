"""Which protocol a benchmark is scored by: the names that the task's file knows."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from thinsight.errors import UserError, nearest
from thinsight.paths import CONF


def check_protocol(task: Mapping[str, Any], tasks: list[str]) -> None:
    """Refuse a protocol that the task, or one of the ``tasks`` of a run of several, does not have.

    ``task.protocol`` of a run holds for all of its ``tasks``; empty leaves each of them its own. A name that is not
    known is answered with the nearest one, one that is known not to exist with the reason and those that do.
    """
    protocol = task["protocol"]
    if tasks and not protocol:
        return
    for chosen in [OmegaConf.load(CONF / "task" / f"{name}.yaml") for name in tasks] or [task]:
        known, name = chosen.get("protocols") or {}, chosen["name"]
        if protocol in known or not (protocol or known):
            continue
        if not known:
            raise UserError(f"task {name} has no protocol {protocol}, only the metric that its file names.")
        if why := (chosen.get("unavailable") or {}).get(protocol):
            raise UserError(f"task {name} has no protocol {protocol}, since {why}; it has {' and '.join(known)}.")
        raise nearest(f"protocol of task {name}", protocol, known)
