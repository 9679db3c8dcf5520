"""The adapter contract on a BAGEL with random weights."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from srum_bagel import adapter as adapter_module
from srum_bagel import autoencoder as autoencoder_module
from srum_bagel import options
from srum_bagel.adapter import BagelAdapter, FlowPrediction, packed_tokens
from srum_bagel.autoencoder import patchify, unpatchify
from srum_bagel.checkpoint import CONFIG, WEIGHTS, load_model
from srum_bagel.choices import within
from srum_bagel.mot import Cache
from srum_bagel.options import Sampling, Scope, Thinking, Training
from srum_bagel.packing import Piece, PieceKind
from srum_bagel.sampler import guide, sample, schedule
from srum_bagel.understanding import greedy
from srum_shapes.adapter import build as build_shapes
from srum_shapes.options import AdapterOptions
from srum_shapes.prompts import prompt_list
from srum_shapes.world import render, sample_scene
from tiny_bagel import tiny_adapter

from srum_plugins.contracts import Draws, GenerationRequest, Question
from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.records import Box, Prompt

PROMPTS = prompt_list(8, 0, "train")
HALF = Training(checkpointing=False)
SAMPLING = Sampling(points=4, guidance=3.0, interval=(0.4, 1.0), shift=2.0, renorm="global")


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(render(sample_scene(rng), rng)) for _ in range(count)]


def test_a_candidate_does_not_depend_on_its_batch() -> None:
    adapter = tiny_adapter()
    requests = [GenerationRequest(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    together = adapter.generate(requests, SAMPLING)
    alone = adapter.generate(requests[3:4], SAMPLING)
    again = adapter.generate(requests, SAMPLING)
    difference = np.abs(np.asarray(together[3].image, int) - np.asarray(alone[0].image, int))
    assert difference.max() <= 1  # float32 sums in another order, then rounding to uint8
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(together, again, strict=True))
    assert together[0].image.tobytes() != together[1].image.tobytes()


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 3), st.sampled_from([(32, 32), (16, 32), (24, 8)])),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["global", "channel", "text_channel", "none"]),
    st.data(),
)
def test_any_grouping_gives_the_same_latents(
    wanted: list[tuple[int, int, tuple[int, int]]], renorm: str, data: st.DataObject
) -> None:
    adapter = tiny_adapter()
    sampling = dataclasses.replace(SAMPLING, renorm=renorm)
    requests = [GenerationRequest(PROMPTS[prompt], seed, *size) for prompt, seed, size in wanted]
    groups = [data.draw(st.integers(0, 2), label="group") for _ in requests]
    whole = dict(enumerate(adapter.latents(requests, sampling)))
    for group in set(groups):
        members = [index for index, one in enumerate(groups) if one == group]
        for index, latents in zip(members, adapter.latents([requests[m] for m in members], sampling), strict=True):
            torch.testing.assert_close(latents, whole[index], atol=1e-5, rtol=0)


THINKING = Thinking(**dataclasses.asdict(SAMPLING), think=True, think_prompt="how many objects ?", think_tokens=5)


def test_a_plan_is_written_and_drawn_from() -> None:
    adapter = tiny_adapter()
    model, encode = adapter.model, adapter.dialect.encode
    requests = [GenerationRequest(prompt, seed) for seed, prompt in enumerate(PROMPTS[:3])]
    drawn = adapter.generate(requests, THINKING)
    plain = adapter.generate(requests, SAMPLING)
    for request, one, other in zip(requests, drawn, plain, strict=True):
        system, prompt = (model.text(encode(text)) for text in (THINKING.think_prompt, request.prompt.text))
        (written,) = greedy(model, model.prefill([[system, prompt]], None), 5)
        assert one.plan == adapter.dialect.decode(written) and other.plan is None
        # The whole conversation conditions, the system prompt alone is what guidance goes away from.
        plan = model.text(encode(one.plan))
        context, away = model.prefill([[system, prompt, plan]], None), model.prefill([[system]], None)
        noise = torch.randn(1, 64, 48, generator=torch.Generator().manual_seed(request.seed))
        tokens = sample(model, context, away, noise, (8, 8), THINKING)
        (latents,) = adapter.latents([request], THINKING, [one.plan])
        torch.testing.assert_close(latents, unpatchify(tokens, 4, 8, 8)[0], atol=1e-5, rtol=0)
        assert one.image.tobytes() != other.image.tobytes()
    assert [one.plan for one in drawn] == [adapter.generate([request], THINKING)[0].plan for request in requests]


def test_image_guidance_with_a_plan_goes_away_from_the_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tiny_adapter()
    model = adapter.model
    guided = dataclasses.replace(THINKING, image_guidance=2.0)
    request = GenerationRequest(PROMPTS[0], 3)
    (latents,) = adapter.latents([request], guided, ["red circle"])
    texts = [model.text(adapter.dialect.encode(t)) for t in (guided.think_prompt, request.prompt.text, "red circle")]
    caches = [model.prefill([texts[:count]], None) for count in (3, 1, 2)]
    noise = torch.randn(1, 64, 48, generator=torch.Generator().manual_seed(3))
    tokens = sample(model, caches[0], caches[1], noise, (8, 8), guided, caches[2])
    torch.testing.assert_close(latents, unpatchify(tokens, 4, 8, 8)[0], atol=1e-5, rtol=0)


def test_images_are_drawn_and_encoded_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of large images would not fit in memory at once; what comes out does not tell how it was cut."""
    adapter = build_shapes(AdapterOptions(), "cpu")
    requests = [GenerationRequest(prompt, seed) for seed, prompt in enumerate(PROMPTS[:5])]
    images = [one.image for one in adapter.generate(requests, SAMPLING)]
    latents = adapter.encode(images)
    rows: list[int] = []
    shown = adapter.autoencoder.model
    decode, encode, denoise = shown.decode, shown.encode, adapter.model.denoise
    monkeypatch.setattr(shown, "decode", lambda part: rows.append(len(part)) or decode(part))
    monkeypatch.setattr(shown, "encode", lambda part: rows.append(len(part)) or encode(part))
    monkeypatch.setattr(adapter_module, "TOKENS_PER_CALL", 2 * 64)
    monkeypatch.setattr(autoencoder_module, "PIXELS_PER_CALL", 3 * 32 * 32)
    again = [one.image for one in adapter.generate(requests, SAMPLING)]
    assert rows == [3, 2]
    torch.testing.assert_close(adapter.encode(images), latents, atol=1e-4, rtol=0)
    assert rows == [3, 2, 3, 2]
    steps: list[int] = []
    monkeypatch.setattr(
        adapter.model, "denoise", lambda block, *given: steps.append(len(given[1])) or denoise(block, *given)
    )
    adapter.latents(requests, dataclasses.replace(SAMPLING, guidance=1.0, points=2))
    assert steps == [2, 2, 1]
    for one, other in zip(images, again, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    adapter = tiny_adapter()
    room = adapter.config.llm.max_position_embeddings - 1
    long = GenerationRequest(Prompt("p9", " ".join(["red"] * (room - 1))), 0)
    with pytest.raises(ContractError, match=f"'p9' takes {room + 1} positions of the model's {room}: shorten it"):
        adapter.generate([long], SAMPLING)
    with pytest.raises(ContractError, match="or think_tokens, of which its plan may take"):
        adapter.generate([GenerationRequest(PROMPTS[0], 0)], dataclasses.replace(THINKING, think_tokens=room))


@given(st.integers(0, 1000), st.floats(1.1, 8.0), st.floats(1.0, 4.0), st.floats(0.0, 1.0))
def test_renormed_guidance_is_never_longer_than_the_conditional(
    seed: int, guidance: float, image_guidance: float, least: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    conditional, unconditional, text_only = (torch.randn(2, 5, 3, generator=generator) for _ in range(3))

    def guided(renorm: str, images: float = image_guidance) -> torch.Tensor:
        sampling = Sampling(guidance=guidance, image_guidance=images, renorm=renorm, renorm_min=least)
        return guide(conditional, unconditional, text_only, sampling)

    plain = guided("none")
    for renorm, dims in (("global", (1, 2)), ("channel", (2,))):
        found = guided(renorm)
        factor = found.norm(dim=dims) / plain.norm(dim=dims)
        assert bool(((factor > least - 1e-4) & (factor < 1 + 1e-4)).all())
        longest = conditional.norm(dim=dims).maximum(least * plain.norm(dim=dims))
        assert bool((found.norm(dim=dims) <= longest * (1 + 1e-4)).all())
    # Before image guidance acts: without it the same as `channel`, and what it makes of that is not renormed.
    torch.testing.assert_close(guided("text_channel", 1.0), guided("channel", 1.0))
    expected = text_only + image_guidance * (guided("channel", 1.0) - text_only)
    if image_guidance > 1:
        torch.testing.assert_close(guided("text_channel"), expected)


def test_guidance_away_from_nothing_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_adapter().model
    rows: list[int] = []
    denoise = model.denoise
    monkeypatch.setattr(model, "denoise", lambda *given: rows.append(len(given[2])) or denoise(*given))
    noise, empty = torch.zeros(2, 64, 48), model.empty_cache(2)
    guided = dataclasses.replace(SAMPLING, interval=(0.0, 1.0))
    sample(model, empty, empty, noise, (8, 8), guided)
    assert rows == [2, 2, 2]
    rows.clear()
    sample(model, model.prefill([[model.text([5])]] * 2, None), empty, noise, (8, 8), guided)
    assert rows == [4, 4, 4]


def test_guidance_of_one_is_the_conditional_model() -> None:
    adapter = tiny_adapter()
    requests = [GenerationRequest(PROMPTS[0], 5)]
    plain = adapter.generate(requests, dataclasses.replace(SAMPLING, guidance=1.0))
    unused = adapter.generate(requests, dataclasses.replace(SAMPLING, guidance=9.0, interval=(1.0, 1.0)))
    assert plain[0].image.tobytes() == unused[0].image.tobytes()


@given(st.integers(2, 60), st.floats(0.2, 8.0))
def test_schedule_falls_from_noise_to_data(points: int, shift: float) -> None:
    times = schedule(points, shift)
    assert times[0] == 1.0 and times[-1] == 0.0
    assert all(now > after for now, after in pairwise(times))


def test_choices_are_normalised_and_do_not_see_each_other() -> None:
    adapter = tiny_adapter()
    first, second = pictures(2)
    questions = [
        Question(first, "is there a red circle ?", ("yes", "no")),
        Question(second, "how many objects ?", ("one", "two", "three", "four")),
        Question(first, "is this a blue square ?", ("no", "yes"), Box(3, 4, 12, 13)),
        Question(first, "find red circle", ("none", "<1> <2> <3> <4>")),
    ]
    together = adapter.choice_logprobs(questions)
    for question, row in zip(questions, together, strict=True):
        assert len(row) == len(question.choices)
        assert sum(np.exp(row)) == pytest.approx(1.0, abs=1e-5)
        assert adapter.choice_logprobs([question])[0] == pytest.approx(row, abs=1e-4)


@pytest.mark.parametrize(("setting", "most"), [("HEAD_ROWS", 1), ("HEAD_ROWS", 7), ("TOKENS", 1), ("TOKENS", 250)])
def test_choices_do_not_depend_on_how_much_is_done_at_a_time(
    setting: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, (first, second) = tiny_adapter(), pictures(2)
    questions = [
        Question(image, text, choices)
        for image in (first, second, None)
        for text, choices in (
            ("is there a red circle ?", ("yes", "no")),
            ("find red circle", ("none", "<1> <2> <3> <4>", "<5> <6> <7> <8>")),
            ("how many objects ?", ("one", "two", "three")),
        )
    ]
    whole = adapter.choice_logprobs(questions)
    monkeypatch.setattr(f"srum_bagel.choices.{setting}", most)
    for found, row in zip(adapter.choice_logprobs(questions), whole, strict=True):
        assert found == pytest.approx(row, abs=1e-5)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 20))
def test_neighbours_are_put_together_up_to_a_limit(sizes: list[int], limit: int) -> None:
    parts = list(within(sizes, limit))
    assert [index for part in parts for index in part] == list(range(len(sizes)))
    totals = [sum(sizes[index] for index in part) for part in parts]
    assert all(total <= limit or len(part) == 1 for total, part in zip(totals, parts, strict=True))
    assert all(total + sizes[after.start] > limit for total, after in zip(totals, parts[1:], strict=False))


@torch.no_grad()
def test_states_that_are_not_wanted_are_left_out_and_change_no_other() -> None:
    model = tiny_adapter().model
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    vision = model.vision_tokens(pixels).flatten(0, 1)
    texts = [model.text([5, 6, 7]), model.text([8])]
    packed = model.pack([[Piece(PieceKind.VISION, count=len(vision) // 2), text] for text in texts])
    whole, _ = model.hidden(packed, vision, None)
    rows = torch.tensor([3, 0, packed.und_tokens - 1])
    some, _ = model.hidden(packed, vision, None, rows)
    assert some.shape == (3, whole.shape[1])
    torch.testing.assert_close(some, whole[rows])


def test_long_choices_are_scored_with_their_end() -> None:
    adapter = tiny_adapter()
    (image,) = pictures(1)
    asked = "find red circle"
    ids = adapter.dialect.encode(asked)
    log = []
    for answer in ("none", "<1> <2> <3> <4>"):
        vision = adapter.model.vision_tokens(adapter.preparation.seen(image))
        pieces = [adapter.model.text(ids)]
        context = adapter.model.prefill([[Piece(PieceKind.VISION, count=vision.shape[1]), *pieces]], vision[0])
        total, token = 0.0, adapter.config.tokens.bos
        for wanted in [*adapter.dialect.encode(answer), adapter.config.tokens.eos]:
            logits, context = adapter.model.next_logits(torch.tensor([token]), context)
            total += float(torch.log_softmax(logits[0], 0)[wanted])
            token = wanted
        log.append(total)
    expected = torch.log_softmax(torch.tensor(log), 0).tolist()
    found = adapter.choice_logprobs([Question(image, asked, ("none", "<1> <2> <3> <4>"))])[0]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("choices", [(), ("yes", "")])
def test_questions_without_choices_are_refused(choices: tuple[str, ...]) -> None:
    with pytest.raises(ContractError, match="'how many objects \\?' needs choices"):
        tiny_adapter().choice_logprobs([Question(pictures(1)[0], "how many objects ?", choices)])


@pytest.mark.parametrize("setting", [{"points": 1}, {"shift": 0.0}, {"interval": (1.0, 0.4)}, {"renorm_min": 1.5}])
def test_impossible_sampling_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} must"):
        Sampling(**setting)


def test_answers_do_not_depend_on_their_batch() -> None:
    adapter = tiny_adapter()
    texts = ("how many objects ?", "find red circle", "is there a blue square ?")  # of different lengths
    questions = [Question(image, texts[number % 3]) for number, image in enumerate(pictures(5))]
    together = adapter.answer(questions)
    assert together == [adapter.answer([question])[0] for question in questions]
    assert all(len(answer.text.split()) <= adapter.dialect.longest_answer for answer in together)


def test_questions_about_one_image_share_one_reading_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tiny_adapter()
    first, second = pictures(2)
    texts = ("how many objects ?", "find red circle", "is there a blue square ?")
    questions = [*(Question(first, text) for text in texts), Question(second, texts[1]), Question(first, texts[0])]
    alone = [adapter.answer([question])[0] for question in questions]
    monkeypatch.setattr(adapter, "images_per_call", 2)
    seen: list[int] = []
    read: list[int] = []
    tower, language = adapter.model.vit_model.forward, adapter.model.language_model.model.forward
    monkeypatch.setattr(adapter.model.vit_model, "forward", lambda pixels: seen.append(len(pixels)) or tower(pixels))

    def forward(und: torch.Tensor, *rest: Any, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        read.append(len(und))
        return language(und, *rest, **more)

    monkeypatch.setattr(adapter.model.language_model.model, "forward", forward)
    assert adapter.answer(questions) == alone
    assert seen == [2]
    patches = (adapter.config.vit.image_size // adapter.config.vit.patch_size) ** 2
    # Both images once, then questions by twos; answers are written token by token.
    assert read[0] == 2 * (patches + 2) and max(read[1:]) <= 2 * (2 + max(len(text.split()) for text in texts))


def test_images_of_another_size_are_refused() -> None:
    adapter = tiny_adapter()
    with pytest.raises(ContractError, match="reads images of"):
        adapter.encode([Image.new("RGB", (40, 32))])
    with pytest.raises(ContractError, match="multiples of 4"):
        adapter.token_grid(30, 32)


def test_a_painted_patch_reaches_its_token_only() -> None:
    adapter = tiny_adapter()
    image = np.full((32, 32, 3), 200, np.uint8)
    painted = image.copy()
    painted[8:12, 20:24] = 0  # row 2, column 5 of the 8 x 8 grid
    latents = adapter.encode([Image.fromarray(image), Image.fromarray(painted)])
    noise = packed_tokens(torch.zeros_like(latents[:1]), 4)
    losses = FlowPrediction(-packed_tokens(latents[:1], 4), noise, 4).token_losses(latents[1:])
    assert torch.nonzero(losses.reshape(8, 8)).tolist() == [[2, 5]]


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_a_perfect_velocity_has_no_loss(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents = [torch.randn(3, *size, generator=generator) for size in ((32, 32), (8, 16))]
    noise = torch.randn(64 + 8, 48, generator=generator)
    perfect = FlowPrediction(noise - packed_tokens(latents, 4), noise, 4)
    assert torch.equal(perfect.token_losses(latents), torch.zeros(64 + 8))
    wrong_sign = FlowPrediction(packed_tokens(latents, 4) - noise, noise, 4)
    assert float(wrong_sign.token_losses(latents).min()) > 0


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_patchify_is_inverted(patch: int, height: int, width: int, channels: int) -> None:
    latents = torch.randn(2, channels, height * patch, width * patch)
    assert torch.equal(unpatchify(patchify(latents, patch), patch, height, width), latents)


def train_a_little(adapter: BagelAdapter, parameters: dict[str, torch.nn.Parameter]) -> None:
    latents = adapter.encode(pictures(3))
    draws = adapter.draw(latents, torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    for _ in range(2):
        loss = adapter.predict(PROMPTS[:3], latents, draws).token_losses(latents).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_training_moves_the_generation_half_only() -> None:
    adapter = tiny_adapter()
    before = {name: tensor.clone() for name, tensor in adapter.model.state_dict().items()}
    digest = adapter.understanding_digest()
    parameters = adapter.start_training(HALF, base=True)
    train_a_little(adapter, parameters)
    moved = {name for name, tensor in adapter.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and moved <= set(parameters)
    assert adapter.understanding_digest() == digest


def test_base_predictions_stay_when_weights_move() -> None:
    adapter = tiny_adapter()
    latents = adapter.encode(pictures(2))
    draws = adapter.draw(latents, torch.Generator().manual_seed(0))
    parameters = adapter.start_training(HALF, base=True)
    before = adapter.predict(PROMPTS[:2], latents, draws).velocity.detach()
    train_a_little(adapter, parameters)
    base = adapter.predict(PROMPTS[:2], latents, draws, base=True)
    assert torch.equal(base.velocity, before) and not base.velocity.requires_grad
    now = adapter.predict(PROMPTS[:2], latents, draws)
    assert float(now.token_distance(base).detach().max()) > 0


def test_a_base_that_was_not_kept_is_no_base() -> None:
    adapter = tiny_adapter()
    adapter.start_training(HALF, base=False)
    latents = adapter.encode(pictures(2))
    with pytest.raises(ContractError, match="kept none"):
        adapter.predict(PROMPTS[:2], latents, adapter.draw(latents, torch.Generator()), base=True)


def test_dropped_text_does_not_matter() -> None:
    adapter = tiny_adapter()
    latents = adapter.encode(pictures(2))
    draws = dataclasses.replace(
        adapter.draw(latents, torch.Generator().manual_seed(0)), drop=torch.tensor([True, False])
    )
    other = [Prompt("x", "a red circle"), *PROMPTS[1:2]]
    first, second = adapter.predict(PROMPTS[:2], latents, draws), adapter.predict(other, latents, draws)
    torch.testing.assert_close(first.velocity, second.velocity, atol=1e-5, rtol=0)


def test_whole_sequences_and_cached_contexts_agree() -> None:
    """Pretraining runs text and latents in one call; training and sampling feed latents to a text read before."""
    adapter = tiny_adapter()
    model, latents = adapter.model, adapter.encode(pictures(2))
    time, drop = torch.tensor([0.7, 0.2]), torch.tensor([False, True])
    draws = Draws(time, torch.randn(latents.shape, generator=torch.Generator().manual_seed(3)), drop)
    texts = [[model.text(adapter.dialect.encode(PROMPTS[0].text))], []]
    packed = model.pack([[*text, Piece(PieceKind.LATENT, count=64, noised=True)] for text in texts])
    share = time[:, None, None, None]
    noisy = patchify((1 - share) * latents + share * draws.noise, 4)
    ids = model.latent_ids(8, 8).repeat(2)
    whole = model.velocity(packed, noisy.flatten(0, 1), time.repeat_interleave(64), ids).reshape(2, 64, -1)
    trained = adapter.predict(PROMPTS[:2], latents, draws).velocity
    torch.testing.assert_close(trained.reshape(whole.shape), whole, atol=1e-5, rtol=0)
    context = model.prefill(texts, None)
    grids = [(8, 8)] * 2
    behind = model.denoise(model.denoising_block(context, grids), noisy.flatten(0, 1), time)
    torch.testing.assert_close(behind.reshape(whole.shape), whole, atol=1e-5, rtol=0)
    with torch.no_grad():
        block = model.in_room(context, grids, model.denoising_room(context, grids))
        for _ in range(2):  # a room can be used again
            sampled = model.denoise(block, noisy.flatten(0, 1), time)
            assert torch.equal(sampled, behind)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.sampled_from([(32, 32), (16, 32), (24, 8)]), min_size=1, max_size=4),
    st.sampled_from(["generation", "all"]),
)
def test_images_of_several_sizes_train_in_one_forward_as_they_would_alone(
    sizes: list[tuple[int, int]], scope: Scope
) -> None:
    adapter = tiny_adapter()
    parameters = adapter.start_training(Training(scope, checkpointing=False), base=False)
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(3, *size, generator=generator) for size in sizes]
    draws = adapter.draw(latents, generator)
    prompts = PROMPTS[: len(sizes)]

    def gradients(losses: torch.Tensor) -> list[torch.Tensor | None]:
        adapter.model.zero_grad()
        losses.sum().backward()
        return [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters.values()]

    together = adapter.predict(prompts, latents, draws).token_losses(latents)
    alone = torch.cat(
        [
            adapter.predict(
                prompts[i : i + 1], latents[i : i + 1], Draws(*(part[i : i + 1] for part in vars(draws).values()))
            ).token_losses(latents[i : i + 1])
            for i in range(len(sizes))
        ]
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    for one, other in zip(gradients(together), gradients(alone), strict=True):
        if one is not None or other is not None:
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_all_of_what_draws_can_be_trained() -> None:
    adapter = tiny_adapter()
    parameters = adapter.start_training(Training("all"), base=True)
    assert set(adapter.model.generation_parameters()) < set(parameters)
    latents = adapter.encode(pictures(2))
    draws = dataclasses.replace(adapter.draw(latents, torch.Generator()), drop=torch.tensor([False, False]))
    before = adapter.predict(PROMPTS[:2], latents, draws)
    before.token_losses(latents).mean().backward()
    without = {name for name, parameter in parameters.items() if parameter.grad is None}
    last = "language_model.model.layers.1."  # whose keys and values are the last that latents see of the text
    after = ("self_attn.o_proj.", "post_attention_layernorm.", "mlp.")
    assert without == {"language_model.model.norm.weight"} | {
        name for name in parameters if name.startswith(tuple(last + part for part in after))
    }
    assert all(parameter.grad is None for name, parameter in adapter.model.named_parameters() if name not in parameters)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.01)
    base = adapter.predict(PROMPTS[:2], latents, draws, base=True)
    torch.testing.assert_close(base.velocity, before.velocity.detach(), atol=1e-6, rtol=0)
    assert not torch.allclose(adapter.predict(PROMPTS[:2], latents, draws).velocity, base.velocity, atol=1e-3)


@pytest.mark.parametrize("scope", ["generation", "all"])
def test_checkpointing_changes_no_gradient(scope: Scope) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        adapter = tiny_adapter()
        parameters = adapter.start_training(Training(scope, checkpointing=checkpointing), base=True)
        latents = adapter.encode(pictures(2))
        seen: list[object] = []
        layer = adapter.model.language_model.model.layers[0]
        layer.mlp_moe_gen.register_forward_pre_hook(lambda *call, seen=seen: seen.append(call))
        adapter.predict(PROMPTS[:2], latents, adapter.draw(latents, torch.Generator().manual_seed(1))).token_losses(
            latents
        ).mean().backward()
        calls.append(len(seen))
        gradients.append({name: parameter.grad for name, parameter in parameters.items()})
    assert calls == [1, 2]  # once more in the backward pass
    for name, gradient in gradients[0].items():
        assert gradient is gradients[1][name] is None or torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("scope", ["generation", "all"])
def test_low_rank_adapters_are_trained_and_merged(scope: Scope, tmp_path: Path) -> None:
    adapter = tiny_adapter()
    names, digest = set(adapter.model.state_dict()), adapter.understanding_digest()
    latents = adapter.encode(pictures(2))
    draws = dataclasses.replace(adapter.draw(latents, torch.Generator()), drop=torch.tensor([False, True]))
    before = adapter.predict(PROMPTS[:2], latents, draws).velocity.detach()
    parameters = adapter.start_training(Training(scope, lora_rank=2), base=True)
    experts = {"_moe_gen" in name for name in parameters}
    assert parameters and all(".lora_" in name for name in parameters)
    assert experts == ({True} if scope == "generation" else {True, False})
    torch.testing.assert_close(adapter.predict(PROMPTS[:2], latents, draws).velocity, before)
    train_a_little(adapter, parameters)
    base, after = (adapter.predict(PROMPTS[:2], latents, draws, base=base).velocity for base in (True, False))
    torch.testing.assert_close(base, before)
    assert not torch.allclose(after, before, atol=1e-4)
    adapter.save(tmp_path)
    assert set(adapter.model.state_dict()) == names
    fresh = tiny_adapter(seed=1)
    fresh.load_trained(tmp_path)
    torch.testing.assert_close(fresh.predict(PROMPTS[:2], latents, draws).velocity, after, atol=1e-5, rtol=0)
    assert (fresh.understanding_digest() == digest) == (scope == "generation")


def test_low_rank_adapters_that_cannot_be_made_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ({"lora_rank": -1}, {"lora_alpha": 0.0}, {"lora_alpha": float("nan")}):
        with pytest.raises(ValueError, match=f"^{next(iter(setting))} must"):
            Training(**setting)
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    Training()
    with pytest.raises(ValueError, match=r"lora_rank needs peft, not installed: pip install 'srum-plugins\[bagel\]'"):
        Training(lora_rank=4)


def test_low_rank_adapters_of_bfloat16_weights_are_float32() -> None:
    adapter = tiny_adapter()
    adapter.model.to(torch.bfloat16)
    parameters = adapter.start_training(Training(lora_rank=2), base=True)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    latents = adapter.encode(pictures(2))
    prediction = adapter.predict(PROMPTS[:2], latents, adapter.draw(latents, torch.Generator()))
    prediction.token_losses(latents).mean().backward()
    assert all(parameter.grad is not None for parameter in parameters.values())


def test_training_keeps_nothing_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The understanding half reads the prompt without a graph: what it computes is freed at once."""
    adapter = tiny_adapter()
    adapter.start_training(HALF, base=True)
    contexts: list[Cache] = []
    prefill = adapter.model.prefill
    monkeypatch.setattr(adapter.model, "prefill", lambda *given: contexts.append(prefill(*given)) or contexts[-1])
    latents = adapter.encode(pictures(2))
    draws = dataclasses.replace(adapter.draw(latents, torch.Generator()), drop=torch.tensor([False, False]))
    prediction = adapter.predict(PROMPTS[:2], latents, draws)
    (context,) = contexts
    assert context.entries > 0 and not any(part.requires_grad for part in (*context.keys, *context.values))
    prediction.token_losses(latents).mean().backward()
    moved = adapter.model.generation_parameters()
    assert all(parameter.grad is not None for name, parameter in moved.items())
    assert all(p.grad is None for name, p in adapter.model.named_parameters() if name not in moved)


def test_forwards_stay_on_the_device_of_the_model() -> None:
    """Tensors on ``meta`` hold no numbers, and like those of a GPU they do not mix with the CPU's."""
    adapter = tiny_adapter()
    model = adapter.model.to("meta")
    latents = adapter.encode(pictures(2))
    draws = dataclasses.replace(adapter.draw(latents, torch.Generator()), drop=torch.tensor([True, False]))
    adapter.start_training(HALF, base=True)
    prediction, base = (adapter.predict(PROMPTS[:2], latents, draws, base=base) for base in (False, True))
    (prediction.token_losses(latents) + prediction.token_distance(base)).mean().backward()
    with torch.no_grad():
        context = model.prefill([[model.text(adapter.dialect.encode(prompt.text))] for prompt in PROMPTS[:2]], None)
        tokens = sample(model, context, model.empty_cache(2), torch.zeros(2, 64, 48, device="meta"), (8, 8), SAMPLING)
        vision = adapter._see(pictures(2))
        image = Piece(PieceKind.VISION, count=len(vision[0]))
        context = model.prefill([[image], [image, model.text([5])]], torch.cat(vision))
        context = model.extend(context, [[model.text([5])], [], [model.text([5, 6])]], parents=[1, 1, 0])
        logits, context = model.next_logits(torch.ones(3, dtype=torch.long, device="meta"), context)
    assert {part.device.type for part in (latents, prediction.velocity, tokens, logits, *context.keys)} == {"meta"}


def test_save_and_load(tmp_path: Path) -> None:
    adapter, other = tiny_adapter(0), tiny_adapter(1)
    train_a_little(adapter, adapter.start_training(HALF, base=True))
    adapter.save(tmp_path)
    other.load_trained(tmp_path)
    loaded, _ = load_model(tmp_path, torch.device("cpu"))
    for name, tensor in adapter.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor)
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_model_of_another_config_is_not_loaded(tmp_path: Path) -> None:
    adapter = tiny_adapter()
    adapter.save(tmp_path)
    file = tmp_path / CONFIG
    text = file.read_text()
    file.write_text(text.replace('"timestep_shift": 3.0', '"timestep_shift": 2.0'))  # of the same tensors
    with pytest.raises(CheckpointError, match="another config"):
        adapter.load_trained(tmp_path)
    file.write_text(text.replace('"llm"', '"lm"'))
    with pytest.raises(CheckpointError, match=r"not a BAGEL config.*lm"):
        load_model(tmp_path, torch.device("cpu"))
    file.write_text(text[:-20])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path, torch.device("cpu"))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    adapter = tiny_adapter()
    adapter.save(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["vae2llm.weight"] = tensors["vae2llm.weight"][:, :5].contiguous()
    tensors["stranger"] = tensors.pop("llm2vae.bias")
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"3 problems.*llm2vae.bias is missing.*stranger is unexpected.*shape"):
        load_model(tmp_path, torch.device("cpu"))
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="cannot read weights"):
        load_model(tmp_path, torch.device("cpu"))
    with pytest.raises(CheckpointError, match=r"holds no bagel.json"):
        load_model(tmp_path / "nowhere", torch.device("cpu"))
