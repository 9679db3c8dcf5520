"""The recipe of the shipped checkpoint: an autoencoder, then understanding and generation at once.

The generator's captions are noisy in a stated share, as alt-text of the web is, and the questions are clean. So the
trained model understands better than it generates, and what it draws wrong it draws crisply: its errors are those of
the distribution that it learnt.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from srum_bagel.autoencoder import KLAutoencoder, patchify, to_pixels
from srum_bagel.checkpoint import save_model
from srum_bagel.model import Bagel
from srum_bagel.packing import Piece, PieceKind
from srum_bagel.sampler import shifted
from torch import Tensor, nn

from srum_plugins.errors import ConfigError
from srum_plugins.runs.files import read_json, write_bytes, write_json
from srum_plugins.runs.fingerprint import changes
from srum_shapes.architecture import autoencoder_config, bagel_config
from srum_shapes.instructions import Lesson, lessons
from srum_shapes.options import Phase, Recipe
from srum_shapes.prompts import corrupt, sample_facts
from srum_shapes.questions import Item, inventory, sample_item, sample_items
from srum_shapes.vocabulary import BOS, EOS, encode
from srum_shapes.world import Scene, render, sample_scene, scene_for

console = Console()
IGNORE = -100


# --- data: pure functions of (seed, step) ---------------------------------------------------------------------


@dataclass(frozen=True)
class QuestionBatch:
    """Pictures (B, 32, 32, 3) uint8, their pieces, and the token to predict at each text token of the packed batch."""

    pictures: Tensor
    pieces: list[list[Piece]]
    targets: Tensor


@dataclass(frozen=True)
class CaptionBatch:
    """Pictures (B, 32, 32, 3) uint8 and the ids of their captions, None where dropped."""

    pictures: Tensor
    captions: list[list[int] | None]


def question_batch(recipe: Recipe, step: int, patches: int) -> QuestionBatch:
    """Fresh scenes with several questions each, which do not see each other."""
    rng = np.random.default_rng((recipe.seed, step, 0))
    phase = recipe.phase(step)
    asked: list[Lesson] = []
    for _ in range(phase.images):
        scene = sample_scene(rng)
        asked.append(Lesson(render(scene, rng), tuple(scene_questions(phase, scene, rng))))
    for _ in range(phase.lessons):
        facts = sample_facts(rng)
        asked += lessons(facts, scene_for(facts, rng), rng)
    pictures, samples, targets = [], [], []
    for lesson in asked:
        pieces = []
        if lesson.picture is not None:
            pictures.append(lesson.picture)
            pieces.append(Piece(PieceKind.VISION, count=patches))
            targets += [IGNORE, IGNORE]
        for branch, item in enumerate(lesson.items, start=1):
            question, answer = encode(item.question), encode(item.answer)
            pieces.append(Piece(PieceKind.TEXT, (BOS, *question, EOS), branch=branch))
            pieces.append(Piece(PieceKind.TEXT, (BOS, *answer), branch=branch))
            targets += [IGNORE] * (len(question) + 2) + [*answer, EOS]
        samples.append(pieces)
    return QuestionBatch(torch.from_numpy(np.stack(pictures)), samples, torch.tensor(targets))


def scene_questions(phase: Phase, scene: Scene, rng: np.random.Generator) -> list[Item]:
    """The questions of one scene."""
    wanted = [sample_item(scene, rng, "relation") for _ in range(phase.relations)]
    relations = [item for item in wanted if item is not None]
    others = sample_items(scene, rng, phase.questions - len(relations))
    return [*([inventory(scene)] if phase.inventory else []), *relations, *others]


def caption_batch(recipe: Recipe, step: int) -> CaptionBatch:
    """Scenes that make a caption true, and that caption, corrupted in a share of them, or the scene's inventory."""
    rng = np.random.default_rng((recipe.seed, step, 1))
    phase = recipe.phase(step)
    pictures, captions = [], []
    for _ in range(phase.captions):
        facts = sample_facts(rng)
        scene = scene_for(facts, rng)
        pictures.append(render(scene, rng))
        told = corrupt(facts, rng).text if rng.random() < phase.noise else facts.text
        if phase.layouts and rng.random() < phase.layouts:
            told = inventory(scene).answer
        captions.append(None if rng.random() < recipe.caption_dropout else encode(told))
    return CaptionBatch(torch.from_numpy(np.stack(pictures)), captions)


# --- losses ---------------------------------------------------------------------------------------------------


def question_loss(model: Bagel, batch: QuestionBatch) -> Tensor:
    """Mean cross-entropy of the answers' tokens, end token included."""
    vision = model.vision_tokens(to_pixels(batch.pictures))
    packed = model.pack(batch.pieces)
    und, _ = model.hidden(packed, vision.flatten(0, 1), None)
    asked = batch.targets != IGNORE
    logits = model.language_model.lm_head(und.index_select(0, packed.text_rows[asked]))
    return F.cross_entropy(logits.float(), batch.targets[asked])


def caption_loss(model: Bagel, latents: Tensor, captions: list[list[int] | None], generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity on noised latents (B, C, h, w)."""
    batch, _, height, width = latents.shape
    clean = patchify(latents, model.config.latent_patch_size)
    noise = torch.randn(clean.shape, generator=generator)
    timestep = shifted(torch.sigmoid(torch.randn(batch, generator=generator)), model.config.timestep_shift)
    noisy = (1 - timestep)[:, None, None] * clean + timestep[:, None, None] * noise
    block = Piece(PieceKind.LATENT, count=clean.shape[1], noised=True)
    packed = model.pack([[block] if ids is None else [model.text(ids), block] for ids in captions])
    ids = model.latent_ids(height, width).repeat(batch)
    velocity = model.velocity(packed, noisy.flatten(0, 1), timestep.repeat_interleave(clean.shape[1]), ids)
    return F.mse_loss(velocity.float(), (noise - clean).flatten(0, 1))


# --- the autoencoder ------------------------------------------------------------------------------------------


def train_autoencoder(recipe: Recipe) -> KLAutoencoder:
    """Train on renders. The decoder learns to draw crisply from latents with a little noise."""
    torch.manual_seed(recipe.seed)
    auto = KLAutoencoder(autoencoder_config())
    for step, optimizer, pixels in _drawing(recipe, auto, list(auto.parameters()), recipe.autoencoder_steps, 2):
        latents = auto.model.encode(pixels).latent_dist.mode()
        drawn = auto.model.decode(latents + recipe.latent_noise * torch.randn_like(latents)).sample
        _draw_better(optimizer, drawn, pixels, 1e-3 * latents.square().mean())
        _report("autoencoder", step, recipe.autoencoder_steps, drawn, pixels)
    with torch.no_grad():
        rng = np.random.default_rng((recipe.seed, 0, 3))
        pictures = np.stack([render(sample_scene(rng), rng) for _ in range(512)])
        latents = auto.model.encode(to_pixels(torch.from_numpy(pictures))).latent_dist.mode()
    auto.shift, auto.scale = float(latents.mean()), float(1 / latents.std())
    return auto


def train_decoder(recipe: Recipe, auto: KLAutoencoder) -> None:
    """Train the decoder alone on noisy latents; the latent space stays as it is."""
    torch.manual_seed(recipe.seed)
    decoder = auto.model.decoder.requires_grad_(True)
    for step, optimizer, pixels in _drawing(recipe, auto, list(decoder.parameters()), recipe.decoder_steps, 4):
        with torch.no_grad():
            latents = auto.encode(pixels)
        strength = recipe.decoder_noise * torch.rand(len(latents), 1, 1, 1)
        drawn = auto.decode(latents + strength * torch.randn_like(latents))
        _draw_better(optimizer, drawn, pixels, torch.zeros(()))
        _report("decoder", step, recipe.decoder_steps, drawn, pixels)
    decoder.requires_grad_(False)


def _drawing(
    recipe: Recipe, auto: KLAutoencoder, parameters: list[nn.Parameter], steps: int, stream: int
) -> Iterator[tuple[int, torch.optim.Optimizer, Tensor]]:
    """Steps of training to draw: the number, the optimizer with its rate set, and fresh pixels."""
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.autoencoder_lr, weight_decay=0.0)
    for step in range(steps):
        rng = np.random.default_rng((recipe.seed, step, stream))
        pictures = np.stack([render(sample_scene(rng), rng) for _ in range(recipe.autoencoder_batch)])
        for group in optimizer.param_groups:
            group["lr"] = recipe.autoencoder_lr * rate(step, steps, 50, 0.5)
        yield step, optimizer, to_pixels(torch.from_numpy(pictures))


def _draw_better(optimizer: torch.optim.Optimizer, drawn: Tensor, pixels: Tensor, extra: Tensor) -> None:
    loss = (drawn - pixels).abs().mean() + (drawn - pixels).square().mean() + extra
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


def _report(what: str, step: int, steps: int, drawn: Tensor, pixels: Tensor) -> None:
    if step % 100 == 0 or step == steps - 1:
        console.print(f"{what} {step:5d}  l1 {(drawn - pixels).abs().mean().item():.4f}")


def rate(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Linear warm-up, constant, linear decay to zero over the last ``decay_share`` of the steps."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay_share * steps)))


# --- the model ------------------------------------------------------------------------------------------------


def optimizers(model: Bagel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, heads, norms and biases."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim == 2 and ".layers." in name
        (matrices if inner else rest).append(parameter)
    muon = torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def initialise(model: Bagel) -> None:
    """Small normal weights; the velocity head starts at zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.7 / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    nn.init.zeros_(model.llm2vae.weight)


def pretrain(recipe: Recipe, folder: Path) -> None:
    """Run or resume the recipe in ``folder``; ends with ``folder/model``, loadable by the adapter.

    Raises:
        ConfigError: the folder was begun with another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keep_recipe(recipe, folder / "recipe.json")
    auto_file = folder / "autoencoder.pt"
    if auto_file.exists():
        state = torch.load(auto_file, weights_only=True)
        auto = KLAutoencoder(autoencoder_config())
        auto.load_state_dict(state["model"])
        auto.scale, auto.shift = state["scale"], state["shift"]
    else:
        auto = train_autoencoder(recipe)
        write({"model": auto.state_dict(), "scale": auto.scale, "shift": auto.shift}, auto_file)
    auto.requires_grad_(False)
    torch.manual_seed(recipe.seed)
    model = Bagel(bagel_config(auto.scale, auto.shift))
    initialise(model)
    optimizer = optimizers(model, recipe)
    # In phases that ask nothing it gets no gradient, and an optimizer leaves such a parameter and its state alone.
    own = model.generation_parameters()
    understanding = [p for name, p in model.named_parameters() if p.requires_grad and name not in own]
    start = load_state(folder, model, optimizer)
    keep_log(folder / "log.jsonl", start)
    if recipe.compiled:
        for layer in model.language_model.model.layers:
            layer.compile(dynamic=True)
        auto.model.encoder.compile()
    # Two threads of one core each, with a part of the batch each, waste less than every operation spread over two.
    # Each parameter's gradient is then the sum of at most two terms, so the order in which they come does not matter.
    torch.set_num_threads(recipe.threads)
    began = time.monotonic()
    with (folder / "log.jsonl").open("a") as log, ThreadPoolExecutor(1) as side:
        for step in range(start, recipe.steps):
            factor = rate(step, recipe.steps, recipe.warmup, recipe.decay_share)
            for each, base in zip(optimizer, (recipe.muon_lr, recipe.adam_lr), strict=True):
                for group in each.param_groups:
                    group["lr"] = base * factor
                each.zero_grad(set_to_none=True)
            for parameter in understanding:
                parameter.requires_grad_(recipe.phase(step).images > 0)
            told = caption_batch(recipe, step)
            asking = side.submit(side_step, model, auto, recipe, step, told)
            drawn = main_step(model, auto, recipe, step, told)
            asked = asking.result()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for each in optimizer:
                each.step()
            if step % 20 == 0:
                row = {
                    "step": step,
                    "answers": None if asked is None else round(asked, 4),
                    "velocity": round(drawn, 4),
                    "norm": round(float(norm), 3),
                    "seconds": round(time.monotonic() - began),
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                if step % 200 == 0:
                    console.print(row)
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
                # The state last: a kill between the two repeats these steps, and never ends without the model.
                save_model(model, auto, folder / "model")
                save_state(folder, model, optimizer, step + 1)
    finished = folder / "decoder.pt"
    if not finished.exists():
        train_decoder(recipe, auto)
        save_model(model, auto, folder / "model")
        write(auto.model.decoder.state_dict(), finished)


def keep_recipe(recipe: Recipe, file: Path) -> None:
    """Write the recipe down, or compare it with the one that is there.

    Raises:
        ConfigError: the folder was begun with another recipe; the message names the settings that differ.
    """
    settings = asdict(recipe)
    if not file.exists():
        write_json(file, settings)
    elif differing := changes(read_json(file), settings):
        raise ConfigError(
            f"{file.parent} was begun with another recipe ({'; '.join(differing)}); choose another folder, or the same "
            "settings"
        )


def keep_log(file: Path, start: int) -> None:
    """Drop the log of steps from ``start`` on, because they are done again, and a line that a kill cut off."""
    if file.exists():
        lines = file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < start]
        write_bytes(file, "".join(kept).encode())


def side_step(model: Bagel, auto: KLAutoencoder, recipe: Recipe, step: int, told: CaptionBatch) -> float | None:
    """Forward and backward of the questions and of the captions aside; returns the questions' loss, if any are asked.

    They are one backward pass, so that a gradient is a sum of one term from here and one from :func:`main_step`.
    """
    phase = recipe.phase(step)
    losses: list[Tensor] = []
    if phase.images:
        patches = (model.config.vit.image_size // model.config.vit.patch_size) ** 2
        with precision(recipe):
            losses.append(question_loss(model, question_batch(recipe, step, patches)))
    if phase.aside:
        drawn = velocity_loss(model, auto, recipe, told, slice(0, phase.aside), -step)
        losses.append(phase.aside / phase.captions * drawn)
    if losses:
        torch.autograd.backward(torch.stack(losses).sum())
    return losses[0].item() if phase.images else None


def main_step(model: Bagel, auto: KLAutoencoder, recipe: Recipe, step: int, told: CaptionBatch) -> float:
    """Forward and backward of the other captions; returns their loss."""
    phase = recipe.phase(step)
    part = slice(phase.aside, phase.captions)
    loss = velocity_loss(model, auto, recipe, told, part, step)
    torch.autograd.backward((phase.captions - phase.aside) / phase.captions * loss)
    return loss.item()


def velocity_loss(
    model: Bagel, auto: KLAutoencoder, recipe: Recipe, batch: CaptionBatch, part: slice, stream: int
) -> Tensor:
    """:func:`caption_loss` of a part of a batch; the noise is that of the recipe's seed and ``stream``."""
    with torch.no_grad():
        latents = auto.encode(to_pixels(batch.pictures[part]))
    noise = torch.Generator().manual_seed(recipe.seed * 10**6 + stream)
    with precision(recipe):
        return caption_loss(model, latents, batch.captions[part], noise)


def precision(recipe: Recipe) -> torch.autocast:
    """Where matrix products are in bfloat16 if the recipe says so; each thread enters its own."""
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.compiled)


def save_state(folder: Path, model: Bagel, optimizer: list[torch.optim.Optimizer], step: int) -> None:
    """Everything that a resumed run needs; data and noise follow from the step."""
    state = {"model": model.state_dict(), "optimizer": [each.state_dict() for each in optimizer], "step": step}
    write(state, folder / "state.pt")


def load_state(folder: Path, model: Bagel, optimizer: list[torch.optim.Optimizer]) -> int:
    """Load the newest state, if any; returns the step to go on with."""
    file = folder / "state.pt"
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    for each, stored in zip(optimizer, state["optimizer"], strict=True):
        each.load_state_dict(stored)
    return int(state["step"])


def write(state: Any, file: Path) -> None:
    """Written aside and renamed, so that a kill leaves the old file or the new one."""
    aside = file.with_suffix(".tmp")
    torch.save(state, aside)
    aside.replace(file)
