"""Which protocol a benchmark is scored by: the names that the task's file knows."""

from collections.abc import Mapping
from typing import Any

from thinsight.errors import UserError, nearest


def check_protocol(task: Mapping[str, Any]) -> None:
    """Refuse a protocol that the task does not have.

    A name that is not known is answered with the nearest one, one that is known not to exist with the reason and those
    that do.
    """
    name, protocol, known = task["name"], task["protocol"], task["protocols"]
    if protocol in known or not (protocol or known):
        return
    if not known:
        raise UserError(f"task {name} has no protocol {protocol}, only the metric that its file names.")
    if why := task["unavailable"].get(protocol):
        raise UserError(f"task {name} has no protocol {protocol}, since {why}; it has {' and '.join(known)}.")
    raise nearest(f"protocol of task {name}", protocol, known)
