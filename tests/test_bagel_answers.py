"""Open answers: greedy or drawn, ended by the model, by a stop text or by the budget."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from srum_bagel.adapter import BagelAdapter
from srum_bagel.memory import weightless
from srum_bagel.understanding import write
from srum_shapes.adapter import ShapesDialect
from srum_shapes.world import SIDE, render, sample_scene
from tiny_bagel import tiny_adapter, tiny_config

from srum_plugins.contracts import Decoding, ModelAdapter, Question
from srum_plugins.decoding import draw, likeliest, nucleus, probabilities, sampled
from srum_plugins.errors import ContractError
from srum_plugins.memory.tracker import Tracker, ValueNeededError, fused_attention
from srum_plugins.records import Box, Failure, Region

WARM = Decoding(temperature=1.0, top_p=0.9)
TEXTS = ("how many objects ?", "find red circle", "is there a blue square ?")  # of different lengths

rows = st.integers(1, 5)
sizes = st.integers(1, 30)
seeds = st.integers(0, 2**32)
shares = st.floats(0.01, 1.0)


def logits_of(seed: int, batch: int, size: int, levels: int = 0) -> torch.Tensor:
    """Random logits, or of few levels, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(levels, (batch, size), generator=generator).float()
    return 3 * torch.randn(batch, size, generator=generator)


# --- the nucleus ------------------------------------------------------------------------------------------------------
@given(seeds, rows, sizes, st.integers(0, 3), shares)
def test_the_nucleus_is_the_smallest_set_of_enough_probability(
    seed: int, batch: int, size: int, levels: int, top_p: float
) -> None:
    full = probabilities(logits_of(seed, batch, size, levels), 1.0)
    kept = nucleus(full, top_p)
    for row, left in zip(full.tolist(), kept.tolist(), strict=True):
        chosen = [token for token, value in enumerate(left) if value > 0]
        assert [left[token] for token in chosen] == [row[token] for token in chosen]
        assert sum(row[token] for token in chosen) >= top_p - 1e-12
        # No set of fewer has as much, since it holds the likeliest; of equals the first are in it.
        order = sorted(range(size), key=lambda token: (-row[token], token))
        assert sorted(order[: len(chosen)]) == chosen
        assert sum(row[token] for token in order[: len(chosen) - 1]) < top_p + 1e-12


def test_the_border_of_a_nucleus() -> None:
    shares = torch.tensor([[0.125, 0.5, 0.25, 0.125]], dtype=torch.float64)
    for top_p, kept in ((0.5, [1]), (0.51, [1, 2]), (0.75, [1, 2]), (0.8, [0, 1, 2]), (0.9, [0, 1, 2, 3])):
        assert torch.nonzero(nucleus(shares, top_p)[0]).flatten().tolist() == kept


@given(seeds, rows, sizes)
def test_a_nucleus_of_one_is_everything(seed: int, batch: int, size: int) -> None:
    full = probabilities(40 * logits_of(seed, batch, size), 1.0)  # with shares that no sum notices
    assert torch.equal(nucleus(full, 1.0), full)


@given(seeds, rows, sizes, st.sampled_from([5e-324, 1e-300, 1e-9, 1e-3]), shares)
def test_a_temperature_near_zero_is_greedy(seed: int, batch: int, size: int, temperature: float, top_p: float) -> None:
    logits = logits_of(seed, batch, size)
    best = logits.topk(min(2, size)).values
    assume(bool((best[:, 0] - best[:, -1] > 0.05).all()) or size == 1)
    choose = sampled(Decoding(temperature, top_p), range(batch))
    assert torch.equal(choose(logits), likeliest(logits))


@given(seeds, rows, sizes)
def test_a_high_temperature_is_indifferent(seed: int, batch: int, size: int) -> None:
    even = torch.full((batch, size), 1 / size, dtype=torch.float64)
    torch.testing.assert_close(probabilities(logits_of(seed, batch, size), 1e9), even)


# --- drawing ----------------------------------------------------------------------------------------------------------
@given(st.lists(st.sampled_from([0.0, 0.0, 1e-18, 0.1, 1.0, 7.0]), min_size=1, max_size=12), st.floats(0, 1))
def test_a_draw_is_where_the_number_falls(weights: list[float], uniform: float) -> None:
    assume(any(weights))
    uniform = min(uniform, 1 - 2**-53)
    token = int(draw(torch.tensor([weights], dtype=torch.float64), torch.tensor([uniform], dtype=torch.float64)))
    assert weights[token] > 0
    below, whole = sum(weights[:token]), sum(weights)
    assert below - 1e-12 <= uniform * whole <= below + weights[token] + 1e-12


def test_the_borders_of_a_draw() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    for uniform, token in ((0.0, 1), (0.24, 1), (0.25, 3), (0.74, 3), (0.75, 4), (1 - 2**-53, 4)):
        assert draw(weights, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


@settings(max_examples=10)
@given(seeds, st.integers(2, 12), st.floats(0.3, 3.0), shares)
def test_tokens_are_drawn_as_often_as_their_share(seed: int, size: int, temperature: float, top_p: float) -> None:
    many = 40_000
    logits = logits_of(seed, 1, size)
    weights = nucleus(probabilities(logits, temperature), top_p)
    uniforms = torch.rand(many, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = torch.bincount(draw(weights.expand(many, -1), uniforms), minlength=size) / many
    expected = weights[0] / weights.sum()
    assert float((found - expected).abs().max()) < 6 * 0.5 / many**0.5  # six standard deviations at most
    assert not bool(found[expected == 0].any())


def test_drawn_first_tokens_follow_the_distribution() -> None:
    """Through the generators of rows too: 4000 rows of one set of logits, each with a seed of its own."""
    logits = logits_of(1, 1, 6)
    found = torch.bincount(sampled(Decoding(1.0), range(4000))(logits.expand(4000, -1)), minlength=6) / 4000
    assert float((found - probabilities(logits, 1.0)[0]).abs().max()) < 6 * 0.5 / 4000**0.5


@given(seeds, rows, sizes, shares, st.data())
def test_a_row_is_drawn_by_its_seed_and_logits_alone(
    seed: int, batch: int, size: int, top_p: float, data: st.DataObject
) -> None:
    logits = [logits_of(seed + step, batch, size) for step in range(4)]
    own = data.draw(st.lists(st.integers(0, 99), min_size=batch, max_size=batch))
    order = data.draw(st.permutations(range(batch)))
    decoding = Decoding(0.8, top_p)
    choose, other = sampled(decoding, own), sampled(decoding, [own[row] for row in order])
    for step in logits:
        assert choose(step)[order].tolist() == other(step[order]).tolist()


# --- the end of an answer ---------------------------------------------------------------------------------------------
class Scripted:
    """Stands for a model: row i says ``lines[i]``, then eos for ever. ``asked`` counts the calls."""

    device = torch.device("cpu")

    def __init__(self, lines: list[list[int]], size: int = 6, bos: int = 0, eos: int = 1) -> None:
        self.lines, self.size, self.asked = lines, size, 0
        self.config = SimpleNamespace(tokens=SimpleNamespace(bos=bos, eos=eos))

    def next_logits(self, ids: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]:
        tokens = self.config.tokens
        told = [[tokens.bos, *line, *[tokens.eos] * (self.asked + 1)] for line in self.lines]
        assert ids.tolist() == [line[self.asked] for line in told], "each row is fed what it said"
        self.asked += 1
        return torch.nn.functional.one_hot(torch.tensor([line[self.asked] for line in told]), self.size).float(), past


CONTEXT = SimpleNamespace(ends=torch.zeros(3))
lines = st.lists(st.lists(st.integers(2, 5), max_size=8), min_size=3, max_size=3)


@given(lines, st.integers(1, 10))
def test_rows_end_by_themselves_or_by_the_limit(said: list[list[int]], limit: int) -> None:
    model = Scripted(said)
    found = write(model, CONTEXT, limit, likeliest)
    assert [list(row.ids) for row in found] == [line[:limit] for line in said]
    assert [row.truncated for row in found] == [len(line) > limit for line in said]
    assert model.asked <= min(limit, max(map(len, said))) + 1


@given(lines, st.integers(1, 10), st.integers(2, 5))
def test_rows_end_with_the_token_that_stops_them(said: list[list[int]], limit: int, last: int) -> None:
    for row, line in zip(
        write(Scripted(said), CONTEXT, limit, likeliest, lambda ids: ids[-1] == last), said, strict=True
    ):
        whole = line[: line.index(last) + 1] if last in line else line
        assert list(row.ids) == whole[:limit]
        assert row.truncated == (len(whole) > limit)


letters = st.text("abc", max_size=12)
stops = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple)


@given(letters, stops)
def test_a_text_is_cut_before_its_first_stop(text: str, stop: tuple[str, ...]) -> None:
    decoding = Decoding(stop=stop)
    found = decoding.cut(text)
    assert text.startswith(found) and not any(each in found for each in stop)
    # Read letter by letter, it is cut as soon as a stop text is there, so that nobody need wait for the rest.
    read = next((text[:end] for end in range(len(text) + 1) if any(each in text[:end] for each in stop)), None)
    assert (found == text) == (read is None)
    if read is not None:
        assert read.removeprefix(found) in stop
        assert found == decoding.cut(read)


def test_of_stops_that_end_together_the_longest_is_cut() -> None:
    assert Decoding(stop=("c", "bc", "abcd")).cut("xabcd") == "xa"


@pytest.mark.parametrize(
    "setting",
    [
        *({"temperature": value} for value in (-0.1, float("nan"), float("inf"))),
        *({"top_p": value} for value in (0.0, -1.0, 1.1, float("nan"))),
        *({"max_tokens": value} for value in (0, -3)),
        *({"stop": value} for value in (("",), ("a", ""), "ab")),
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} must"):
        Decoding(**setting)


# --- a model's answers ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def adapter() -> BagelAdapter:
    return tiny_adapter()


def asked(seeds: list[int]) -> list[Question]:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(render(sample_scene(rng), rng)) for _ in seeds]
    return [
        Question(image, TEXTS[number % 3], box=Box(3, 4, 12, 13) if number % 2 else None, seed=seed)
        for number, (image, seed) in enumerate(zip(images, seeds, strict=True))
    ]


def test_drawn_answers_do_not_depend_on_their_batch(adapter: BagelAdapter) -> None:
    questions = asked([3, 1, 4, 1, 5])
    together = adapter.answer(questions, WARM)
    assert together == [adapter.answer([question], WARM)[0] for question in questions]
    assert together == adapter.answer(questions[::-1], WARM)[::-1]
    small = tiny_adapter()
    small.images_per_call = 2
    assert small.answer(questions, WARM) == together


def test_seeds_tell_drawn_answers_apart_and_greedy_ones_not(adapter: BagelAdapter) -> None:
    (question,) = asked([0])
    many = [dataclasses.replace(question, seed=seed) for seed in range(10)]
    assert len(set(adapter.answer(many, WARM))) == 10
    assert len(set(adapter.answer(many))) == 1
    assert adapter.answer(many) == adapter.answer(many, Decoding(1e-9)) == adapter.answer(many, Decoding(top_p=0.5))


@settings(max_examples=15, deadline=None)
@given(st.lists(seeds, min_size=1, max_size=3), st.integers(1, 30), st.integers(1, 30))
def test_a_smaller_budget_ends_the_same_answer_sooner(
    adapter: BagelAdapter, own: list[int], less: int, more: int
) -> None:
    less, more = sorted((less, more))
    short, long = (adapter.answer(asked(own), dataclasses.replace(WARM, max_tokens=budget)) for budget in (less, more))
    for one, other in zip(short, long, strict=True):
        words = other.text.split(" ") if other.text else []
        assert (one.text.split(" ") if one.text else []) == words[:less]
        assert one.truncated == (len(words) > less or other.truncated)


def test_answers_end_in_every_way(adapter: BagelAdapter) -> None:
    """So that the properties here speak of something: random weights do say eos now and then."""
    found = adapter.answer(asked(list(range(40))), dataclasses.replace(WARM, max_tokens=30))
    assert {answer.truncated for answer in found} == {True, False}
    default = adapter.answer(asked(list(range(40))), WARM)
    assert max(len(answer.text.split()) for answer in default) == adapter.dialect.longest_answer


@settings(max_examples=15, deadline=None)
@given(
    st.lists(seeds, min_size=1, max_size=3),
    st.integers(1, 30),
    st.lists(st.text("aeo <>1;", min_size=1, max_size=2), min_size=1, max_size=3),
)
def test_an_answer_is_cut_at_its_first_stop(
    adapter: BagelAdapter, own: list[int], budget: int, stop: list[str]
) -> None:
    plain = dataclasses.replace(WARM, max_tokens=budget)
    stopping = dataclasses.replace(plain, stop=tuple(stop))
    whole, cut = adapter.answer(asked(own), plain), adapter.answer(asked(own), stopping)
    for one, other in zip(whole, cut, strict=True):
        assert not any(text in other.text for text in stop)
        assert other.text == stopping.cut(one.text)
        assert other.truncated == (one.truncated and other.text == one.text)


def test_a_stop_text_saves_the_rest(adapter: BagelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    (question,) = asked([0])
    first = adapter.answer([question], dataclasses.replace(WARM, max_tokens=3))[0].text.split()[2]
    calls: list[int] = []
    step = adapter.model.next_logits
    monkeypatch.setattr(adapter.model, "next_logits", lambda *given: calls.append(1) or step(*given))
    (answer,) = adapter.answer([question], dataclasses.replace(WARM, stop=(first,)))
    assert len(calls) <= 3 and not answer.truncated


def test_an_answer_without_room_is_refused(adapter: BagelAdapter) -> None:
    (question,) = asked([0])
    room = adapter.config.llm.max_position_embeddings - 1
    most = room - len(adapter.dialect.encode(question.text)) - 3  # bos and eos around the question, bos again
    assert len(adapter.answer([question], Decoding(max_tokens=most))) == 1
    expected = (
        f"'{TEXTS[0][:-1]}\\?' with an answer of {most + 1} tokens takes {room + 1} positions of the model's {room}"
    )
    with pytest.raises(ContractError, match=expected):
        adapter.answer([question], Decoding(max_tokens=most + 1))


# --- boxes ------------------------------------------------------------------------------------------------------------
WHOLE = " ; ".join(["<1> <2> <3> <4>"] * 4)
"""As many words as the drawn world's longest answer."""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (WHOLE, [Region(Box(1, 2, 3, 4), "red circle")] * 4),
        (f"{WHOLE} ;", [Failure("truncated answer", f"cut off after 19 tokens: {WHOLE!r}")]),
        (f"{WHOLE[:15]} ;", [Failure("malformed boxes", "'<1> <2> <3> <4> ;' in '<1> <2> <3> <4> ;'")]),
    ],
)
def test_boxes_that_were_cut_off_are_a_failure(said: str, expected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what was written until then could be read as a whole."""
    model, (question,) = tiny_adapter(), asked([0])
    tokens = model.config.tokens
    scripted = Scripted([model.dialect.encode(said)], model.config.llm.vocab_size, tokens.bos, tokens.eos)
    monkeypatch.setattr(model.model, "next_logits", scripted.next_logits)
    assert model.locate([question.image], [("red circle",)]) == [expected]


def test_a_question_without_an_image_is_answered_from_its_text_alone() -> None:
    model = tiny_adapter()
    image = Image.new("RGB", model.size, (200, 10, 10))
    asked = [Question(None, TEXTS[0]), Question(image, TEXTS[0]), Question(None, TEXTS[1])]
    alone = [model.answer([question])[0] for question in asked]
    assert model.answer(asked) == alone
    chosen = [Question(question.image, question.text, ("yes", "red circle")) for question in asked]
    together = model.choice_logprobs(chosen)
    assert together[0] != together[1]
    for question, row in zip(chosen, together, strict=True):
        assert row == pytest.approx(model.choice_logprobs([question])[0], abs=1e-5)


def test_a_box_without_an_image_is_refused() -> None:
    with pytest.raises(ContractError, match=r"'how many objects \?' is about a box, and has no image"):
        Question(None, TEXTS[0], box=Box(3, 4, 12, 13))


@pytest.mark.parametrize("pictures", [0, 2])
def test_memory_is_estimated_of_questions_without_an_image_too(pictures: int) -> None:
    images = [Image.new("RGB", (SIDE, SIDE)) for _ in range(pictures)]
    asked = [Question(image, "is there a red circle ?", ("yes", "no")) for image in (None, *images, None)]

    def peaks(make: Callable[[], ModelAdapter]) -> list[int]:
        found = []
        with Tracker("cpu", "meta") as tracker, fused_attention():
            model = make()
            for work in (lambda: model.answer(asked), lambda: model.choice_logprobs(asked)):
                gc.collect()
                tracker.restart()
                with suppress(ValueNeededError):
                    work()
                found.append(tracker.peak)
        return found

    longest = ShapesDialect.longest_answer
    guessed = peaks(lambda: weightless(tiny_config(), torch.float32, (SIDE, SIDE), longest).model)
    real = peaks(tiny_adapter)
    assert guessed[1] == pytest.approx(real[1], rel=0.01)
    assert real[0] <= guessed[0] <= 1.2 * real[0]  # all but the last word of an answer is read at once
