"""Gives scores of choices as tensors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Question
from srum_plugins.providers import Provider


class TensorChoices(ToyAdapter):
    def choice_logprobs(self, questions: Sequence[Question]) -> Any:
        return [torch.tensor(row) for row in super().choice_logprobs(questions)]


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="tensor-choices", factory=TensorChoices)]
