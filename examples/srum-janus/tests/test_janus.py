"""Janus draws, answers and learns as its contract and transformers say."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from srum_janus.adapter import DRAWING, JanusAdapter, TokenPrediction
from srum_janus.chat import CONTROL, SYSTEM
from srum_janus.options import AdapterOptions, Sampling, Training
from srum_janus.released import build
from srum_janus.tiny import PLACEHOLDER
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GenerationConfig

from srum_plugins.contracts import Decoding, Draws, GenerationRequest, Question, TrainBatch
from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.records import Box, Prompt
from srum_plugins.rewards.objectives import Weighted, WeightedOptions

GREEDY = Sampling(temperature=0.0)
prompts = st.lists(st.text("abc <|>User", max_size=12), min_size=1, max_size=4)
few = settings(deadline=None, derandomize=True, max_examples=8)


def prompt(text: str) -> Prompt:
    return Prompt(text or "empty", text)


def drawn(janus: JanusAdapter, texts: Sequence[str], sampling: Sampling = GREEDY) -> list[Tensor]:
    found = janus.generate([GenerationRequest(prompt(text), seed) for seed, text in enumerate(texts)], sampling)
    return [one.latents for one in found if one.latents is not None]


def kept(janus: JanusAdapter, latents: Sequence[Tensor], seed: int = 0) -> Draws:
    """Draws that drop no prompt."""
    draws = janus.draw(latents, torch.Generator().manual_seed(seed))
    return Draws(draws.timestep, draws.noise, torch.zeros_like(draws.drop))


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(array)


# --- the words --------------------------------------------------------------------------------------------------------
def test_chats_are_those_of_the_release(janus: JanusAdapter, tiny: Path) -> None:
    """As transformers' template writes them, with control tokens in the text taken for what they are."""
    whole = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    start, chat = CONTROL["start"], janus.chat
    assert chat.drawing("a cat ") == whole.encode(f"{start}<|User|>: a cat\n\n<|Assistant|>:<begin_of_image>").ids
    asked = f"{start}{SYSTEM}<|User|>: <begin_of_image>{PLACEHOLDER}<end_of_image>\nwhy?\n\n<|Assistant|>:"
    image = [whole.token_to_id(PLACEHOLDER)]
    assert [*chat.looking(), *image, *chat.asking("why?")] == whole.encode(asked).ids
    assert chat.asking_alone("why?") == whole.encode(f"{start}{SYSTEM}<|User|>: why?\n\n<|Assistant|>:").ids
    assert chat.answering("yes") == whole.encode(f" yes{CONTROL['end']}").ids


@given(text=st.text("a é猫\n<|>:", max_size=30) | st.sampled_from(list(CONTROL.values())))
@few
def test_a_text_says_what_it_says_and_controls_nothing(janus: JanusAdapter, text: str) -> None:
    ids = janus.chat.encode(text)
    assert not set(ids) & set(janus.chat.ids.values())
    assert janus.chat.decode(janus.chat.encode(f" {text}")) == text


# --- drawing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("guidance", [2.0, 5.0])
def test_it_draws_the_tokens_that_transformers_draws(janus: JanusAdapter, guidance: float) -> None:
    ids = janus.chat.ids
    config = GenerationConfig(
        do_sample=False,
        guidance_scale=guidance,
        max_length=200,
        pad_token_id=ids["pad"],
        bos_token_id=ids["start"],
        generation_kwargs={"boi_token_id": ids["image_start"]},
    )
    texts = ["a red circle", "a blue cross", "three cats"]
    for text, own in zip(texts, drawn(janus, texts, Sampling(guidance, temperature=0.0)), strict=True):
        asked = torch.tensor([janus.chat.drawing(text)])
        theirs = janus.network.janus.generate(
            asked, attention_mask=torch.ones_like(asked), generation_mode="image", generation_config=config
        )
        assert own.flatten().tolist() == theirs.flatten().tolist()


@given(texts=prompts)
@few
def test_teacher_forcing_finds_again_what_was_drawn(janus: JanusAdapter, texts: list[str]) -> None:
    """Without guidance the likeliest token is the one with the least cross-entropy, whatever stands beside it."""
    latents = drawn(janus, texts, Sampling(1.0, temperature=0.0))
    with torch.no_grad():
        prediction = janus.predict([prompt(text) for text in texts], latents, kept(janus, latents))
    assert torch.equal(prediction.logits.argmax(dim=-1).float(), torch.stack(latents).flatten(1))
    shares = prediction.logits.double().softmax(dim=-1).amax(dim=-1).flatten()
    assert torch.allclose(prediction.token_losses(latents).double(), -shares.log(), atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_every_token_is_drawn_from_guided_logits(janus: JanusAdapter, guidance: float) -> None:
    """u + g (c - u) of the tokens so far, as teacher forcing has them."""
    asked = [janus.chat.drawing(text) for text in ("a red circle", "a sad circle")]
    away, seen = [janus.chat.undrawn(ids) for ids in asked], []

    def choose(logits: Tensor) -> Tensor:
        seen.append(logits)
        return (logits / 2).softmax(dim=-1).cumsum(dim=-1).gt(0.5).int().argmax(dim=-1)

    tokens = janus.network.drawn(asked, away, guidance, choose)
    with torch.no_grad():
        own, bare = janus.network(asked, tokens), janus.network(away, tokens)
    assert torch.allclose(torch.stack(seen, dim=1), bare + guidance * (own - bare), atol=1e-3)


def test_images_of_another_size_are_refused(janus: JanusAdapter) -> None:
    with pytest.raises(ContractError, match="images of 32 x 32 pixels, not 64 x 32"):
        janus.generate([GenerationRequest(prompt("a"), 0, width=64)], GREEDY)
    with pytest.raises(ContractError, match="not 8 x 8"):
        janus.encode([Image.new("RGB", (8, 8))])


def test_a_prompt_that_leaves_no_room_for_an_image_is_refused(janus: JanusAdapter) -> None:
    long = prompt("a " * 1200)
    with pytest.raises(ContractError, match=r"and an image of 16 tokens take \d+ positions of the model's 2048"):
        janus.generate([GenerationRequest(prompt("a"), 0), GenerationRequest(long, 1)], GREEDY)
    latents = drawn(janus, ["a"])
    with pytest.raises(ContractError, match="shorten it"):
        janus.predict([long], latents, kept(janus, latents))


# --- understanding ----------------------------------------------------------------------------------------------------
def _whole(janus: JanusAdapter, text: str) -> list[int]:
    """A question with placeholders for the image, as transformers' processor writes it."""
    image = [janus.network.janus.config.image_token_id] * 16
    return [*janus.chat.looking(), *image, *janus.chat.asking(text)]


def test_choices_have_the_log_probabilities_that_transformers_gives(janus: JanusAdapter) -> None:
    image, choices = picture(0), ("yes", "no", "not at all")
    pixels = janus.understanding._processor([image], return_tensors="pt")["pixel_values"]
    sums = []
    for choice in choices:
        asked, answer = _whole(janus, "is it red?"), janus.chat.answering(choice)
        with torch.no_grad():
            logits = janus.network.janus(torch.tensor([[*asked, *answer]]), pixel_values=pixels).logits[0]
        steps = logits[len(asked) - 1 : -1].double().log_softmax(dim=-1)
        sums.append(steps.gather(1, torch.tensor(answer)[:, None]).sum())
    wanted = torch.stack(sums).log_softmax(dim=0)
    (own,) = janus.choice_logprobs([Question(image, "is it red?", choices)])
    assert torch.allclose(torch.tensor(own, dtype=torch.float64), wanted, atol=1e-4)


def test_greedy_answers_are_those_of_transformers(janus: JanusAdapter) -> None:
    image, ids = picture(1), janus.chat.ids
    pixels = janus.understanding._processor([image], return_tensors="pt")["pixel_values"]
    asked = torch.tensor([_whole(janus, "what is it?")])
    config = GenerationConfig(do_sample=False, max_new_tokens=6, eos_token_id=ids["end"], pad_token_id=ids["pad"])
    theirs = janus.network.janus.generate(
        asked, attention_mask=torch.ones_like(asked), pixel_values=pixels, generation_config=config
    )
    (own,) = janus.answer([Question(image, "what is it?")], Decoding(max_tokens=6))
    assert own.text == janus.chat.decode(theirs[0, asked.shape[1] :].tolist())


def test_a_box_is_asked_about_as_the_pixels_that_it_touches(janus: JanusAdapter) -> None:
    image, choices = picture(2, (32, 24)), ("yes", "no")
    part = image.crop((3, 5, 20, 24))
    boxed = Question(image, "is it red?", choices, Box(3.7, 5.0, 19.2, 24.0))
    whole, cut, own = janus.choice_logprobs(
        [Question(image, "is it red?", choices), Question(part, "is it red?", choices), boxed]
    )
    assert own == pytest.approx(cut, abs=1e-4)
    assert own != pytest.approx(whole, abs=1e-3)


def test_questions_that_cannot_be_asked_are_refused(janus: JanusAdapter) -> None:
    with pytest.raises(ContractError, match="needs choices"):
        janus.choice_logprobs([Question(None, "well?", ("yes", " "))])
    with pytest.raises(ContractError, match="positions of the model's 2048"):
        janus.answer([Question(None, "long " * 500)])


# --- training ---------------------------------------------------------------------------------------------------------
def test_the_distance_is_the_divergence_from_the_other(janus: JanusAdapter) -> None:
    one, other = (torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    own, others = one.double().softmax(dim=-1), other.double().softmax(dim=-1)
    wanted = (own * (own / others).log()).sum(dim=-1).flatten()
    distance = TokenPrediction(one).token_distance(TokenPrediction(other))
    assert torch.allclose(distance.double(), wanted, atol=1e-5)
    assert float(TokenPrediction(one).token_distance(TokenPrediction(one)).abs().max()) == 0.0


def test_a_dropped_prompt_is_not_read(janus: JanusAdapter) -> None:
    latents = drawn(janus, ["a red circle"])
    draws = kept(janus, latents)
    dropped = Draws(draws.timestep, draws.noise, torch.ones(1, dtype=torch.bool))
    with torch.no_grad():
        red, sad = (janus.predict([prompt(f"a {word} circle")], latents, dropped).logits for word in ("red", "sad"))
        told = janus.predict([prompt("a red circle")], latents, draws).logits
    assert torch.equal(red, sad)
    assert not torch.allclose(red, told, atol=1e-2)


SCOPES = [Training(), Training(scope="head"), Training(lora_rank=2), Training(scope="head", lora_rank=3, lora_alpha=6)]


@pytest.mark.parametrize("training", SCOPES, ids=str)
def test_training_moves_what_it_says_and_understanding_stays_to_the_bit(
    fresh: JanusAdapter, options: AdapterOptions, training: Training, tmp_path: Path
) -> None:
    questions = [Question(picture(0), "is it red?", ("yes", "no")), Question(None, "well?", ("yes", "no"))]
    texts = ["a red circle", "cats"]
    latents, asked = drawn(fresh, texts), [prompt(text) for text in texts]
    draws = kept(fresh, latents)
    with torch.no_grad():
        before = fresh.predict(asked, latents, draws).logits
    told, digest = fresh.choice_logprobs(questions), fresh.understanding_digest()
    weights = {name: value.clone() for name, value in fresh.network.janus.state_dict().items()}

    moved = fresh.start_training(training, base=True)
    optimizer = torch.optim.AdamW(moved.values(), lr=0.02)
    for _ in range(3):
        loss = fresh.predict(asked, latents, draws).token_losses(latents).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = fresh.predict(asked, latents, draws)
        base = fresh.predict(asked, latents, draws, base=True)
    assert float(after.token_losses(latents).mean()) < float(base.token_losses(latents).mean())
    assert torch.equal(base.logits, before)
    assert float(after.token_distance(base).mean()) > 0

    state = {name.replace(".base_layer", ""): value for name, value in fresh.network.janus.state_dict().items()}
    changed = {name for name, value in weights.items() if not torch.equal(state[name], value)}
    head = {name for name in weights if name.startswith("model.generation_head.")}
    assert changed == (head if training.scope == "head" else {name for name in weights if name.startswith(DRAWING)})
    assert any(".lora_" in name for name in moved) == (training.lora_rank > 0)
    assert fresh.choice_logprobs(questions) == told
    assert fresh.understanding_digest() == digest

    fresh.save(tmp_path)
    again = build(options, "cpu")
    again.load_trained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.predict(asked, latents, draws).logits, after.logits)
    assert again.choice_logprobs(questions) == told
    assert again.understanding_digest() == digest
    assert not torch.equal(torch.stack(drawn(again, texts)), torch.stack(latents)) or training.scope == "head"


def test_the_base_of_a_trained_janus_has_what_it_was_trained_to(
    fresh: JanusAdapter, options: AdapterOptions, tmp_path: Path
) -> None:
    for value in fresh.start_training(Training(lora_rank=2), base=False).values():
        value.data += 0.1
    fresh.save(tmp_path)
    trained = build(options, "cpu")
    trained.load_trained(tmp_path)
    latents = drawn(trained, ["a cat"])
    draws = kept(trained, latents)

    def logits(base: bool) -> Tensor:
        with torch.no_grad():
            return trained.predict([prompt("a cat")], latents, draws, base=base).logits

    before = logits(base=False)
    moved = trained.start_training(Training(lora_rank=2), base=True)
    for value in moved.values():
        value.data += 0.1
    assert torch.equal(logits(base=True), before)
    assert not torch.equal(logits(base=False), before)


def test_a_base_that_was_not_kept_and_other_adapters_are_refused(fresh: JanusAdapter) -> None:
    latents = drawn(fresh, ["a"])
    fresh.start_training(Training(lora_rank=2), base=False)
    with pytest.raises(ContractError, match="kept none"):
        fresh.predict([prompt("a")], latents, kept(fresh, latents), base=True)
    with pytest.raises(ContractError, match="has adapters"):
        fresh.start_training(Training(lora_rank=3), base=False)


@pytest.mark.parametrize("text", ["{}", '{"lora_rank": -1}', '{"rank": 2}', "[", '{"lora_rank": 2}'])
def test_settings_that_do_not_fit_the_saved_weights_are_refused(fresh: JanusAdapter, tmp_path: Path, text: str) -> None:
    trained = Training() if "2" in text else Training(lora_rank=2)
    fresh.start_training(trained, base=False)
    fresh.save(tmp_path)
    (tmp_path / "generation.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation\.(json|safetensors)"):
        fresh.load_trained(tmp_path)


# --- rewards on a cross-entropy ---------------------------------------------------------------------------------------
@given(weights=st.lists(st.floats(-1, 1, width=32), min_size=16, max_size=16), tau=st.sampled_from([0.5, 1.0]))
@few
def test_every_weight_reaches_its_own_token(janus: JanusAdapter, weights: list[float], tau: float) -> None:
    """By the objective `srum`, whose saturated loss at tau 1 is 1 - p: it pushes the probability of a token down, and
    rests when that is 0."""
    latents = drawn(janus, ["a red circle"], Sampling())
    objective = Weighted(WeightedOptions(lambda_c=0.0, negative_weights="saturate", tau=tau))
    batch = TrainBatch((prompt("a red circle"),), (latents,), (torch.tensor(weights),), ((4, 4),))
    with torch.no_grad():
        loss, _ = objective.loss(janus, batch, kept(janus, latents))
        logits = janus.predict([prompt("a red circle")], latents, kept(janus, latents)).logits[0].double()
    share = logits.softmax(dim=-1).gather(1, latents[0].long().flatten()[:, None]).flatten()
    given_weights = torch.tensor(weights, dtype=torch.float64)
    pushed = tau * (1 - share ** (1 / tau))
    wanted = (given_weights * torch.where(given_weights < 0, pushed, -share.log())).mean()
    assert float(loss) == pytest.approx(float(wanted), abs=1e-4)


def test_neither_an_anchor_nor_another_target_holds_a_negative_weight() -> None:
    """Why such settings are refused for Janus (``Provider.squared``): as the token becomes unlikely the sum only falls,
    where a squared error turns."""
    base = torch.zeros(1, 1, 8)
    losses = []
    for away in (0.0, 20.0, 60.0):
        logits = base.clone()
        logits[..., 3] -= away
        logits[..., 5] += away
        prediction = TokenPrediction(logits)
        sample, best = ([torch.full((1, 1, 1), float(token))] for token in (3, 5))
        pushed, drawn_to = prediction.token_losses(sample), prediction.token_losses(best)
        losses.append(float(-0.5 * pushed + drawn_to + prediction.token_distance(TokenPrediction(base))))
    assert losses[0] > losses[1] > losses[2] + 10
