"""A reduced model as lmms-eval's: what ``simple_evaluate(model=...)`` and ``--model thinsight`` take."""

import os
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from lmms_eval.api.model import lmms

from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.errors import UserError
from thinsight.lmms.answers import Answerer
from thinsight.lmms.requests import read_request
from thinsight.models.loading import load_model


class Thinsight(lmms):
    """A model of conf/model under a method of conf/method, or an `Answerer` that holds both.

    ``Thinsight("llava_1_5_7b", "fastv", batch_size=8, keep=0.25)``: other arguments are fields of the method. On
    lmms-eval's command line: ``--model thinsight --model_args model=llava_1_5_7b,method=fastv,keep=0.25``.
    """

    is_simple = True

    def __init__(
        self,
        model: str | Answerer = "pocket",
        method: str = "identity",
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        max_batch_size: int | None = None,  # of lmms-eval's command line, for batch_size=auto
        **fields: Any,
    ) -> None:
        super().__init__()
        if isinstance(model, Answerer):
            self.answerer = model
            return
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise UserError(
                f"batch_size is a whole number from 1, not {batch_size}; where memory is short it is halved"
            )
        reduction = load_method(method, **fields)
        loaded = load_model(load_config([f"model={model}"]), device or _own_device(), dtype)
        self.answerer = Answerer(*loaded, reduction, int(batch_size))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.answerer.model.device

    @property
    def batch_size(self) -> int:
        """The most requests that are answered together."""
        return self.answerer.batch_size

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers to lmms-eval's instances, greedy."""
        asked = [read_request(request.args, self.task_dict) for request in requests]
        return self.answerer.answer(asked, progress=self.rank == 0)

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """A `UserError`."""
        self._refuse("the likelihood of given answers (output_type loglikelihood or multiple_choice)", requests)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """A `UserError`."""
        self._refuse("several rounds (output_type generate_until_multi_round)", requests)

    def generate_visual_cot(self, requests: Sequence[Any]) -> NoReturn:
        """A `UserError`."""
        self._refuse("pictures made on the way (output_type generate_visual_cot)", requests)

    def clean(self) -> None:
        """Keep the model, which lmms-eval throws away after the first evaluation."""

    @staticmethod
    def _refuse(what: str, requests: Sequence[Any]) -> NoReturn:
        tasks = ", ".join(dict.fromkeys(request.task_name for request in requests))
        raise UserError(
            f"lmms-eval's task {tasks} asks for {what}: Thinsight answers those of output_type generate_until"
        )


def _own_device() -> str | None:
    """The GPU of this process where `accelerate launch` started several; None: the one that conf/model names."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if several and torch.cuda.is_available() else None
