"""GPU-hours of the paper's run on BAGEL, by stage, as an ESTIMATE: python benchmarks/cost.py

Each kind of work is done once with the adapter's own code on torch's `meta` device, without weights or a GPU, while
torch's FlopCounterMode counts its operations, those of attention among them. Operations are divided by a rate. A text
is written token by token, which waits for memory and not for arithmetic: its time is the bytes that a token reads and
writes, divided by the memory's bandwidth.

The rates are assumptions, unless `--measured` names a report that benchmarks/bagel.py wrote on the GPU in question. So
is the run: its numbers are those of the release where it states them, and each of them is an argument. Texts are as
long as they may be. What is not counted is printed with the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch
from bagel import SIZES
from PIL import Image
from rich.console import Console
from rich.table import Table
from srum_bagel.adapter import BagelAdapter
from srum_bagel.config import BagelConfig
from srum_bagel.memory import weightless
from srum_bagel.model import Bagel
from srum_bagel.options import Scope, Thinking, Training
from srum_bagel.released import IMAGES_PER_CALL, preparation
from torch.utils.flop_counter import FlopCounterMode
from transformers import SamConfig, SamModel, SamVisionConfig

from srum_plugins.contracts import Decoding, GenerationRequest, Question, TrainBatch
from srum_plugins.memory.tracker import Tracker, ValueNeededError
from srum_plugins.records import Prompt
from srum_plugins.rewards.objectives import Weighted, WeightedOptions

Resource = Literal["draw", "read", "train", "float32", "memory"]
"""What a work waits for: arithmetic in bfloat16 of three kinds, arithmetic in float32, or memory."""

PEAK, FLOAT32_PEAK, BANDWIDTH_PEAK = 989e12, 67e12, 3.35e12
"""Of an H100 SXM by its data sheet: dense bfloat16 and plain float32 operations, and bytes of memory, a second."""
SHARE, BANDWIDTH_SHARE = 0.4, 0.5
"""Of these peaks that are taken to be reached, where nothing was measured."""
CACHE_PASSES = 3
"""Keys and values of the tokens before: read, written into a longer memory, and read by attention
(:class:`srum_bagel.mot.Layout`)."""
CHOICE_TOKENS = 12
"""Of a question with given answers."""
NOT_COUNTED = (
    "the reward stage, which uses no GPU",
    "the benchmark's own scoring",
    "optimizer steps and the traffic between GPUs",
    "loading weights, and reading and writing files",
    "reading a prompt before its plan is written",
    "what SAM does with its masks on the CPU and on the GPU",
    "answers that are asked for again",
    "GPUs that wait for the last chunk of a stage",
)


@dataclass(frozen=True)
class Run:
    """What is done; see the arguments' help. Numbers without a source are those of our defaults."""

    prompts: Annotated[int, "training prompts (the release's file)"] = 6234
    candidates: Annotated[int, "images of a prompt (the release draws one)"] = 1
    points: Annotated[int, "timesteps of a sampling, one less are model steps (the release's script)"] = 50
    guidance: Annotated[float, "of the sampling, on the adapter's interval; 1: none (the release's script)"] = 4.0
    prompt_tokens: Annotated[int, "tokens of a prompt"] = 32
    plan_tokens: Annotated[int, "tokens of a plan written before an image is drawn; 0: none (longest allowed)"] = 1000
    mask_points: Annotated[int, "points where SAM ViT-H is asked for masks; 0: another grounder (its default)"] = 1024
    judge: Annotated[Literal["rubric", "choice"], "how the model judges (in the paper it writes)"] = "rubric"
    answers: Annotated[int, "answers of `rubric` about an image (one about the whole, one about all its regions)"] = 2
    question_tokens: Annotated[int, "tokens of a question of `rubric`"] = 200
    answer_tokens: Annotated[int, "tokens of an answer of `rubric` (512 of thought and 256)"] = 768
    questions: Annotated[int, "questions of `choice` about an image (one, and 8 regions by 2 things)"] = 17
    steps: Annotated[int, "optimizer steps (the release's run)"] = 309
    batch: Annotated[int, "images of a step over all GPUs (8 GPUs by 2 images in the release's run)"] = 16
    scope: Annotated[Scope, "what training moves; layers are computed twice (`all` in the release)"] = "generation"
    benchmark_prompts: Annotated[int, "prompts measured before and after training (the release's file)"] = 2670
    rows: Annotated[int, "texts that are written together (the adapter's)"] = IMAGES_PER_CALL

    def __post_init__(self) -> None:
        least_of = {"plan_tokens": 0, "mask_points": 0, "guidance": 0, "points": 2}
        for name, value in dataclasses.asdict(self).items():
            least = least_of.get(name, 1)
            if not isinstance(value, str) and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class Rates:
    """What a GPU does in a second: operations of each kind, and bytes of ``memory``. ``source`` says where they are
    from."""

    draw: float
    read: float
    train: float
    float32: float
    memory: float
    source: str


@dataclass(frozen=True)
class Counts:
    """Operations of one item of each work, and what a written token moves.

    ``draw``: the latents of an image, its context included; ``decode`` and ``encode``: between these and pixels;
    ``segment``: all masks of an image; ``ask``: an image and a question read; ``choose``: an image with all its
    questions; ``train``: an image's share of a step. ``weights``: bytes that a token reads, however many texts are
    written together; ``token``: bytes of keys and values of one token. ``before_plan`` and ``before_answer``: tokens
    that are there when a text begins. ``forwards``: of the model for an image.
    """

    draw: float
    decode: float
    encode: float
    segment: float
    ask: float
    choose: float
    train: float
    weights: int
    token: int
    before_plan: int
    before_answer: int
    forwards: int


@dataclass(frozen=True)
class Work:
    """``items`` times an ``amount`` of operations, or of bytes if it waits for ``memory``."""

    stage: str
    name: str
    resource: Resource
    amount: float
    items: int

    def hours(self, rates: Rates) -> float:
        """GPU-hours, on however many GPUs."""
        rate: float = getattr(rates, self.resource)
        return self.amount * self.items / rate / 3600


def works(run: Run, counts: Counts) -> Iterator[Work]:
    """All that is done in a run, in the order of its stages."""
    images = run.prompts * run.candidates
    yield from _drawn("generate", run, counts, run.prompts, images)
    if run.mask_points:
        yield Work("ground", f"SAM ViT-H, {run.mask_points} points", "float32", counts.segment, images)
    if run.judge == "choice":
        yield Work("judge", f"read the image and {run.questions} questions", "read", counts.choose, images)
    else:
        asked = run.answers * images
        moved = written_bytes(run.answer_tokens, counts.before_answer, run.rows, counts)
        yield Work("judge", "read an image and a question", "read", counts.ask, asked)
        yield Work("judge", f"write an answer of {run.answer_tokens} tokens", "memory", moved, asked)
    trained = run.steps * run.batch
    # When a step asks for it; one that comes again may still be held.
    yield Work("train", "encode an image", "float32", counts.encode, trained)
    yield Work("train", f"train on an image, scope {run.scope}", "train", counts.train, trained)
    yield from _drawn("evaluate", run, counts, 2 * run.benchmark_prompts, 2 * run.benchmark_prompts)


def _drawn(stage: str, run: Run, counts: Counts, plans: int, images: int) -> Iterator[Work]:
    if run.plan_tokens:
        moved = written_bytes(run.plan_tokens, counts.before_plan, run.rows, counts)
        yield Work(stage, f"write a plan of {run.plan_tokens} tokens", "memory", moved, plans)
    yield Work(stage, f"draw an image, {counts.forwards} forwards", "draw", counts.draw, images)
    yield Work(stage, "decode an image", "float32", counts.decode, images)


def written_bytes(tokens: int, before: int, rows: int, counts: Counts) -> float:
    """Bytes that one text moves: a share of the weights with each token, and its own keys and values, of which there
    are ``before`` at first and one more with each token."""
    return tokens * (counts.weights / rows + CACHE_PASSES * counts.token * (before + (tokens + 1) / 2))


# --- counting ---------------------------------------------------------------------------------------------------------
def count(run: Run, config: BagelConfig, side: int) -> Counts:
    """Do each work once on images of side x side pixels."""
    # The answer is one token here: those that follow are counted in bytes.
    given = weightless(config, torch.bfloat16, (side, side), 1, preparation(config), IMAGES_PER_CALL).model
    assert isinstance(given, BagelAdapter)
    model, image = given.model, Image.new("RGB", (side, side))
    prompt, question = Prompt("prompt", _words(run.prompt_tokens)), _words(run.question_tokens)
    grid = given.token_grid(side, side)
    latents = torch.empty(1, config.vae.z_channels, *(edge * config.latent_patch_size for edge in grid), device="meta")
    think = run.plan_tokens > 0
    sampling = Thinking(points=run.points, guidance=run.guidance, think=think, think_tokens=max(1, run.plan_tokens))
    plans = [_words(run.plan_tokens)] if think else None
    forwards: list[int] = []
    handle = model.llm2vae.register_forward_hook(lambda layer, inputs, out: forwards.append(len(out)))
    draw = operations(lambda: given.latents([GenerationRequest(prompt, 0)], sampling, plans))
    handle.remove()
    asked = [Question(image, _words(CHOICE_TOKENS), ("yes", "no"))] * run.questions
    llm = config.llm
    return Counts(
        draw=draw,
        decode=operations(lambda: given.autoencoder.decode(latents)),
        encode=operations(lambda: given.encode([image])),
        segment=sam_operations(run.mask_points) if run.mask_points else 0.0,
        ask=operations(lambda: given.answer([Question(image, question)], Decoding(max_tokens=1))),
        choose=operations(lambda: given.choice_logprobs(asked)),
        train=training_operations(given, prompt, latents, Training(run.scope)),
        weights=sum(one.nbytes for one in read_by_a_token(model).values()),
        token=2 * llm.num_hidden_layers * llm.num_key_value_heads * llm.head_dim * torch.bfloat16.itemsize,
        before_plan=len(sampling.think_prompt.split()) + run.prompt_tokens,
        before_answer=_seen(given, image) + run.question_tokens,
        forwards=sum(forwards) // (grid[0] * grid[1]),
    )


def read_by_a_token(model: Bagel) -> dict[str, torch.nn.Parameter]:
    """The weights, by name, that a written token needs whole: all of the understanding expert and the text head. Of the
    embedding it needs one row."""
    rest = ("_moe_gen", "embed_tokens")
    named = model.language_model.named_parameters()
    return {name: one for name, one in named if not any(part in name for part in rest)}


def operations(work: Callable[[], object]) -> float:
    """Operations of a work on tensors without memory, as far as it goes without a value."""
    with Tracker("meta"), FlopCounterMode(display=False) as counter, suppress(ValueNeededError):
        work()
    return float(counter.get_total_flops())


def training_operations(model: BagelAdapter, prompt: Prompt, latents: torch.Tensor, how: Training) -> float:
    """Of one example's forward, the layers' second one, and backward, by the objective ``srum``. Changes the model."""
    model.start_training(how, base=False)
    grid = model.token_grid(*model.size)
    batch = TrainBatch((prompt,), (list(latents),), (torch.ones(grid[0] * grid[1], device="meta"),), (grid,))
    draws = model.draw(list(latents), torch.Generator().manual_seed(0))
    # Which prompts are dropped is read on the host: this one is not.
    draws = dataclasses.replace(draws, drop=torch.zeros(1, dtype=torch.bool))

    def gradients() -> None:
        loss, _ = Weighted(WeightedOptions()).loss(model, batch, draws)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it

    return operations(gradients)


def sam_operations(points: int) -> float:
    """Of SAM ViT-H on one image: its encoder once, its decoder at each point."""
    vision = SamVisionConfig(
        hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]
    )
    config = SamConfig(vision_config=vision.to_dict())
    config._attn_implementation = "eager"  # which is all matrix products, and counted
    with torch.device("meta"):
        model = SamModel(config).eval().requires_grad_(False)
        pixels, places = torch.empty(1, 3, vision.image_size, vision.image_size), torch.empty(1, points, 1, 2)
    return operations(lambda: model(pixel_values=pixels, input_points=places, multimask_output=True))


def _seen(model: BagelAdapter, image: Image.Image) -> int:
    """Tokens that an image is to the understanding half, its two markers included."""
    pixels, patch = model.preparation.seen(image), model.config.vit.patch_size
    return pixels.shape[2] // patch * (pixels.shape[3] // patch) + 2


def _words(count: int) -> str:
    return " ".join(["word"] * count)


# --- rates ------------------------------------------------------------------------------------------------------------
def measured_rates(file: Path, size: str, float32: float, counts: Counts) -> Rates:
    """Rates of a report of benchmarks/bagel.py. Reading is taken to be as fast as drawing, whose time has the decoding
    in it; what is left of the time of its answers is that of their tokens.

    Raises:
        SystemExit: the report is of another size, or too coarse for the time of a token.
    """
    report = json.loads(file.read_text())
    if report["size"] != size:
        raise SystemExit(f"{file} was measured with --size {report['size']}, and --size is {size}: name the same size")
    draw, train = (1e12 * report[work]["teraflop"] / report[work]["seconds"] for work in ("generate", "train"))
    answer = report["answer"]
    writing = answer["seconds"] - 1e12 * answer["teraflop"] / draw
    tokens = answer["tokens_per_second"] * answer["seconds"] / report["images"]
    if writing <= 0:
        raise SystemExit(
            f"{file}: reading the images takes all {answer['seconds']:.3g} seconds of the answers at the rate of "
            "drawing, so that nothing is known of writing: measure with more tokens, or give --tflops and --bandwidth"
        )
    moved = written_bytes(round(tokens), counts.before_answer, report["images"], counts) * report["images"]
    return Rates(draw, draw, train, float32, moved / writing, f"{file.name}, measured on {report['device']}")


# --- telling ----------------------------------------------------------------------------------------------------------
HEADER = ("stage", "work", "per item", "items", "GPU-hours")


def rows(done: Sequence[Work], rates: Rates) -> list[tuple[str, ...]]:
    """The table: a row a work, and the total."""
    lines = [(one.stage, one.name, _amount(one), f"{one.items:,}", f"{one.hours(rates):.2f}") for one in done]
    return [*lines, ("total", "", "", "", f"{sum(one.hours(rates) for one in done):.1f}")]


def _amount(work: Work) -> str:
    if work.resource == "memory":
        return f"{_shown(work.amount / 1e9)} GB"
    return f"{_shown(work.amount / 1e12)} TFLOP{', float32' if work.resource == 'float32' else ''}"


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _argument(name: str) -> tuple[Any, str]:
    """The type of a field of Run, and what it is."""
    kind, text = get_args(get_type_hints(Run, include_extras=True)[name])
    return kind, text


def notes(run: Run, rates: Rates, done: Sequence[Work], size: str, gpus: int) -> list[str]:
    """What an estimate rests on, a line each."""
    total = sum(one.hours(rates) for one in done)
    speeds = (
        f"{rates.draw / 1e12:.3g} TFLOP/s drawing, {rates.read / 1e12:.3g} reading, {rates.train / 1e12:.3g} training, "
        f"{rates.float32 / 1e12:.3g} in float32; {rates.memory / 1e12:.3g} TB/s"
    )
    return [
        f"On {gpus} GPUs at least {total / gpus:.1f} hours.",
        f"Rates: {speeds} ({rates.source}).",
        f"Not counted: {'; '.join(NOT_COUNTED)}.",
        f"Assumed of BAGEL, size {size}:",
        *(f"{one.name} = {getattr(run, one.name)}: {_argument(one.name)[1]}" for one in dataclasses.fields(run)),
    ]


def show(lines: Sequence[tuple[str, ...]], notes: Sequence[str], markdown: bool) -> None:
    """Print it."""
    title = "ESTIMATE of the GPU-hours of a run"
    if markdown:
        rule = ("---", "---", "---:", "---:", "---:")
        print(f"**{title}**\n")
        print("\n".join(f"| {' | '.join(line)} |" for line in (HEADER, rule, *lines)))
        print("\n" + "\n".join(f"- {note}" for note in notes))
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="left" if index < 2 else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    console = Console(highlight=False)
    console.print(table)
    console.print("", *notes, markup=False, soft_wrap=True, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="7b", help="dimensions, as in benchmarks/bagel.py")
    for one in dataclasses.fields(Run):
        kind, text = _argument(one.name)
        given: dict[str, Any] = {"choices": get_args(kind)} if get_args(kind) else {"type": kind}
        flag = f"--{one.name.replace('_', '-')}"
        parser.add_argument(flag, default=one.default, help=f"{text}; {one.default}", **given)
    parser.add_argument("--tflops", type=float, help=f"in bfloat16 (default: {SHARE} of an H100's {PEAK / 1e12:g})")
    parser.add_argument(
        "--float32-tflops", type=float, help=f"in float32 (default: {SHARE} of an H100's {FLOAT32_PEAK / 1e12:g})"
    )
    parser.add_argument(
        "--bandwidth", type=float, help=f"TB/s (default: {BANDWIDTH_SHARE} of an H100's {BANDWIDTH_PEAK / 1e12:g})"
    )
    parser.add_argument("--measured", type=Path, help="report of benchmarks/bagel.py, for all but float32")
    parser.add_argument("--gpus", type=int, default=8, help="for the shortest time that the run may take")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.measured and (options.tflops or options.bandwidth):
        parser.error("--measured gives the rates: leave --tflops and --bandwidth out")
    try:
        run = Run(**{one.name: getattr(options, one.name) for one in dataclasses.fields(Run)})
    except ValueError as error:
        parser.error(str(error))
    counts = count(run, *SIZES[options.size])
    float32 = 1e12 * options.float32_tflops if options.float32_tflops else SHARE * FLOAT32_PEAK
    if options.measured:
        rates = measured_rates(options.measured, options.size, float32, counts)
    else:
        speed = 1e12 * options.tflops if options.tflops else SHARE * PEAK
        memory = 1e12 * options.bandwidth if options.bandwidth else BANDWIDTH_SHARE * BANDWIDTH_PEAK
        rates = Rates(speed, speed, speed, float32, memory, "assumed, not measured")
    done = list(works(run, counts))
    show(rows(done, rates), notes(run, rates, done, options.size, options.gpus), options.markdown)


if __name__ == "__main__":
    main()
