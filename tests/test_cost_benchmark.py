"""The cost model: it counts what the adapter does, and its bill follows from the counts."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sam_torchvision  # noqa: F401 - before what needs torchvision
import torch
from benchmark_module import load_benchmark
from hypothesis import given
from hypothesis import strategies as st
from segment_anything import sam_model_registry
from srum_bagel.model import Bagel

COST = load_benchmark("cost")
SIDE = 64
CONFIG = dataclasses.replace(
    COST.SIZES["small"][0],
    llm=dataclasses.replace(COST.SIZES["small"][0].llm, hidden_size=64, intermediate_size=96, num_hidden_layers=2),
)
SHORT = {"plan_tokens": 20, "mask_points": 0, "question_tokens": 30, "answer_tokens": 10, "questions": 3, "points": 3}


@pytest.fixture(scope="module")
def counts() -> Any:
    return COST.count(COST.Run(mask_points=0), CONFIG, SIDE)


amounts = st.floats(1.0, 1e15)
some = st.integers(1, 10_000)
any_counts = st.builds(COST.Counts, *[amounts] * 7, some, some, some, some, some)
any_rates = st.builds(COST.Rates, *[amounts] * 5, st.just("drawn"))
any_run = st.builds(
    COST.Run,
    prompts=some,
    candidates=st.integers(1, 8),
    plan_tokens=st.integers(0, 2000),
    mask_points=st.integers(0, 2),
    judge=st.sampled_from(["rubric", "choice"]),
    steps=some,
    batch=some,
    benchmark_prompts=some,
    rows=st.integers(1, 64),
)


def hours(run: Any, counts: Any, rates: Any) -> Mapping[tuple[str, str], float]:
    found = {(work.stage, work.name): work.hours(rates) for work in COST.works(run, counts)}
    assert len(found) == len(list(COST.works(run, counts)))
    return found


# --- the bill ---------------------------------------------------------------------------------------------------------
@given(any_run, any_counts, any_rates, st.integers(2, 5))
def test_hours_are_linear_in_the_prompts_and_in_the_steps(run: Any, counts: Any, rates: Any, times: int) -> None:
    once = hours(run, counts, rates)
    for field, stages in (
        ("prompts", ("generate", "ground", "judge")),
        ("batch", ("train",)),
        ("steps", ("train",)),
        ("benchmark_prompts", ("evaluate",)),
    ):
        more = hours(dataclasses.replace(run, **{field: times * getattr(run, field)}), counts, rates)
        assert more == pytest.approx({key: hour * (times if key[0] in stages else 1) for key, hour in once.items()})


@given(any_run, any_counts, any_rates, st.integers(1, 1024))
def test_gpu_hours_do_not_depend_on_the_number_of_gpus(run: Any, counts: Any, rates: Any, gpus: int) -> None:
    done = list(COST.works(run, counts))
    said = [COST.notes(run, rates, done, "small", number) for number in (1, gpus)]
    assert said[0][1:] == said[1][1:]  # only the first line, of the time, knows how many there are
    total = sum(work.hours(rates) for work in done)
    assert said[1][0] == f"On {gpus} GPUs at least {total / gpus:.1f} hours."


@given(any_run, any_counts, any_rates, st.floats(1.5, 10))
def test_twice_as_fast_takes_half_the_hours(run: Any, counts: Any, rates: Any, times: float) -> None:
    faster = {name: times * getattr(rates, name) for name in ("draw", "read", "train", "float32", "memory")}
    slow, fast = hours(run, counts, rates), hours(run, counts, dataclasses.replace(rates, **faster))
    assert fast == pytest.approx({key: value / times for key, value in slow.items()})


@given(any_counts, some, some, st.integers(1, 64))
def test_a_text_moves_what_its_tokens_move(counts: Any, tokens: int, before: int, together: int) -> None:
    """Each token reads the weights, shared by the texts beside it, and all keys and values up to its own."""
    each = [counts.weights / together + 3 * counts.token * (before + number) for number in range(1, tokens + 1)]
    assert COST.written_bytes(tokens, before, together, counts) == pytest.approx(math.fsum(each))


def test_the_stages_are_those_of_a_run_and_choice_writes_nothing(counts: Any) -> None:
    rubric, choice = (list(COST.works(COST.Run(judge=judge, plan_tokens=0), counts)) for judge in ("rubric", "choice"))
    for done in (rubric, choice):
        assert list(dict.fromkeys(work.stage for work in done)) == ["generate", "ground", "judge", "train", "evaluate"]
    assert [work.stage for work in rubric if work.resource == "memory"] == ["judge"]
    assert [work.stage for work in choice if work.resource == "memory"] == []


# --- the counts -------------------------------------------------------------------------------------------------------
def test_the_release_takes_ninety_forwards_to_an_image(counts: Any) -> None:
    assert counts.forwards == 49 + 41  # bagel.md 5.2: 41 of 49 steps are guided
    assert COST.count(COST.Run(guidance=1.0, **SHORT), CONFIG, SIDE).forwards == 2


def test_operations_follow_from_the_dimensions(counts: Any) -> None:
    """A step without guidance and context: matrix products with every weight of the generation half, and attention."""
    alone = {**SHORT, "plan_tokens": 0, "guidance": 1.0}
    three, four = (COST.count(COST.Run(**{**alone, "points": points}), CONFIG, SIDE) for points in (3, 4))
    step, tokens, llm = four.draw - three.draw, (SIDE // CONFIG.latent_stride) ** 2, CONFIG.llm
    with torch.device("meta"):
        model = Bagel(CONFIG)
    layers = {name: weight for name, weight in model.named_parameters() if "layers" in name and weight.dim() == 2}
    gen = sum(weight.numel() for name, weight in layers.items() if "_moe_gen" in name)
    und = sum(weight.numel() for name, weight in layers.items() if "_moe_gen" not in name and "language" in name)
    maps = sum(layer.weight.numel() for layer in (model.vae2llm, model.llm2vae))
    maps += sum(weight.numel() for weight in model.time_embedder.parameters() if weight.dim() == 2)
    asked = tokens + 2  # the markers go through the other expert
    seen = COST.Run().prompt_tokens + 2 + asked
    width = llm.num_attention_heads * llm.head_dim
    attention = 2 * 2 * asked * seen * width * llm.num_hidden_layers
    assert step == 2 * (tokens * (gen + maps) + 2 * und) + attention


def test_training_computes_layers_twice_and_goes_back_through_them() -> None:
    """Forward, forward again, and backward of twice that; less, where the reader of the prompt does not learn."""
    alone = COST.Run(**{**SHORT, "plan_tokens": 0, "guidance": 1.0, "points": 2})
    forward = COST.count(alone, CONFIG, SIDE).draw
    own, whole = (COST.count(dataclasses.replace(alone, scope=s), CONFIG, SIDE).train for s in ("generation", "all"))
    assert 2.5 * forward < own < whole < 4 * forward


def test_a_token_needs_the_weights_that_are_counted_and_no_others(counts: Any) -> None:
    torch.manual_seed(0)
    model = Bagel(CONFIG).eval().requires_grad_(False)
    read = COST.read_by_a_token(model)
    assert counts.weights == 2 * sum(weight.numel() for weight in read.values())
    context = model.prefill([[model.text([5, 6])]], None)
    assert 4 * counts.token == 2 * sum(part.numel() for part in (*context.keys, *context.values))

    def logits() -> torch.Tensor:
        return model.next_logits(torch.tensor([7]), context)[0]

    before = logits()
    for name, weight in model.named_parameters():
        if name.removeprefix("language_model.") not in read and "embed_tokens" not in name:
            weight.add_(1.0)
    assert torch.equal(logits(), before)
    for name, weight in read.items():
        weight.mul_(2.0)
        assert not torch.equal(logits(), before), name
        weight.div_(2.0)


def test_sam_is_the_one_that_segment_anything_builds() -> None:
    one, two = (COST.sam_operations(points) for points in (1, 2))  # the encoder, and a point or two
    with torch.device("meta"):
        sam = sam_model_registry["vit_h"]().requires_grad_(False)
        image = torch.empty(1, 3, 1024, 1024)
    assert 2 * one - two == pytest.approx(COST.operations(lambda: sam.image_encoder(image)), rel=1e-3)


# --- the program ------------------------------------------------------------------------------------------------------
def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setitem(COST.SIZES, "small", (CONFIG, SIDE))
    given = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
    monkeypatch.setattr(sys, "argv", ["cost.py", "--size", "small", *given, *arguments])
    COST.main()


@pytest.mark.parametrize("markdown", [False, True])
def test_it_prints_an_estimate_and_all_that_it_assumes(
    markdown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = ("--tflops=1e-6", "--float32-tflops=1e-6", "--bandwidth=1e-6")
    run_main(monkeypatch, *speeds, *(["--markdown"] if markdown else []))
    said = capsys.readouterr().out
    assert said.lstrip("*").startswith("ESTIMATE") and "assumed, not measured" in said
    for name in dataclasses.fields(COST.Run):
        assert f"{name.name} = {SHORT.get(name.name, name.default)}" in said
    figures = [float(figure) for figure in re.findall(r"(\d+\.\d\d)(?: \|)?$", said, re.MULTILINE)]
    (total,) = re.findall(r"total[ |]+([\d.]+)", said)
    assert len(figures) == 10 and sum(figures) == pytest.approx(float(total), abs=0.05 + 0.005 * len(figures))


def report(counts: Any, **changes: Any) -> dict[str, Any]:
    """As benchmarks/bagel.py writes it: drawing at 2, training at 3 TFLOP/s, writing at 5 GB/s."""
    moved = 4 * COST.written_bytes(16, counts.before_answer, 4, counts)
    seconds = 6.0 / 2.0 + moved / 5e9
    return {
        "device": "a card",
        "size": "small",
        "images": 4,
        "generate": {"teraflop": 20.0, "seconds": 10.0},
        "train": {"teraflop": 6.0, "seconds": 2.0},
        "answer": {"teraflop": 6.0, "seconds": seconds, "tokens_per_second": 4 * 16 / seconds},
        **changes,
    }


def test_rates_are_taken_from_a_measured_report(
    counts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bagel-small.json"
    file.write_text(json.dumps(report(counts)))
    rates = COST.measured_rates(file, "small", 7e12, counts)
    assert (rates.draw, rates.read, rates.train, rates.float32) == pytest.approx((2e12, 2e12, 3e12, 7e12))
    assert rates.memory == pytest.approx(5e9, rel=1e-3)
    run_main(monkeypatch, f"--measured={file}")
    assert "2 TFLOP/s drawing" in (said := capsys.readouterr().out) and "measured on a card" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": "7b"}, "measured with --size 7b, and --size is small"),
        ({"answer": {"teraflop": 6.0, "seconds": 2.9, "tokens_per_second": 20.0}}, "nothing is known of writing"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(changes: Any, said: str, counts: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report(counts, **changes)))
    with pytest.raises(SystemExit, match=said):
        COST.measured_rates(file, "small", 7e12, counts)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--points=1", "points must be at least 2, got 1"),
        ("--prompts=0", "prompts must be at least 1, got 0"),
        ("--guidance=nan", "guidance must be at least 0, got nan"),
        ("--measured=a.json --tflops=3", "leave --tflops and --bandwidth out"),
    ],
)
def test_what_cannot_be_is_refused(
    argument: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_main(monkeypatch, *argument.split())
    assert said in capsys.readouterr().err
