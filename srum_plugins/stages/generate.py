"""Stage ``generate``: K candidate images for every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srum_plugins.contracts import Capability, Generated, GenerationRequest, Located, ModelAdapter
from srum_plugins.errors import ContractError
from srum_plugins.pictures import sample_grid
from srum_plugins.providers import Kind
from srum_plugins.records import Candidate
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.runs.shards import Attachment, Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages.session import Session, Stage, file_name, run_chunks

SHOWN = 8  # prompts in the sample grid


def ingredients(session: Session) -> dict[str, Any]:
    """What the candidates depend on."""
    return {
        "adapter": session.ingredient(Kind.ADAPTER),
        "prompts": session.prompts_ingredient(Kind.PROMPTS, session.prompts),
        "generate": session.info.config["generate"],
        "device": session.device_type,
    }


def shards(session: Session, directory: StageDirectory) -> Shards[Candidate]:
    """The candidates on disk, prompt by prompt."""
    settings = session.config.generate
    return Shards(directory.path, Candidate, len(session.prompts) * settings.candidates, settings.chunk)


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) candidates."""
    candidates = shards(session, directory)
    return candidates.done(), candidates.total


def make(session: Session, directory: StageDirectory) -> None:
    """Generate what is missing. A candidate's seed is a hash of the run's seed, its prompt's id and its index, so that
    neither the other prompts nor the batching matter."""
    settings, prompts = session.config.generate, session.prompts

    def work(items: range) -> tuple[list[Candidate], dict[str, Attachment]]:
        places = [(prompts[item // settings.candidates], item % settings.candidates) for item in items]
        requests = [
            GenerationRequest(
                prompt, stable_seed(session.config.run.seed, prompt.id, index), settings.width, settings.height
            )
            for prompt, index in places
        ]
        results = generate_checked(session.model(), requests, session.config.sampling["generate"])
        records: list[Candidate] = []
        files: dict[str, Attachment] = {}
        for (prompt, index), request, result in zip(places, requests, results, strict=True):
            identifier = f"{prompt.id}-{index}"
            name, latents = f"images/{file_name(identifier)}.png", None
            files[name] = result.image
            if result.latents is not None:
                latents = f"latents/{file_name(identifier)}.safetensors"
                files[latents] = result.latents.float()
            records.append(
                Candidate(identifier, prompt.id, index, request.seed, name, *result.image.size, result.plan, latents)
            )
        return records, files

    run_chunks(session, shards(session, directory), work, directory)


def conclude(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Draw a grid of samples."""
    settings, prompts = session.config.generate, session.prompts
    candidates = shards(session, directory)
    shown = candidates.read()[: SHOWN * settings.candidates]
    texts = {prompt.id: prompt.text for prompt in prompts}
    pictures = [candidates.image(candidate.image, (candidate.width, candidate.height)) for candidate in shown]
    captions = [texts[candidate.prompt_id] if candidate.index == 0 else "" for candidate in shown]
    session.picture(directory, "candidates", sample_grid(pictures, captions, columns=settings.candidates))
    # The reward stage shows maps on the model's token grid without loading the model.
    can_train = Capability.TRAIN in session.choice(Kind.ADAPTER).registered.provider.capabilities
    grid = session.model().token_grid(shown[0].width, shown[0].height) if can_train else None
    return {"images": candidates.total, "prompts": len(prompts), "token_grid": grid}


def generate_checked(model: ModelAdapter, requests: Sequence[GenerationRequest], sampling: Any) -> list[Generated]:
    """The model's images, checked against the contract: one RGB image per request, of the size asked for."""
    results = model.generate(requests, sampling)
    if len(results) != len(requests):
        raise ContractError(f"{type(model).__name__} returned {len(results)} images for {len(requests)} requests")
    for result in results:
        if not isinstance(result, Generated):
            raise ContractError(
                f"{type(model).__name__}.generate gave a {type(result).__name__}, expected Generated(image)"
            )
    for request, image in zip(requests, (result.image for result in results), strict=True):
        size = (request.width or image.width, request.height or image.height)
        if image.mode != "RGB" or image.size != size:
            raise ContractError(
                f"{type(model).__name__}: the image of {request.prompt.id!r} is {image.mode} of {image.width}x"
                f"{image.height}, expected RGB of {size[0]}x{size[1]}"
            )
    return results


def saved(session: Session) -> Shards[Candidate]:
    """The candidates of the complete stage."""
    return shards(session, session.directory(STAGE))


def locate(session: Session, files: Shards[Candidate], candidates: Sequence[Candidate]) -> list[Located]:
    """These candidates with their prompts and images; ``files`` is :func:`saved`."""
    prompts = {prompt.id: prompt for prompt in session.prompts}
    return [
        Located(prompts[item.prompt_id], item, files.image(item.image, (item.width, item.height)))
        for item in candidates
    ]


STAGE = Stage("generate", inputs=(), ingredients=ingredients, progress=progress, make=make, conclude=conclude)
