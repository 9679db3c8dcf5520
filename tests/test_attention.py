"""Kernels of attention against the rule written out, and the probe that chooses among them."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import varlen as torch_varlen

from srum_plugins import hookimpl
from srum_plugins.attention import sdpa
from srum_plugins.attention.contract import Attention, FirstOf, Heads, Segments
from srum_plugins.attention.dense import Dense
from srum_plugins.attention.flex import Flex
from srum_plugins.attention.plugin import AutoOptions
from srum_plugins.attention.probe import choose, refusal
from srum_plugins.attention.sdpa import SDPA
from srum_plugins.attention.varlen import Varlen
from srum_plugins.attention.xformers import XFormers
from srum_plugins.config import Choice
from srum_plugins.errors import ConfigError, ContractError
from srum_plugins.host import PluginHost
from srum_plugins.options import build_options
from srum_plugins.providers import Kind, Provider

HEADS = Heads(queries=4, keys=2, width=8, dtype="float32")
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@st.composite
def cut(draw: st.DrawFn) -> Segments:
    causal = draw(st.booleans())
    pairs = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0 if causal else -8, 9)), min_size=1, max_size=5))
    queries = [count for count, _ in pairs]
    return Segments.of(queries, [max(1, count + more) for count, more in pairs], causal)


def inputs(segments: Segments, heads: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    counts = [(sum(segments.queries), heads[0])] + [(sum(segments.keys), heads[1])] * 2
    return [torch.randn(*shape, 8, generator=generator, requires_grad=True) for shape in counts]


def written_out(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """One query and one head at a time."""
    rows, query, key = [], 0, 0
    for asked, seen in zip(segments.queries, segments.keys, strict=True):
        for number in range(asked):
            last = key + (seen - asked + number + 1 if segments.causal else seen)
            heads = []
            for head in range(q.shape[1]):
                shared = head * k.shape[1] // q.shape[1]
                scores = k[key:last, shared] @ q[query + number, head] / q.shape[2] ** 0.5
                heads.append(scores.softmax(0) @ v[key:last, shared])
            rows.append(torch.stack(heads))
        query, key = query + asked, key + seen
    return torch.stack(rows)


def gradients(out: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    return torch.autograd.grad((out * weights).sum(), parts)


class ByRuns(SDPA):
    """SDPA where no segments are small."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        return sdpa._by_runs(q, k, v, segments)


@settings(max_examples=60, deadline=None)
@given(cut(), st.sampled_from([(4, 4), (4, 2), (6, 1)]), st.sampled_from([Dense, SDPA, ByRuns]))
def test_kernels_are_the_rule_and_so_are_their_gradients(
    segments: Segments, heads: tuple[int, int], kernel: type[Attention]
) -> None:
    parts = inputs(segments, heads)
    found, wanted = kernel().attend(*parts, segments), written_out(*parts, segments)
    torch.testing.assert_close(found, wanted, **CLOSE)
    for own, right in zip(gradients(found, parts), gradients(wanted, parts), strict=True):
        torch.testing.assert_close(own, right, **CLOSE)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@settings(max_examples=10, deadline=None)
@given(cut(), st.sampled_from([(4, 4), (4, 2)]))
def test_flex_is_the_rule_forwards(segments: Segments, heads: tuple[int, int]) -> None:
    parts, kernel = [part.detach() for part in inputs(segments, heads)], Flex()
    for _ in range(2):  # with a fresh mask, and with the kept one
        torch.testing.assert_close(kernel.attend(*parts, segments), written_out(*parts, segments), **CLOSE)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_what_is_made_for_segments_goes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in stand_in_xformers().items():
        monkeypatch.setitem(sys.modules, name, module)
    flex, xformers = Flex(), XFormers()
    for kernel, kept in ((flex, flex._masks), (xformers, xformers._biases)):
        segments = Segments.of((3, 2), (3, 6), False)
        kernel.attend(*(part.detach() for part in inputs(segments, (4, 4))), segments)
        assert len(kept) == 1
        del segments
        gc.collect()
        assert len(kept) == 0


def test_one_long_segment_does_not_pad_many_short_ones() -> None:
    assert sdpa._is_padded(Segments.of((1,) * 60, tuple(range(10, 70)), False))
    assert not sdpa._is_padded(Segments.of((1,) * 60, (10,) * 59 + (2000,), False))
    assert not sdpa._is_padded(Segments.of((4098, 4098), (4110, 4120), False))  # two images of 1024 x 1024


def test_heads_are_shared_on_cuda_only_where_a_kernel_can() -> None:
    assert sdpa._shares_heads(torch.bfloat16, (9, 0), masked=False)
    assert not sdpa._shares_heads(torch.bfloat16, (7, 5), masked=False)
    assert not sdpa._shares_heads(torch.bfloat16, (9, 0), masked=True)
    assert not sdpa._shares_heads(torch.float32, (9, 0), masked=False)


@given(cut())
def test_runs_and_starts_tell_the_lengths(segments: Segments) -> None:
    told = [pair for count, *pair in segments.runs for _ in range(count)]
    assert told == [list(pair) for pair in zip(segments.queries, segments.keys, strict=True)]
    assert all(one[1:] != other[1:] for one, other in zip(segments.runs, segments.runs[1:], strict=False))
    assert segments.cu_queries.diff().tolist() == list(segments.queries)
    assert segments.cu_keys.diff().tolist() == list(segments.keys)
    assert (segments.cu_queries is segments.cu_keys) == (segments.queries == segments.keys)


@pytest.mark.parametrize(("queries", "keys", "causal"), [((0,), (1,), False), ((1,), (0,), False), ((3,), (2,), True)])
def test_segments_without_sense_are_refused(queries: tuple[int], keys: tuple[int], causal: bool) -> None:
    with pytest.raises(ContractError, match=f"{queries[0]} queries on {keys[0]} keys"):
        Segments.of(queries, keys, causal)


def test_half_precision_and_autocast_keep_their_dtypes() -> None:
    segments = Segments.of((3, 5), (4, 5), True)
    for kernel in (Dense(), SDPA()):
        parts = [part.detach().bfloat16() for part in inputs(segments, (4, 2))]
        assert kernel.attend(*parts, segments).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert kernel.attend(*(part.float() for part in parts), segments).dtype == torch.float32


# --- kernels that run on CUDA only: how they are called ---------------------------------------------------------------


def reference(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, causal: bool) -> Tensor:
    return written_out(q, k, v, Segments.of(cu_q.diff().tolist(), cu_k.diff().tolist(), causal))


def varlen_210(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):  # type: ignore[no-untyped-def]
    return check_longest(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal)


def varlen_211(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
    return check_longest(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, {(-1, -1): False, (-1, 0): True}[window_size])


def varlen_213(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False):  # type: ignore[no-untyped-def]
    if q.shape[1] != k.shape[1] and not enable_gqa:
        raise ValueError("unequal heads")
    return varlen_211(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)


def check_longest(q, k, v, cu_q, cu_k, max_q, max_k, causal):  # type: ignore[no-untyped-def]
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    return reference(q, k, v, cu_q, cu_k, causal)


@pytest.mark.parametrize("signature", [varlen_210, varlen_211, varlen_213])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("causal", [False, True])
def test_varlen_speaks_the_signature_of_every_torch(
    signature: Callable[..., Tensor], heads: tuple[int, int], causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_varlen, "varlen_attn", signature)
    segments = Segments.of((3, 2), (3, 6), causal)
    parts = inputs(segments, heads)
    torch.testing.assert_close(Varlen().attend(*parts, segments), written_out(*parts, segments), **CLOSE)


def test_the_installed_varlen_has_a_known_signature() -> None:
    known = inspect.signature(torch_varlen.varlen_attn).parameters
    assert list(known)[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert "window_size" in known or "is_causal" in known


def stand_in_xformers() -> dict[str, ModuleType]:
    """As much of xformers as is called, with its layout (1, T, H, D), and no shared heads."""

    class Bias:
        causal = False

        def __init__(self, queries: list[int], keys: list[int]) -> None:
            self.queries, self.keys = queries, keys

        @classmethod
        def from_seqlens(cls, q_seqlen: list[int], kv_seqlen: list[int]) -> Bias:
            return cls(q_seqlen, kv_seqlen)

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: Bias) -> Tensor:
        assert q.ndim == k.ndim == 4 and len(q) == 1 and q.shape[2] == k.shape[2] == v.shape[2]
        return written_out(q[0], k[0], v[0], Segments.of(attn_bias.queries, attn_bias.keys, attn_bias.causal))[None]

    package, ops, fmha, biases = (
        ModuleType(name) for name in ("xformers", "xformers.ops", "xformers.ops.fmha", "xformers.ops.fmha.attn_bias")
    )
    biases.BlockDiagonalMask = Bias  # type: ignore[attr-defined]
    biases.BlockDiagonalCausalFromBottomRightMask = type("Causal", (Bias,), {"causal": True})  # type: ignore[attr-defined]
    fmha.attn_bias, fmha.memory_efficient_attention = biases, attention  # type: ignore[attr-defined]
    package.ops, ops.fmha = ops, fmha  # type: ignore[attr-defined]
    return {"xformers": package, "xformers.ops": ops, "xformers.ops.fmha": fmha}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_xformers_gets_whole_heads_and_a_bias(
    causal: bool, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in stand_in_xformers().items():
        monkeypatch.setitem(sys.modules, name, module)
    segments = Segments.of((3, 2), (3, 6), causal)
    parts = inputs(segments, heads)
    found, wanted = XFormers().attend(*parts, segments), written_out(*parts, segments)
    torch.testing.assert_close(found, wanted, **CLOSE)
    for own, right in zip(gradients(found, parts), gradients(wanted, parts), strict=True):
        torch.testing.assert_close(own, right, **CLOSE)


# --- the probe --------------------------------------------------------------------------------------------------------


class TopLeft(SDPA):
    """Levels a text that goes on with the first key, as torch's is_causal does."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        if not segments.causal:
            return super().attend(q, k, v, segments)
        parts, query, key = [], 0, 0
        for asked, seen in zip(segments.queries, segments.keys, strict=True):
            own = slice(query, query + asked), slice(key, key + seen)
            rows = (q[own[0]], k[own[1]], v[own[1]])
            batched = (part.transpose(0, 1)[None] for part in rows)
            out = torch.nn.functional.scaled_dot_product_attention(*batched, is_causal=True, enable_gqa=True)
            parts.append(out[0].transpose(0, 1))
            query, key = query + asked, key + seen
        return torch.cat(parts)


class LostGradient(SDPA):
    """Forgets that the output depends on the values."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        out = super().attend(q, k, v, segments)
        return out.detach() + 0 * (q.sum() + k.sum() + v.sum())


class Raises(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        raise RuntimeError("no kernel image is available\nfor execution on the device")


class NoNumbers(SDPA):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        return super().attend(q, k, v, segments) * float("nan")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", [Dense, SDPA])
def test_what_works_is_not_refused(kernel: type[Attention], dtype: str) -> None:
    before = torch.random.get_rng_state()
    assert refusal(kernel(), Heads(4, 2, 32, dtype), "cpu") == ""
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (TopLeft, "text after an image: its output is off by"),
        (LostGradient, "causal text: its gradient of q is off by 1.0e+00"),
        (Raises, "RuntimeError: no kernel image is available"),
        (NoNumbers, "causal text: its output is off by nan"),
        (Varlen, "it runs on cuda only, not on cpu"),
        (Flex, "it runs on cuda only, not on cpu"),
    ],
)
def test_what_does_not_is_refused_with_its_reason(kernel: type[Attention], reason: str) -> None:
    found = refusal(kernel(), HEADS, "cpu")
    assert found.startswith(reason) and "\n" not in found


def test_torchs_packed_kernel_has_nothing_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``devices`` says is true, and without it the probe would find it out."""
    monkeypatch.setattr(Varlen, "devices", ())
    found = refusal(Varlen(), HEADS, "cpu")
    assert found.startswith("NotImplementedError: Could not run 'aten::_flash_attention_forward'") and len(found) < 250


class Kernels:
    """A plugin of kernels by name; what is no class is raised by the factory, or given by it."""

    def __init__(self, **kernels: Any) -> None:
        self.kernels = kernels

    @hookimpl
    def srum_attentions(self) -> list[Provider]:
        def give(kernel: Any) -> Any:
            if isinstance(kernel, Exception):
                raise kernel
            return kernel() if isinstance(kernel, type) else kernel

        return [Provider(name, "A kernel.", lambda options, k=kernel: give(k)) for name, kernel in self.kernels.items()]


def filled(name: str, host: PluginHost, **options: Any) -> Choice:
    registered = host.get(Kind.ATTENTION, name)
    return Choice(Kind.ATTENTION, registered, build_options(registered.provider.options, options, "attention"))


def test_auto_takes_the_first_that_works_and_says_why_the_others_fell_out() -> None:
    host = PluginHost.load()
    found = choose(filled("auto", host), host, [HEADS], "cpu")
    assert (found.name, type(found.kernel)) == ("sdpa", SDPA)
    assert found.refused == {"varlen": "it runs on cuda only, not on cpu"}
    assert AutoOptions().order[-1] == "dense"


def test_a_broken_wheel_is_never_chosen() -> None:
    host = PluginHost.load()
    broken = OSError("libcudart.so.12: cannot open shared object file")
    host.register(Kernels(broken=broken, wrong=TopLeft, nothing=3, mine=Dense), "kernels")
    found = choose(filled("auto", host, order=["broken", "wrong", "nothing", "xformers", "mine"]), host, [HEADS], "cpu")
    assert found.name == "mine" and list(found.refused) == ["broken", "wrong", "nothing", "xformers"]
    assert "libcudart" in found.refused["broken"] and "needs xformers, not installed" in found.refused["xformers"]
    assert found.refused["nothing"] == "its factory gave a int, no Attention"
    with pytest.raises(ConfigError, match=r"attention=broken does not work here: OSError: libcudart.*attention=auto"):
        choose(filled("broken", host), host, [HEADS], "cpu")
    with pytest.raises(ConfigError, match=r"attention=wrong does not work here: text after an image"):
        choose(filled("wrong", host), host, [HEADS], "cpu")
    with pytest.raises(ConfigError, match=r"none of its kernels works here:\n  broken: OSError.*\n  wrong: "):
        choose(filled("auto", host, order=["broken", "wrong"]), host, [HEADS], "cpu")


def test_an_order_names_kernels() -> None:
    host = PluginHost.load()
    host.register(Kernels(again=FirstOf(("again",))), "kernels")
    with pytest.raises(ConfigError, match="attention=again names 'again', which is no kernel but an order"):
        choose(filled("again", host), host, [HEADS], "cpu")
    with pytest.raises(ConfigError, match=r"attention=auto names 'sdap'\. Did you mean 'sdpa'"):
        choose(filled("auto", host, order=["sdap", "dense"]), host, [HEADS], "cpu")
    with pytest.raises(ConfigError, match="order must name at least one kernel"):
        filled("auto", host, order=[])
