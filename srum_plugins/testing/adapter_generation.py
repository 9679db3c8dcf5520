"""Checks of generated images: one per request, from its own seed, whatever it is batched with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from srum_plugins.contracts import Capability, Generated
from srum_plugins.options import build_options
from srum_plugins.testing.adapter_suite import AdapterSubject, AdapterSuite, Size, random_kept

METHOD = "generate"
LEVELS = 1
"""By how many of 256 levels a pixel may differ when sums are rounded in another order."""
LATENTS = 1e-4
"""By how much latents may differ then."""
MOST = 2**63 - 1
"""The highest seed that a run gives."""
OWN_SEED = "draw all noise from torch.Generator().manual_seed(request.seed), one generator a request"


def check_images(adapter: AdapterSubject, drawn: Sequence[Generated], size: Size | None) -> None:
    """Breach unless these are RGB images, of this size if one was asked for."""
    for index, one in enumerate(drawn):
        adapter.require(
            one.image.mode == "RGB", METHOD, f"image {index} is {one.image.mode}, not RGB", "convert it: convert('RGB')"
        )
        adapter.require(
            size is None or one.image.size == size,
            METHOD,
            f"image {index} has {one.image.size} pixels (width, height), and {size} was asked for",
            "draw in the request's width and height, or raise a ContractError that says which sizes there are",
        )


def unlike(one: Generated, other: Generated, levels: int = LEVELS) -> str:
    """How two images differ by more than rounding, by which a pixel may differ by so many levels; empty if they do
    not."""
    if one.image.size != other.image.size:
        return f"the image has {one.image.size} pixels, and {other.image.size} then"
    pixels = [np.asarray(each.image, dtype=np.int16) for each in (one, other)]
    if (most := int(np.abs(pixels[0] - pixels[1]).max())) > levels:
        return f"its pixels differ by up to {most} of 255 levels"
    if one.plan != other.plan:
        return f"its plan is {one.plan!r}, and {other.plan!r} then"
    if one.latents is not None and other.latents is not None:
        difference = float((one.latents - other.latents).abs().max())
        if not difference <= LATENTS:
            return f"its latents differ by up to {difference:.1e}"
    return ""


class GenerationChecks(AdapterSuite):
    """``generate``."""

    def test_it_draws_one_rgb_image_for_each_request_in_the_size_asked_for(self, adapter: AdapterSubject) -> None:
        """Shapes of what is given."""
        adapter.needs(Capability.GENERATE)
        check_images(adapter, adapter.drawn, adapter.wanted_size)
        for size in (adapter.size, *adapter.sizes):
            check_images(adapter, adapter.model.generate(adapter.requests(size)[:1], adapter.sampling), size)
        adapter.model.generate([], adapter.sampling)  # whose length is checked

    def test_the_same_request_gives_the_same_image_and_another_seed_another(self, adapter: AdapterSubject) -> None:
        """To the byte."""
        adapter.needs(Capability.GENERATE)
        requests = adapter.requests(adapter.wanted_size)
        for one, again in zip(adapter.drawn, adapter.model.generate(requests, adapter.sampling), strict=True):
            adapter.require(
                one.image.tobytes() == again.image.tobytes(),
                METHOD,
                "the same requests gave other images the second time",
                OWN_SEED,
            )
        own = requests[0].seed
        for seed in (own + 1, own + 2**20, MOST):
            seeded = replace(requests[0], seed=seed)
            (other,) = adapter.model.generate([seeded], adapter.sampling)
            adapter.require(
                other.image.tobytes() != adapter.drawn[0].image.tobytes(),
                METHOD,
                f"the seeds {own} and {seed} gave the same image",
                OWN_SEED,
            )

    def test_the_prompt_is_drawn(self, adapter: AdapterSubject) -> None:
        """Another prompt with the same seed gives another image."""
        adapter.needs(Capability.GENERATE)
        requests = [replace(one, seed=1) for one in adapter.requests(adapter.wanted_size)]
        drawn = adapter.model.generate(requests, adapter.sampling)
        adapter.require(
            any(one.image.tobytes() != drawn[0].image.tobytes() for one in drawn[1:]),
            METHOD,
            f"with one seed the prompts {', '.join(repr(one.text) for one in adapter.prompts)} give the same image",
            "condition on request.prompt.text. If the weights are random: layers that begin at zero hide it, so give "
            "the suite weights of which none is zero",
        )

    def test_an_image_does_not_depend_on_its_batch(self, adapter: AdapterSubject) -> None:
        """Alone, and in another order, it is the same up to rounding."""
        adapter.needs(Capability.GENERATE)
        requests = adapter.requests(adapter.wanted_size)
        alone = [adapter.model.generate([request], adapter.sampling)[0] for request in requests]
        turned = adapter.model.generate(requests[::-1], adapter.sampling)[::-1]
        for way, others in (("alone", alone), ("in a batch of another order", turned)):
            for request, one, other in zip(requests, adapter.drawn, others, strict=True):
                if wrong := unlike(one, other):
                    adapter.breach(METHOD, f"drawn {way}, the prompt {request.prompt.text!r}: {wrong}", OWN_SEED)

    def test_images_of_several_sizes_are_drawn_together(self, adapter: AdapterSubject) -> None:
        """Each is as it is alone."""
        adapter.needs(Capability.GENERATE)
        if not adapter.sizes:
            pytest.skip("the suite names no other sizes")
        requests = [adapter.requests(size)[0] for size in (adapter.size, *adapter.sizes)]
        together = adapter.model.generate(requests, adapter.sampling)
        for request, one in zip(requests, together, strict=True):
            if wrong := unlike(one, adapter.model.generate([request], adapter.sampling)[0]):
                adapter.breach(
                    METHOD,
                    f"of {request.width} x {request.height} pixels, drawn with images of other sizes: {wrong}",
                    "draw each request in its own width and height, size by size if it must be",
                )

    def test_images_come_from_their_seeds_alone(self, adapter: AdapterSubject) -> None:
        """The global random numbers of torch, numpy and Python are neither read nor moved."""
        adapter.needs(Capability.GENERATE)
        model, request = adapter.model, adapter.requests(adapter.wanted_size)[0]  # to make it may move them
        drawn = []
        for seed in (1, 2):
            with random_kept(adapter, METHOD, seed, OWN_SEED):
                drawn.append(model.generate([request], adapter.sampling)[0])
        adapter.require(
            drawn[0].image.tobytes() == drawn[1].image.tobytes(),
            METHOD,
            "an image changes with the global random numbers, although its request is the same",
            OWN_SEED,
        )

    def test_a_plan_is_written_where_it_is_asked_for_and_nowhere_else(self, adapter: AdapterSubject) -> None:
        """``Generated.plan``."""
        adapter.needs(Capability.GENERATE)
        adapter.require(
            all(one.plan is None for one in adapter.drawn),
            METHOD,
            "gave a plan that the sampling settings did not ask for",
            "leave Generated.plan None unless the model is told to think",
        )
        if not adapter.can(Capability.THINK):
            pytest.skip("the adapter does not declare think")
        settings = {**self.sampling, **self.thinking}
        sampling: Any = build_options(adapter.registered.provider.sampling, settings, "sampling")
        for one in adapter.model.generate(adapter.requests(adapter.wanted_size)[:2], sampling):
            adapter.require(
                isinstance(one.plan, str),
                METHOD,
                f"declares think, and gave no plan where {dict(self.thinking)} asks for one",
                "return the text as Generated.plan, or do not declare think",
            )
