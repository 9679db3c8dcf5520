"""The released BAGEL behind the framework's adapter contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from srum_bagel.adapter import BagelAdapter, Dialect
from srum_bagel.config import BagelConfig
from srum_bagel.grounding import read_boxes, read_named_boxes, where_all_question, where_question
from srum_bagel.images import Resized, ResizeRule
from srum_bagel.memory import weightless
from srum_bagel.options import AdapterOptions
from srum_bagel.release import Release, is_release, language_config, load_release, read_release, save_release
from srum_bagel.tokenizer import Tokenizer
from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.contracts import Weightless
from srum_plugins.errors import CheckpointError, ConfigError
from srum_plugins.hub import local_folder
from srum_plugins.records import Box, Failure
from srum_plugins.weights import load_weights, weight_files

IMAGES_PER_CALL = 8
"""Images that understanding reads in one forward: one of 1024 x 1024 pixels is 4900 tokens."""


class PlainDialect(Dialect):
    """Questions in plain words; a box is told in pixels of the image as it was given."""

    def __init__(self, tokenizer: Tokenizer, longest_answer: int) -> None:
        self._tokenizer = tokenizer
        self.longest_answer = longest_answer

    def encode(self, text: str) -> list[int]:
        """See :meth:`srum_bagel.tokenizer.Tokenizer.encode`."""
        return self._tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """See :meth:`srum_bagel.tokenizer.Tokenizer.decode`."""
        return self._tokenizer.decode(ids)

    def ask(self, text: str, box: Box | None) -> str:
        """A question about a box begins with its corners."""
        if box is None:
            return text
        corners = ", ".join(f"{side:g}" for side in (box.x0, box.y0, box.x1, box.y1))
        return f"Look only at the region [{corners}] of the image (left, top, right, bottom in pixels). {text}"

    def ask_where(self, phrase: str) -> str:
        """See :func:`srum_bagel.grounding.where_question`."""
        return where_question(phrase)

    def read_boxes(self, answer: str, size: tuple[int, int]) -> list[Box] | Failure:
        """See :func:`srum_bagel.grounding.read_boxes`."""
        return read_boxes(answer, size)

    def ask_where_all(self, phrases: Sequence[str]) -> str:
        """See :func:`srum_bagel.grounding.where_all_question`."""
        return where_all_question(phrases)

    def read_named_boxes(self, answer: str, size: tuple[int, int]) -> list[tuple[str, Box]] | Failure:
        """See :func:`srum_bagel.grounding.read_named_boxes`."""
        return read_named_boxes(answer, size)


class ReleasedBagel(BagelAdapter):
    """A checkpoint folder of the released layout, saved as it was found."""

    def __init__(
        self,
        release: Release,
        tokenizer: Tokenizer,
        options: AdapterOptions,
        device: torch.device,
        attention: Attention | None = None,
    ) -> None:
        model, autoencoder = load_release(release, device, getattr(torch, options.dtype), attention)
        super().__init__(
            model,
            autoencoder,
            PlainDialect(tokenizer, options.answer_tokens),
            options.size,
            preparation(release.config),
            IMAGES_PER_CALL,
        )
        self.release = release

    def _write(self, folder: Path) -> None:
        save_release(self.model, self.release, folder)

    def load_trained(self, folder: Path) -> None:
        """See :meth:`ModelAdapter.load_trained`."""
        load_weights(self.model, weight_files(folder), self.model.device)


def preparation(config: BagelConfig) -> Resized:
    """The released rules of resizing for a model of these dimensions."""
    stride, patch = config.latent_stride, config.vit.patch_size
    largest = stride * config.max_latent_size
    seen = patch * config.vit_max_num_patch_per_side
    return Resized(
        autoencoder=ResizeRule(longest=largest, shortest=largest // 2, stride=stride),
        tower=ResizeRule(longest=seen, shortest=max(patch, seen * 16 // 70 // patch * patch), stride=patch),
    )


def heads(options: AdapterOptions) -> Heads:
    """The heads of the checkpoint's attention.

    Raises:
        CheckpointError: the folder holds no BAGEL.
    """
    config = language_config(local_folder(options.checkpoint, options.revision))
    return Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim, options.dtype)


def build(options: AdapterOptions, device: str, attention: Attention | None = None) -> ReleasedBagel:
    """Load the checkpoint. All that its small files and headers tell is checked before any weight is read.

    Raises:
        CheckpointError: the folder holds no BAGEL, or a damaged one.
        ConfigError: ``checkpoint`` is no place, or ``size`` does not fit the model.
    """
    release, tokenizer = _read(options, local_folder(options.checkpoint, options.revision))
    return ReleasedBagel(release, tokenizer, options, torch.device(device), attention)


def without_weights(options: AdapterOptions) -> Weightless:
    """The same model without memory; nothing but small files and headers is read, and nothing is downloaded.

    Raises:
        CheckpointError: as :func:`build`, or the checkpoint is not on this machine.
        ConfigError: as :func:`build`.
    """
    release, _ = _read(options, local_folder(options.checkpoint, options.revision, download=False))
    config, dtype = release.config, getattr(torch, options.dtype)
    return weightless(config, dtype, options.size, options.answer_tokens, preparation(config), IMAGES_PER_CALL)


def _read(options: AdapterOptions, folder: Path) -> tuple[Release, Tokenizer]:
    if not is_release(folder):
        raise CheckpointError(f"{folder} holds no llm_config.json: it is no released BAGEL")
    tokenizer = Tokenizer(folder)
    release = read_release(folder, tokenizer.special, options.weights)
    stride, most = release.config.latent_stride, release.config.max_latent_size
    if any(side % stride or not 0 < side // stride <= most for side in options.size):
        raise ConfigError(f"adapter.size: sides must be multiples of {stride} up to {stride * most}: {options.size}")
    return release, tokenizer
