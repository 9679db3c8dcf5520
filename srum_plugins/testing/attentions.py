"""Does an attention kernel keep its contract (:class:`srum_plugins.attention.contract.Attention`)?"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import strategies as st

from srum_plugins.attention.contract import Attention, FirstOf, Heads, Segments
from srum_plugins.attention.probe import Cases, choose, refusal
from srum_plugins.config import Choice
from srum_plugins.providers import Kind
from srum_plugins.testing.suite import Conformance, Subject

SHAPES = ((4, 4, 16), (4, 2, 16), (6, 1, 8))
"""Heads of the queries, heads of the keys and numbers in each: all alone, neighbours together, all together."""

AFTER: Cases = {
    "segments cut at 3 and 4": ((3, 5), (4, 7), True),
    "segments cut at 5 and 7, after others of as many tokens": ((5, 3), (7, 4), True),
    "full segments after causal ones of the same lengths": ((5, 3), (7, 4), False),
    "single queries": ((1, 1), (4, 7), True),
}
"""Segments by what they stand for, tried one after the other; see :class:`Segments`."""


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[int], list[int], bool]:
    """Lengths of the queries and keys of two to five segments, and whether they are causal: a causal segment has as
    many keys as queries or more. The last is always alike: with one key in all, queries would have no gradient."""
    causal = draw(st.booleans())
    queries = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    keys = [draw(st.integers(count if causal else 1, count + 12)) for count in queries]
    return [*queries, 3], [*keys, 5], causal


class AttentionConformance(Conformance):
    """The suite of attention kernels, tried on ``device``, against the reference :class:`~.dense.Dense`.

    ``dtypes`` are those that the kernel is for, as names of torch. A kernel whose ``devices`` lack the suite's is not
    tried: set ``device = "cuda"`` where there is one.
    """

    kind: ClassVar[Kind] = Kind.ATTENTION
    device: ClassVar[str] = "cpu"
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    @classmethod
    def heads(cls) -> list[Heads]:
        """Every shape in every dtype."""
        return [Heads(*shape, dtype) for shape in SHAPES for dtype in cls.dtypes]

    @pytest.fixture(scope="class")
    @classmethod
    def kernel(cls, subject: Subject) -> Attention:
        """What the factory makes; of an order of kernels, the one that is taken here."""
        made = subject.call("factory", subject.registered.provider.factory, subject.options)
        if isinstance(made, FirstOf):
            choice = Choice(Kind.ATTENTION, subject.registered, subject.options)
            made = subject.call("factory", choose, choice, subject.host, cls.heads(), cls.device).kernel
        subject.require(isinstance(made, Attention), "factory", f"returned {type(made).__name__}", "subclass Attention")
        kernel: Attention = made
        subject.require(
            isinstance(kernel.devices, tuple) and all(isinstance(one, str) for one in kernel.devices),
            "devices",
            f"is {kernel.devices!r}",
            'make it a tuple of types of device, such as ("cuda",), empty for any',
        )
        if kernel.devices and torch.device(cls.device).type not in kernel.devices:
            pytest.skip(f"runs on {' and '.join(kernel.devices)} only")
        return kernel

    def test_output_and_gradients_are_those_of_the_reference(self, subject: Subject, kernel: Attention) -> None:
        """As it is probed before a run: texts and images of several tiles, in every shape and dtype."""
        for heads in self.heads():
            self._agrees(subject, heads, refusal(kernel, heads, self.device))

    def test_segments_of_any_lengths_see_themselves_only(self, subject: Subject, kernel: Attention) -> None:
        """Causal or full, as many as there are."""

        def check(cut: tuple[list[int], list[int], bool]) -> None:
            for heads in self.heads()[:: len(self.dtypes)]:
                self._agrees(subject, heads, refusal(kernel, heads, self.device, {f"segments {cut}": cut}))

        self.for_all(cuts(), check)

    def test_a_call_does_not_depend_on_the_one_before(self, subject: Subject, kernel: Attention) -> None:
        """Segments that are as many and have as many tokens in all, cut elsewhere; and single queries, as of a text
        that is written token by token."""
        heads = self.heads()[0]
        for what, cut in AFTER.items():
            self._agrees(subject, heads, refusal(kernel, heads, self.device, {what: cut}))

    def test_tokens_that_lie_apart_in_memory_are_read_right(self, subject: Subject, kernel: Attention) -> None:
        """Queries, keys and values that are views of one tensor, as one product for all three gives them."""
        segments = Segments.of((3, 5), (3, 5), True, torch.device(self.device))
        for heads in self.heads():
            generator = torch.Generator().manual_seed(0)
            packed = torch.randn(8, heads.queries + 2 * heads.keys, heads.width, generator=generator)
            packed, after = packed.to(self.device, getattr(torch, heads.dtype)), heads.queries + heads.keys
            views = packed[:, : heads.queries], packed[:, heads.queries : after], packed[:, after:]
            found = subject.call("attend", kernel.attend, *views, segments)
            wanted = subject.call("attend", kernel.attend, *(one.contiguous() for one in views), segments)
            subject.require(
                torch.allclose(found.float(), wanted.float(), 1e-2, 1e-2),
                "attend",
                "gives another output for queries, keys and values that are views of a larger tensor",
                "go by the strides of what is given, or call contiguous() first",
            )

    def test_the_output_has_the_queries_shape_and_dtype(self, subject: Subject, kernel: Attention) -> None:
        """And what it is given stays as it is."""
        segments = Segments.of((3, 5), (4, 7), True, torch.device(self.device))
        for heads in self.heads():
            generator = torch.Generator().manual_seed(0)
            shapes = (8, heads.queries, heads.width), (11, heads.keys, heads.width), (11, heads.keys, heads.width)
            given: list[Any] = [
                torch.randn(shape, generator=generator).to(self.device, getattr(torch, heads.dtype)) for shape in shapes
            ]
            kept = [one.clone() for one in given]
            found = subject.call("attend", kernel.attend, *given, segments)
            subject.require(
                found.shape == given[0].shape and found.dtype == given[0].dtype,
                "attend",
                f"gave {tuple(found.shape)} {found.dtype} for queries {tuple(given[0].shape)} {given[0].dtype}",
                "give (Tq, Hq, D) in the dtype of the queries",
            )
            subject.require(
                all(torch.equal(now, before) for now, before in zip(given, kept, strict=True)),
                "attend",
                "changed the queries, keys or values that it was given",
                "write into a new tensor",
            )

    def _agrees(self, subject: Subject, heads: Heads, refused: str) -> None:
        subject.require(
            not refused,
            "attend",
            f"differs from the reference with {heads} on {self.device}: {refused}",
            "compute softmax(q k^T / sqrt(D)) v segment by segment; a causal segment's last query is level with its "
            "last key, and neighbouring query heads share a key head",
        )
