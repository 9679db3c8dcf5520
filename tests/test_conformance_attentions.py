"""Our attention kernels keep the contract as far as they run here, and the suite sees those that do not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srum_plugins import hookimpl
from srum_plugins.attention.contract import Attention, Segments
from srum_plugins.attention.dense import Dense
from srum_plugins.providers import Provider
from srum_plugins.testing.attentions import AttentionConformance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = ("bfloat16", "float16")


class TestAuto(AttentionConformance):
    name = "auto"
    device = DEVICE
    examples = 3
    dtypes = HALVES


class TestSdpa(AttentionConformance):
    name = "sdpa"
    device = DEVICE


class TestDense(AttentionConformance):
    name = "dense"
    device = DEVICE


class TestVarlen(AttentionConformance):
    name = "varlen"
    device = DEVICE
    dtypes = HALVES


@pytest.mark.skipif(DEVICE == "cpu", reason="runs on cuda only, and takes seconds to import")
class TestFlex(AttentionConformance):
    name = "flex"
    device = DEVICE
    examples = 3  # each compiles


@pytest.mark.skipif(importlib.util.find_spec("xformers") is None, reason="xformers is not installed")
class TestXFormers(AttentionConformance):
    name = "xformers"
    device = DEVICE
    dtypes = HALVES


# --- what the suite sees ------------------------------------------------------------------------------------------
Attend = Callable[[Tensor, Tensor, Tensor, Segments], Tensor]
RIGHT = Dense().attend


def broken(attend: Attend) -> tuple[type[AttentionConformance], Attention]:
    class One(Attention):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
            return attend(q, k, v, segments)

    class Plugin:
        @hookimpl
        def srum_attentions(self) -> list[Provider]:
            return [Provider("broken", "breaks", lambda options: One())]

    class Broken(AttentionConformance):
        name = "broken"
        plugin = Plugin()

    return Broken, One()


def leaking(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Every query sees the keys of all."""
    return RIGHT(q, k, v, Segments.of([len(q)], [len(k)], False))


def interleaved(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Query heads that share a key head lie apart."""
    shared = q.shape[1] // k.shape[1]
    return RIGHT(q, k.repeat(1, shared, 1), v.repeat(1, shared, 1), segments)


def doubling(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    with torch.no_grad():
        found = RIGHT(q, k, v, segments)
        q.mul_(2)
    return found


def packed_only(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Reads memory as if each token's heads lay beside those of the last."""
    return RIGHT(q, *(torch.as_strided(one, one.shape, (one[0].numel(), one.shape[2], 1)) for one in (k, v)), segments)


def no_single(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Takes single queries for padding."""
    return RIGHT(q, k, v, segments) * (max(segments.queries) > 1)


class Remembering:
    """Keeps the first segments of so many tokens."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int, bool], Segments] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        return RIGHT(q, k, v, self.kept.setdefault((len(q), len(k), segments.causal), segments))


AGREES = AttentionConformance.test_output_and_gradients_are_those_of_the_reference
ALONE = AttentionConformance.test_segments_of_any_lengths_see_themselves_only
AFTER = AttentionConformance.test_a_call_does_not_depend_on_the_one_before
APART = AttentionConformance.test_tokens_that_lie_apart_in_memory_are_read_right
FORM = AttentionConformance.test_the_output_has_the_queries_shape_and_dtype


@pytest.mark.parametrize(
    ("attend", "test", "words"),
    [
        (lambda q, k, v, segments: RIGHT(2 * q, k, v, segments), AGREES, "its output is off by"),
        (lambda q, k, v, segments: RIGHT(q, k.detach(), v, segments), AGREES, "RuntimeError"),
        (interleaved, AGREES, "queries=4, keys=2"),
        (leaking, ALONE, "segments .* is off by"),
        (lambda q, k, v, segments: RIGHT(q, k, v, segments).float(), FORM, "float32 for queries"),
        (packed_only, APART, "another output for queries, keys and values that are views"),
        (lambda q, k, v, segments: RIGHT(q, k.view(-1).view(k.shape), v, segments), APART, "raised RuntimeError"),
        (no_single, AFTER, "single queries: its output is off by"),
        (Remembering(), AFTER, "after others of as many tokens: its output is off by"),
        (doubling, FORM, "changed the queries"),
    ],
)
def test_a_broken_kernel_is_told(tmp_path: Path, attend: Attend, test: Callable[..., None], words: str) -> None:
    suite, kernel = broken(attend)
    with pytest.raises(pytest.fail.Exception, match=words) as told:
        test(suite(), suite.open(tmp_path), kernel)
    assert "the attention 'broken' of" in str(told.value) and "mend: " in str(told.value)
