"""The records that hooks and contracts get and give, and the helpers that plugins may call."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType

from docgen.hooks import class_node, header, python, signature, text_below
from docgen.markdown import MADE, prose

RECORDS = {
    "srum_plugins.records": (
        "Prompt Check Candidate Box Mask Region Failure Grounding Score Judgement Reading Level Phase",
        "What stages write to the disk and hand on.",
    ),
    "srum_plugins.contracts": (
        "Capability GenerationRequest Generated Question Decoding GREEDY Answer Draws Prediction ShowsVelocity "
        "Weightless Located Judged Reward Example TrainBatch Verdict Composite UnderstandingReport Watched",
        "What methods of the contracts get and give.",
    ),
    "srum_plugins.rewards.maps": (
        "MapRegion RewardMap Overlap Reduction Transform",
        "What an aggregator gives and training weighs by.",
    ),
    "srum_plugins.providers": ("Provider", "What a provider hook returns."),
    "srum_plugins.attention.contract": ("Heads Segments", "What an attention kernel is asked for."),
}
HELPERS = {
    "srum_plugins.flow": ("FlowPrediction noised uniform_draws", "For adapters of flow models."),
    "srum_plugins.base_weights": ("BaseWeights", "For `predict(..., base=True)`."),
    "srum_plugins.weights": ("save_weights load_weights", "For `save` and `load_trained`."),
    "srum_plugins.decoding": ("write Written", "For `answer`."),
    "srum_plugins.boxes": ("fitted Fitted labelled", "For `locate`, and for grounders."),
    "srum_plugins.phrases": ("prompt_phrases noun_phrases", "For grounders: what to look for."),
    "srum_plugins.choices": ("ask", "For judges by `choice_logprobs`."),
    "srum_plugins.marking": ("boxes_marked crops_marked", "For judges: regions shown in the image."),
}


def page() -> str:
    """The page of all records and helpers."""
    parts = [
        "# Records and helpers",
        MADE,
        "What [the hooks and contracts](hooks.md) get and give, field by field, and functions that plugins may call. "
        "[Versions](../deprecation.md) says what you may rely on.",
        "## Records",
        "Frozen dataclasses, where their first line says nothing else. What breaks a range raises where a record is "
        "made.",
    ]
    for module, (names, about) in RECORDS.items():
        parts += _module(module, names, about)
    parts += ["## Helpers", "Nobody has to use them: the contracts are all that is checked."]
    for module, (names, about) in HELPERS.items():
        parts += _module(module, names, about)
    return "\n\n".join(parts) + "\n"


def _module(module: str, names: str, about: str) -> Iterator[str]:
    yield f"### {module}"
    yield about
    home = importlib.import_module(module)
    for name in names.split():
        member = getattr(home, name)
        yield f"#### {name}"
        if inspect.isclass(member):
            yield from _class(member)
        elif not inspect.isfunction(member):
            yield from _value(home, name)
        else:
            yield python(signature(member))
            yield prose(member.__doc__ or "")


def _class(cls: type) -> Iterator[str]:
    """A class as its fields and the headers of its public methods, its text, and that of each method."""
    node, source = class_node(cls), inspect.getsource(cls)
    lines, told = [], []
    for one in node.body:
        if isinstance(one, ast.AnnAssign | ast.Assign) and not ast.unparse(one).startswith("_"):
            lines += textwrap.dedent(ast.get_source_segment(source, one, padded=True) or "").splitlines()
        elif isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
            lines += [f"@{ast.unparse(by)}" for by in one.decorator_list]
            lines += header(one).splitlines()
            told.append(f"- `{one.name}`: {' '.join(prose(ast.get_docstring(one) or '').split())}")
    bases = f"({', '.join(ast.unparse(base) for base in node.bases)})" if node.bases else ""
    yield python(f"class {cls.__name__}{bases}:\n" + "\n".join(f"    {line}" for line in lines))
    yield prose(cls.__doc__ or "")
    if told:
        yield "Methods:"
        yield "\n".join(told)


def _value(home: ModuleType, name: str) -> Iterator[str]:
    """What a name of a module stands for, and the text below it."""
    source = inspect.getsource(home)
    body = ast.parse(source).body
    for one, after in pairwise(body):
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == name:
            yield python(ast.get_source_segment(source, one) or "")
            yield from text_below(after)
