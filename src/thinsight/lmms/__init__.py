"""The door to lmms-eval: any model of conf/model under any method of conf/method answers its tasks (docs/lmms-eval.md).

lmms-eval is not a dependency: it cannot be resolved beside OmegaConf (two versions of antlr4-python3-runtime), so it is
installed without its own dependencies, by `INSTALL`. Only `lmms.model` and `lmms.evaluate` need it.
"""

from typing import TYPE_CHECKING

from thinsight.errors import UserError

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

INSTALL = "pip install --no-deps -r requirements-lmms.txt"
"""Run in the project's root, in the environment of the project."""


def check_installed() -> None:
    """Refuse to go on where lmms-eval, or something that it imports, is missing: one sentence with the command."""
    try:
        import lmms_eval.evaluator  # noqa: F401
    except ImportError as error:  # of whatever it lacks
        raise UserError(f"lmms-eval cannot be imported ({error}): install it by `{INSTALL}`") from error


def manifest() -> "ModelManifest":
    """What lmms-eval's entry point ``lmms_eval.models`` asks for: ``--model thinsight`` is `lmms.model.Thinsight`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("thinsight", simple_class_path="thinsight.lmms.model.Thinsight")
