"""The prior of BLIP3o: names and sizes of the release, its arithmetic written out anew, time, sampling, attention."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from blip3o_prior import tiny_prior
from diffusers import FlowMatchEulerDiscreteScheduler, LuminaNextDiT2DModel
from diffusers.models import attention_dispatch
from diffusers.models.attention_processor import LuminaAttnProcessor2_0
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from srum_blip3o.flow import noised, sample, schedule, token_losses, told, training_sigma
from srum_blip3o.options import LORA_TARGETS
from srum_blip3o.prior import Prior, PriorConfig, use_attention
from srum_blip3o.prior_weights import load_prior, own_name, released_name
from torch import Tensor, nn

from srum_plugins import lora
from srum_plugins.attention.contract import Attention, Segments
from srum_plugins.attention.dense import Dense
from srum_plugins.attention.sdpa import SDPA
from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.memory.tracker import Tracker

CPU = torch.device("cpu")
SIZES = {"8B": (3584, 1_365_010_336), "4B": (2048, 1_362_257_824)}


def drawn(prior: Prior, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy data, noise levels and conditions."""
    config, generator = prior.config, torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, config.channels, config.grid, config.grid, generator=generator),
        torch.rand(batch, generator=generator),
        torch.randn(batch, config.queries, config.condition, generator=generator),
    )


# Names and sizes


def released_shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    """The table of blip3o.md 1.4."""
    dit = "model.dit.model."
    table: dict[str, tuple[int, ...]] = {"model.latent_queries": (1, 64, hidden)}

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        table[f"{dit}{name}.weight"] = (out, into)
        if bias:
            table[f"{dit}{name}.bias"] = (out,)

    linear("caption_projection.linear_1", 1792, hidden)
    linear("caption_projection.linear_2", 1792, 1792)
    linear("patch_embedder.proj", 1792, 1792)
    linear("time_caption_embed.timestep_embedder.linear_1", 1024, 256)
    linear("time_caption_embed.timestep_embedder.linear_2", 1024, 1024)
    table |= {f"{dit}time_caption_embed.caption_embedder.0.{part}": (1792,) for part in ("weight", "bias")}
    linear("time_caption_embed.caption_embedder.1", 1024, 1792)
    for layer in (f"layers.{index}." for index in range(24)):
        table[f"{dit}{layer}gate"] = (28,)
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v"):
                linear(f"{layer}{attention}.{part}", 1792, 1792, bias=False)
            for part in ("norm_q", "norm_k"):
                table |= {f"{dit}{layer}{attention}.{part}.{kind}": (1792,) for kind in ("weight", "bias")}
        linear(f"{layer}attn2.to_out.0", 1792, 1792, bias=False)
        linear(f"{layer}feed_forward.linear_1", 4864, 1792, bias=False)
        linear(f"{layer}feed_forward.linear_3", 4864, 1792, bias=False)
        linear(f"{layer}feed_forward.linear_2", 1792, 4864, bias=False)
        linear(f"{layer}norm1.linear", 7168, 1024)
        for norm in ("norm1.norm", "norm2", "ffn_norm1", "ffn_norm2", "norm1_context"):
            table[f"{dit}{layer}{norm}.weight"] = (1792,)
    linear("norm_out.linear_1", 1792, 1024)
    linear("norm_out.linear_2", 1792, 1792)
    return table


@pytest.mark.parametrize("size", SIZES)
def test_every_weight_of_the_release_has_its_place_and_shape(size: str) -> None:
    hidden, parameters = SIZES[size]
    with torch.device("meta"):
        prior = Prior(PriorConfig(condition=hidden))
    expected = released_shapes(hidden)
    assert {released_name(name): tuple(each.shape) for name, each in prior.state_dict().items()} == expected
    assert {own_name(name) for name in expected} == set(prior.state_dict())
    assert sum(name.startswith("dit.") for name in prior.state_dict()) == 638
    assert sum(each.numel() for each in prior.prior_parameters().values()) == parameters
    # Code that scales the width twice comes out at 7168 and cannot load the release.
    assert prior.dit.layers[0].feed_forward.linear_1.out_features == 4864


def write_shards(prior: Prior, folder: Path, **more: Tensor) -> list[Path]:
    """Two files with the prior's weights under released names among those of other parts."""
    tensors = {released_name(name): each.detach().clone() for name, each in prior.state_dict().items()}
    others = {"lm_head.weight": torch.ones(3, 2), "model.layers.0.mlp.up_proj.weight": torch.ones(2, 2)}
    tensors |= others | {"visual.merger.ln_q.weight": torch.ones(2), "model.vae.encoder.weight": torch.ones(2)} | more
    names = sorted(tensors)
    files = [folder / "model-1.safetensors", folder / "model-2.safetensors"]
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in part if tensors[name].numel()}, file)
    return files


@pytest.mark.parametrize("pad", [False, True])
def test_the_prior_is_read_from_shards_that_hold_other_parts(tmp_path: Path, pad: bool) -> None:
    prior = tiny_prior()
    files = write_shards(prior, tmp_path, **({"model.dit.model.pad_token": torch.ones(16)} if pad else {}))
    with torch.device("meta"):
        empty = Prior(prior.config)
    load_prior(empty, files, CPU)
    assert not any(each.is_meta for each in (*empty.parameters(), *empty.buffers()))
    assert torch.equal(empty.velocity(*drawn(prior)), prior.velocity(*drawn(prior)))
    half = tiny_prior(seed=1).to(torch.bfloat16)
    load_prior(half, files, CPU)
    assert torch.equal(half.latent_queries, prior.latent_queries.bfloat16())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.dit.model.layers.1.gate", torch.ones(0), "dit.layers.1.gate is missing"),
        ("model.latent_queries", torch.ones(0), "latent_queries is missing"),
        ("model.dit.model.layers.2.gate", torch.ones(2), "dit.layers.2.gate is unexpected"),
        ("model.dit.extra", torch.ones(2), "model.dit.extra is unexpected"),
        ("model.latent_queries_2", torch.ones(2), "model.latent_queries_2 is unexpected"),
        ("model.dit.model.caption_projection.linear_1.bias", torch.ones(17), "expected (16,)"),
    ],
)
def test_what_does_not_fit_the_prior_is_refused(tmp_path: Path, name: str, tensor: Tensor, message: str) -> None:
    prior = tiny_prior()
    files = write_shards(prior, tmp_path, **{name: tensor})
    before = copy.deepcopy(prior.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_prior(prior, files, CPU)
    assert message in str(caught.value)
    assert all(torch.equal(before[key], each) for key, each in prior.state_dict().items())


# Arithmetic


def layer_norm(x: Tensor, weights: Mapping[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"] if name else scaled


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def rotated(x: Tensor, grid: int) -> Tensor:
    """Heads (B, g * g, heads, width): pairs turn with the row and the column in turn."""
    width = x.shape[-1]
    speeds = 10000.0 ** (-torch.arange(0, width // 2, 2) / (width // 2))
    place = torch.arange(grid, dtype=torch.float32)
    rows = (place[:, None] * speeds)[:, None].expand(grid, grid, -1)
    columns = (place[:, None] * speeds)[None].expand(grid, grid, -1)
    angle = torch.stack([rows, columns], dim=-1).reshape(1, grid * grid, 1, -1)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
    return torch.stack(turned, dim=-1).flatten(-2)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Over heads (B, L, heads, width)."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def written_out(prior: Prior, noisy: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    """blip3o.md 2.3, line by line."""
    config = prior.config
    own = {name: each.detach() for name, each in prior.state_dict().items()}
    w = {released_name(name).removeprefix("model.dit.model."): each for name, each in own.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        out = x @ w[f"{name}.weight"].T
        return out + w[f"{name}.bias"] if f"{name}.bias" in w else out

    def heads(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], config.heads, -1)

    hidden = linear(condition, "caption_projection.linear_1")
    gelu = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    caption = linear(gelu, "caption_projection.linear_2")

    waves = 1000 * sigma[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    time = linear(torch.cat([waves.cos(), waves.sin()], dim=1), "time_caption_embed.timestep_embedder.linear_1")
    time = linear(time * time.sigmoid(), "time_caption_embed.timestep_embedder.linear_2")
    pooled = layer_norm(caption.mean(1), w, "time_caption_embed.caption_embedder.0")
    temb = time + linear(pooled, "time_caption_embed.caption_embedder.1")
    temb = temb * temb.sigmoid()

    x = linear(noisy.flatten(2).transpose(1, 2), "patch_embedder.proj")
    for name in (f"layers.{index}" for index in range(config.layers)):
        s1, g1, s2, g2 = linear(temb, f"{name}.norm1.linear")[:, None].tensor_split(4, dim=-1)
        h = rms(x, w[f"{name}.norm1.norm.weight"]) * (1 + s1)
        context = rms(caption, w[f"{name}.norm1_context.weight"])
        parts = []
        for kind, seen in (("attn1", h), ("attn2", context)):
            q = heads(layer_norm(linear(h, f"{name}.{kind}.to_q"), w, f"{name}.{kind}.norm_q"))
            k = heads(layer_norm(linear(seen, f"{name}.{kind}.to_k"), w, f"{name}.{kind}.norm_k"))
            k = rotated(k, config.grid) if kind == "attn1" else k
            parts.append(attended(rotated(q, config.grid), k, heads(linear(seen, f"{name}.{kind}.to_v"))))
        joined = parts[0] + parts[1] * w[f"{name}.gate"].tanh()[:, None]
        o = linear(joined.flatten(2), f"{name}.attn2.to_out.0")
        x = x + g1.tanh() * rms(o, w[f"{name}.norm2.weight"])
        into = rms(x, w[f"{name}.ffn_norm1.weight"]) * (1 + s2)
        up = linear(into, f"{name}.feed_forward.linear_1")
        fed = linear(up * up.sigmoid() * linear(into, f"{name}.feed_forward.linear_3"), f"{name}.feed_forward.linear_2")
        x = x + g2.tanh() * rms(fed, w[f"{name}.ffn_norm2.weight"])
    x = layer_norm(x, w, "", eps=1e-6) * (1 + linear(temb, "norm_out.linear_1"))[:, None]
    return linear(x, "norm_out.linear_2").transpose(1, 2).reshape(noisy.shape)


@torch.no_grad()
def test_the_prior_is_what_the_facts_say_written_out_anew() -> None:
    prior = tiny_prior()
    inputs = drawn(prior, batch=3)
    torch.testing.assert_close(prior.velocity(*inputs), written_out(prior, *inputs), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_condition_of_zeros_still_adds_the_projection_s_bias() -> None:
    prior = tiny_prior()
    noisy, sigma, condition = drawn(prior)
    bare = copy.deepcopy(prior)
    for bias in (bare.caption_projection.linear_1.bias, bare.caption_projection.linear_2.bias):
        bias.zero_()
    without = prior.velocity(noisy, sigma, 0 * condition)
    assert (without - prior.velocity(noisy, sigma, condition)).abs().max() > 1e-2
    assert (without - bare.velocity(noisy, sigma, 0 * condition)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("changed", "named"),
    [("noisy", "noisy has shape"), ("sigma", "the time has shape"), ("condition", "the condition has shape")],
)
def test_a_wrong_shape_is_named(changed: str, named: str) -> None:
    prior = tiny_prior()
    inputs = dict(zip(("noisy", "sigma", "condition"), drawn(prior), strict=True))
    # One time or one condition for two images would be spread over both in silence.
    inputs[changed] = inputs[changed][:, :3] if changed == "noisy" else inputs[changed][:1]
    with pytest.raises(ContractError, match=named):
        prior.velocity(**inputs)


# Time and losses


def times_told(prior: Prior, run: Callable[[], object]) -> list[Tensor]:
    """The times that reach the embedder."""
    seen: list[Tensor] = []
    hook = prior.dit.time_caption_embed.time_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    run()
    hook.remove()
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_embedder_is_told_a_thousand_sigma_in_float32(dtype: torch.dtype) -> None:
    prior = tiny_prior().to(dtype)
    noisy, _, condition = drawn(prior)
    sigma = torch.tensor([0.967, 0.001])  # bfloat16 makes 968 of the first
    (time,) = times_told(prior, lambda: prior.velocity(noisy, sigma, condition))
    assert time.dtype == torch.float32
    torch.testing.assert_close(time, torch.tensor([967.0, 1.0]))
    out = prior.velocity(noisy.to(dtype), sigma, condition.to(dtype))
    assert out.dtype == torch.float32


@given(st.floats(0, 1, exclude_max=True, width=32))
def test_training_sigmas_are_those_of_a_fresh_scheduler(uniform: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    own = training_sigma(torch.tensor([uniform], dtype=torch.float32))
    index = int(1000 * torch.tensor(uniform, dtype=torch.float32))
    assert own.item() == pytest.approx(scheduler.sigmas[index].item(), abs=1e-7)
    assert 1000 * own.item() == pytest.approx(scheduler.timesteps[index].item(), abs=1e-3)


def test_sampling_does_not_change_what_training_draws() -> None:
    prior, uniform = tiny_prior(), torch.rand(50, generator=torch.Generator().manual_seed(0))
    noise, _, condition = drawn(prior)
    before = training_sigma(uniform)
    sample(prior, condition, noise, steps=2)
    assert torch.equal(training_sigma(uniform), before)
    shared = FlowMatchEulerDiscreteScheduler()
    table = shared.sigmas.clone()
    shared.set_timesteps(sigmas=schedule(2)[:-1])
    assert shared.sigmas.shape != table.shape  # why no scheduler is shared


def test_equal_weights_give_the_plain_mean_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    velocity, data, noise = (torch.randn(3, 16, 8, 8, generator=generator) for _ in range(3))
    losses = token_losses(velocity, data, noise)
    assert losses.shape == (3, 8, 8)
    torch.testing.assert_close(losses.mean(), F.mse_loss(velocity, noise - data), rtol=1e-6, atol=0)
    halves = [each.bfloat16() for each in (velocity, data, noise)]
    torch.testing.assert_close(token_losses(*halves), token_losses(*(each.float() for each in halves)), rtol=0, atol=0)
    velocity[1, :, 2, 5] = (noise - data)[1, :, 2, 5]
    assert [tuple(place) for place in (token_losses(velocity, data, noise) == 0).nonzero().tolist()] == [(1, 2, 5)]


def test_noising_keeps_float32_and_runs_from_data_to_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    half, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    half, sigma = half.bfloat16(), torch.tensor([0.0, 0.967, 1.0])
    mixed, data = noised(half, noise, sigma), half.float()
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed[0], data[0])
    assert torch.equal(mixed[2], noise[2])
    torch.testing.assert_close(mixed[1], 0.033 * data[1] + 0.967 * noise[1])
    # Where a velocity is exact, so is the data that it leads back to.
    torch.testing.assert_close(mixed - sigma[:, None, None, None] * (noise - data), data)


# Sampling


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 25, 30, 50, 100])
def test_levels_and_times_are_the_scheduler_s(steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    levels = schedule(steps)
    torch.testing.assert_close(torch.tensor(levels), scheduler.sigmas)
    assert [told(level) for level in levels[:-1]] == scheduler.timesteps.long().tolist()


def test_thirty_steps_are_told_whole_times() -> None:
    prior = tiny_prior()
    noise, _, condition = drawn(prior)
    times = times_told(prior, lambda: sample(prior, condition, noise))
    assert [time[0].item() for time in times] == [int(1000 * k / 30) for k in range(30, 0, -1)]
    assert [len(time) for time in times] == [4] * 30  # both branches in one batch


def test_guidance_one_computes_the_condition_alone() -> None:
    prior = tiny_prior()
    noise, _, condition = drawn(prior)
    times = times_told(prior, lambda: sample(prior, condition, noise, steps=2, guidance=1.0))
    assert [len(time) for time in times] == [2, 2]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sampling_is_the_scheduler_s_euler_with_guidance_away_from_zeros(guidance: float) -> None:
    prior = tiny_prior()
    noise, _, condition = drawn(prior)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 5, 5).tolist())
    x = noise
    with torch.no_grad():
        for time in scheduler.timesteps:
            given = time.long().float().expand(2)
            u, c = prior(x, given, torch.zeros_like(condition)), prior(x, given, condition)
            x = scheduler.step(u + guidance * (c - u), time, x).prev_sample
    out = sample(prior, condition, noise, steps=5, guidance=guidance)
    assert out.dtype == torch.float32 and not out.requires_grad
    torch.testing.assert_close(out, x, atol=1e-4, rtol=1e-4)


@given(steps=st.integers(1, 40), seed=st.integers(0, 9))
def test_a_perfect_predictor_leads_to_the_data(steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    condition = torch.zeros(2, 3, 5)
    out = sample(lambda x, time, given: noise - data, condition, noise, steps=steps, guidance=1.0)
    torch.testing.assert_close(out, data, atol=1e-5, rtol=1e-5)
    # One that knows the data alone must be told where on the way it is: time reversed or cut short leads elsewhere.
    levels = {float(told(level)): level for level in schedule(steps)}
    out = sample(
        lambda x, time, given: (x - data) / levels[float(time[0])], condition, noise, steps=steps, guidance=1.0
    )
    torch.testing.assert_close(out, data, atol=1e-4, rtol=1e-4)


def test_what_is_learned_is_sampled() -> None:
    """Training and sampling agree on direction and sign of time."""
    prior = tiny_prior()
    generator = torch.Generator().manual_seed(0)
    condition = torch.randn(1, 64, 24, generator=generator)
    data = 2 * torch.randn(1, 16, 1, 1, generator=generator).expand(1, 16, 8, 8)
    optimizer = torch.optim.Adam(prior.prior_parameters().values(), lr=1e-2)
    for _ in range(120):
        noise, uniform = torch.randn(4, 16, 8, 8, generator=generator), torch.rand(4, generator=generator)
        sigma, batch = training_sigma(uniform), data.expand(4, -1, -1, -1)
        predicted = prior.velocity(noised(batch, noise, sigma), sigma, condition.expand(4, -1, -1))
        loss = token_losses(predicted, batch, noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise = torch.randn(1, 16, 8, 8, generator=generator)
    out = sample(prior, condition, noise, steps=10, guidance=1.0)
    assert (out - data).square().mean() < 0.1 * data.square().mean()


@settings(max_examples=10)
@given(batch=st.integers(2, 4), steps=st.integers(1, 3), guidance=st.sampled_from([1.0, 3.0]), seed=st.integers(0, 99))
def test_a_sample_does_not_depend_on_its_batch(batch: int, steps: int, guidance: float, seed: int) -> None:
    prior = tiny_prior()
    noise, _, condition = drawn(prior, batch, seed)
    together = sample(prior, condition, noise, steps, guidance)
    for index in range(batch):
        alone = sample(prior, condition[index : index + 1], noise[index : index + 1], steps, guidance)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_bfloat16_prior_is_sampled_in_float32() -> None:
    prior = tiny_prior()
    noise, _, condition = drawn(prior)
    exact = sample(prior, condition, noise, steps=30)
    out = sample(prior.to(torch.bfloat16), condition.bfloat16(), noise, steps=30)
    assert out.dtype == torch.float32
    assert torch.equal(sample(lambda x, *_: torch.zeros_like(x), condition.bfloat16(), noise), noise)
    assert (out - exact).square().mean() < 0.01 * exact.square().mean()


# Attention


class Counted(Attention):
    """A kernel that remembers what it was asked."""

    def __init__(self, kernel: Attention) -> None:
        self.kernel, self.asked = kernel, list[Segments]()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        self.asked.append(segments)
        return self.kernel.attend(q, k, v, segments)


def stock(prior: Prior) -> Prior:
    """The same weights in diffusers' own classes."""
    same = copy.deepcopy(prior)
    model = LuminaNextDiT2DModel.from_config(prior.dit.config)
    missing, unexpected = model.load_state_dict(prior.dit.state_dict(), strict=False)
    assert (missing, unexpected) == (["pad_token"], [])
    same.dit = model.eval()
    assert all(isinstance(layer.attn1.processor, LuminaAttnProcessor2_0) for layer in model.layers)
    return same


@pytest.mark.parametrize("kernel", [SDPA(), Dense()])
@torch.no_grad()
def test_attention_goes_through_the_kernel_and_changes_nothing(kernel: Attention) -> None:
    prior, counted = tiny_prior(), Counted(kernel)
    use_attention(prior, counted)
    inputs = drawn(prior, batch=3)
    torch.testing.assert_close(prior.velocity(*inputs), stock(prior).velocity(*inputs), atol=1e-5, rtol=1e-5)
    assert [segments.queries for segments in counted.asked] == [(64, 64, 64)] * 2 * prior.config.layers
    assert all(segments.keys == segments.queries and not segments.causal for segments in counted.asked)


@pytest.mark.parametrize("given", [False, True])
@torch.no_grad()
def test_a_new_prior_has_the_kernel_that_it_is_given_or_torch_s(monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    counted = Counted(SDPA())
    if not given:
        monkeypatch.setattr(SDPA, "attend", lambda self, *packed: counted.asked.append(packed[3]) or packed[0])
    prior = Prior(tiny_prior().config, counted if given else None)
    prior.velocity(*drawn(prior))
    assert len(counted.asked) == 2 * prior.config.layers


@torch.no_grad()
def test_queries_and_keys_reach_the_kernel_in_the_dtype_of_values() -> None:
    """Under autocast on CUDA, norms give float32."""

    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float()

    class Same(Counted):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
            assert q.dtype == k.dtype == v.dtype == torch.bfloat16
            return super().attend(q, k, v, segments)

    prior, same = tiny_prior().to(torch.bfloat16), Same(SDPA())
    for layer in prior.dit.layers:
        for attention in (layer.attn1, layer.attn2):
            attention.norm_q = nn.Sequential(attention.norm_q, Single())
            attention.norm_k = nn.Sequential(attention.norm_k, Single())
    use_attention(prior, same)
    prior.velocity(*drawn(prior))
    assert len(same.asked) == 2 * prior.config.layers


@torch.no_grad()
def test_cross_attention_may_have_other_keys_than_queries() -> None:
    prior = Prior(PriorConfig(24, 16, grid=2, layers=1, heads=2, queries=5, multiple_of=8))
    counted = Counted(SDPA())
    use_attention(prior, counted)
    nn.init.ones_(prior.dit.layers[0].gate)
    inputs = drawn(prior)
    torch.testing.assert_close(prior.velocity(*inputs), stock(prior).velocity(*inputs), atol=1e-5, rtol=1e-5)
    assert [(segments.queries, segments.keys) for segments in counted.asked] == [((4, 4), (4, 4)), ((4, 4), (5, 5))]


@torch.no_grad()
def test_diffusers_own_switch_does_nothing_for_this_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the processor is there. Once this fails, diffusers' switch may do instead."""
    prior = tiny_prior()
    plain, inputs = stock(prior), drawn(prior)
    counted: list[str] = []
    dispatch = attention_dispatch.dispatch_attention_fn
    monkeypatch.setattr(
        attention_dispatch, "dispatch_attention_fn", lambda *args, **more: counted.append("") or dispatch(*args, **more)
    )
    registry = attention_dispatch._AttentionBackendRegistry
    before = registry._active_backend
    try:
        plain.dit.set_attention_backend("_native_math")
        plain.velocity(*inputs)
    finally:  # it is the whole process's
        registry.set_active_backend(before)
    assert not counted
    assert all(
        isinstance(attention.processor, LuminaAttnProcessor2_0)
        and getattr(attention.processor, "_attention_backend", None) is None
        for layer in plain.dit.layers
        for attention in (layer.attn1, layer.attn2)
    )


def test_tables_that_inference_made_serve_training_too() -> None:
    prior = Prior(PriorConfig(8, 24, grid=3, layers=1, heads=2, queries=7, multiple_of=8))
    noisy, sigma, condition = drawn(prior, batch=5)
    with torch.inference_mode():  # the first to need tables of this size
        prior.velocity(noisy, sigma, condition)
    prior.velocity(noisy, sigma, condition).sum().backward()
    assert prior.dit.patch_embedder.proj.weight.grad is not None


# Training


def gradients(prior: Prior, seed: int = 0) -> dict[str, Tensor]:
    """Of a sum of squares, with the conditions' as ``condition``."""
    noisy, sigma, condition = drawn(prior, seed=seed)
    condition.requires_grad_()
    prior.zero_grad()
    prior.velocity(noisy, sigma, condition).square().sum().backward()
    assert condition.grad is not None
    grads = {name: each.grad for name, each in prior.prior_parameters().items() if each.grad is not None}
    return {**grads, "condition": condition.grad}


def test_checkpointing_changes_no_gradient_and_runs_each_layer_twice() -> None:
    prior, counted = tiny_prior().train(), Counted(SDPA())
    use_attention(prior, counted)
    assert not prior.checkpointing
    plain = gradients(prior)
    assert len(counted.asked) == 2 * prior.config.layers
    assert set(plain) == {*prior.prior_parameters(), "condition"}  # none is left without
    assert all(each.abs().max() > 0 for each in plain.values())
    counted.asked.clear()
    prior.checkpointing = True
    again = gradients(prior)
    assert prior.checkpointing
    assert len(counted.asked) == 4 * prior.config.layers
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    with torch.no_grad():
        counted.asked.clear()
        prior.velocity(*drawn(prior))
    assert len(counted.asked) == 2 * prior.config.layers


@pytest.mark.parametrize("checkpointing", [False, True])
def test_steps_can_be_counted_without_memory_and_checkpointing_holds_less(checkpointing: bool) -> None:
    with torch.device("meta"):
        prior = Prior(PriorConfig(condition=2048, layers=4)).to(torch.bfloat16)
        noisy, condition = torch.randn(2, 1792, 8, 8), torch.randn(2, 64, 2048)
        prior.checkpointing = checkpointing
        with Tracker("meta") as tracker:
            tracker.hold(prior.parameters())
            before = tracker.live
            loss = token_losses(prior.velocity(noisy, torch.rand(2), condition), noisy, noisy).mean()
            activations = tracker.live - before
            loss.backward()
            assert sample(prior, condition, noisy, steps=2).shape == noisy.shape
    assert all(each.grad is not None for each in prior.prior_parameters().values())
    # In bfloat16 tensors of (2, 64, 1792): those around the layers, and of a layer its input or some sixty.
    held = activations / (2 * 64 * 1792 * 2)
    assert held < 20 if checkpointing else held > 200


def test_diffusers_offers_no_checkpointing_for_this_model() -> None:
    """Why a layer has its own. Once this fails, diffusers' may do instead."""
    with pytest.raises(ValueError, match="does not support gradient checkpointing"):
        stock(tiny_prior()).dit.enable_gradient_checkpointing()


def test_autocast_trains_float32_weights_in_bfloat16() -> None:
    prior, kinds = tiny_prior(), set[torch.dtype]()

    class Seen(Counted):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
            kinds.update(part.dtype for part in (q, k, v))
            return super().attend(q, k, v, segments)

    use_attention(prior, Seen(SDPA()))
    exact = prior.velocity(*drawn(prior))
    kinds.clear()
    with torch.autocast("cpu", torch.bfloat16):
        out = prior.velocity(*drawn(prior))
    assert kinds == {torch.bfloat16}
    assert out.dtype == torch.float32
    assert (out - exact).square().mean() < 0.01 * exact.square().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_train_beside_frozen_layers_and_merge_into_them(dtype: torch.dtype) -> None:
    prior = tiny_prior().to(dtype).requires_grad_(False)
    names, inputs = list(prior.state_dict()), drawn(prior)
    before = prior.velocity(*inputs)
    parameters = lora.inject(prior, LORA_TARGETS, rank=2, alpha=4.0)
    assert len(parameters) == 2 * 10 * prior.config.layers
    assert {name for name, each in prior.named_parameters() if each.requires_grad} == set(parameters)
    assert torch.equal(prior.velocity(*inputs), before)
    prior.checkpointing = True
    optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
    for _ in range(2):  # the first moves one half of each pair only
        optimizer.zero_grad()
        prior.velocity(*inputs).square().mean().backward()
        assert all(each.grad is not None and each.dtype == torch.float32 for each in parameters.values())
        optimizer.step()
    with torch.no_grad():
        after = prior.velocity(*inputs)
        assert (after - before).abs().max() > 1e-2
        with lora.without(prior):
            assert torch.equal(prior.velocity(*inputs), before)
        lora.merge(prior)
        merged = prior.velocity(*inputs)
    assert list(prior.state_dict()) == names
    tolerance = 1e-8 if dtype == torch.float32 else 0.01
    assert (merged - after).square().mean() < tolerance * after.square().mean()


def test_a_copy_is_independent() -> None:
    prior = tiny_prior()
    twin = copy.deepcopy(prior)
    twin.checkpointing = True
    with torch.no_grad():
        twin.dit.layers[0].gate += 1
    assert not prior.checkpointing
    assert (twin.velocity(*drawn(prior)) - prior.velocity(*drawn(prior))).abs().max() > 1e-3


def test_scopes_are_the_dit_and_the_queries_if_asked_for() -> None:
    prior = tiny_prior()
    every = dict(prior.named_parameters())
    assert prior.prior_parameters(queries=True).keys() == every.keys()
    assert every.keys() - prior.prior_parameters().keys() == {"latent_queries"}
    assert not any("pad_token" in name for name in every)
    assert all(prior.prior_parameters()[name] is every[name] for name in prior.prior_parameters())
