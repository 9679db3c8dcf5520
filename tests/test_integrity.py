"""What lies on disk is used as it was written or not at all: sums, seals, names, images."""

import dataclasses
import io
import random
import struct
import subprocess
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_backend
from engine_fixtures import toy_config, toy_host, toy_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from srum_plugins import hookimpl
from srum_plugins.contracts import Generated
from srum_plugins.errors import CheckpointError, ContractError, DamagedError, StageError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Provider
from srum_plugins.records import Candidate
from srum_plugins.runs.files import (
    MAX_PIXELS,
    image_bytes,
    parse_image,
    parse_tensor,
    read_sealed,
    tensor_bytes,
    write_folder,
    write_sealed,
)
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.runs.sums import SUMS, check_folder, inside, read_sums, sums_text
from srum_plugins.stages import evaluate, generate, train
from srum_plugins.stages.session import Session
from srum_plugins.stages.verify import PARTS, verify
from srum_plugins.training.checkpoints import checkpoints, resume
from srum_plugins.training.dataset import Dataset
from srum_plugins.training.state import TrainingState

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text().filter(lambda key: key != "sha256"), plain, max_size=3)
names = st.text("abcé _-.0", min_size=1, max_size=8).filter(lambda name: name not in (".", ".."))


def corrupt(data: bytes, draw: random.Random) -> bytes:
    """With one bit flipped, or cut off."""
    if draw.random() < 0.5:
        return data[: draw.randrange(len(data))]
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("integrity")


# --- sealed JSON -------------------------------------------------------------------------------------------------
@given(data=objects, draw=st.randoms(use_true_random=False))
def test_a_sealed_file_comes_back_or_is_refused_when_changed(folder: Path, data: Any, draw: random.Random) -> None:
    path = folder / "a.json"
    write_sealed(path, data)
    assert read_sealed(path) == data
    path.write_bytes(corrupt(path.read_bytes(), draw))
    with pytest.raises(DamagedError, match=r"a\.json"):
        read_sealed(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "no 'sha256' of its own"),
        ('{"a": 1}', "no 'sha256' of its own"),
        ('{"a": NaN, "sha256": "0"}', "its content is not that"),
        ("[" * 100_000, "not valid JSON"),
        ("\xff", "its content|not valid JSON"),
    ],
)
def test_what_is_no_sealed_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError, match=words):
        read_sealed(tmp_path / "a.json")
    with pytest.raises(DamagedError, match="missing"):
        read_sealed(tmp_path / "b.json")


# --- names -------------------------------------------------------------------------------------------------------
@given(st.text(st.sampled_from(["a", "/", ".", "\\", "\0", "\n", "é"]), max_size=6) | st.text())
def test_no_name_leads_out_of_its_folder(folder: Path, name: str) -> None:
    try:
        path = inside(folder, name)
    except DamagedError:
        with pytest.raises(ContractError):
            sums_text({name: ""})
    else:
        assert path.resolve().is_relative_to(folder.resolve()) and path.resolve() != folder.resolve()


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "a//b", "", ".", "a\\..\\b", "a\0b", "./a"])
def test_names_that_may_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedError, match="may lead out"):
        inside(tmp_path, name)


def test_links_out_of_the_folder_are_refused_and_those_within_are_not(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    (tmp_path / "secret").write_text("x")
    (stage / "a").write_text("y")
    for name, target in (("out", tmp_path / "secret"), ("within", stage / "a"), ("up", tmp_path), ("loop", "loop")):
        (stage / name).symlink_to(target)
    for name in ("out", "up/secret"):
        with pytest.raises(DamagedError, match="link out of its folder"):
            inside(stage, name)
    assert inside(stage, "within").read_text() == "y"
    inside(stage, "loop")  # leads nowhere, which reading it tells


def candidate(image: str = "images/a.png", latents: str | None = None) -> Candidate:
    return Candidate("a", "p", 0, 1, image, 4, 2, None, latents)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "images/../../a.png"])
def test_a_record_cannot_name_what_lies_elsewhere(tmp_path: Path, name: str) -> None:
    shards = Shards(tmp_path / "stage", Candidate, 1, 1)
    picture = Image.new("RGB", (4, 2))
    with pytest.raises(ContractError, match="cannot be the name of a file"):
        shards.write(0, [candidate(name)], {name: picture})
    with pytest.raises(ContractError, match="is not given with it"):
        shards.write(0, [candidate(name)], {"images/a.png": picture})
    assert not (tmp_path / "stage").exists()
    # by someone who writes parts and sums by hand
    shards.write(0, [candidate()], {"images/a.png": picture})
    part, sums = shards.part(0), shards.sums(0)
    (tmp_path / "a.png").write_bytes(image_bytes(picture))
    part.write_text(part.read_text().replace("images/a.png", name))
    listed = subprocess.run(["sha256sum", "images/a.png", part.name], cwd=part.parent, capture_output=True, check=True)
    sums.write_text(listed.stdout.decode().replace("images/a.png", name))
    with pytest.raises(DamagedError, match="line 1 is no sha256 sum of another file in its folder"):
        shards.read()
    shards.write(0, [candidate()], {"images/a.png": picture})
    assert shards.image("images/a.png", (4, 2)).size == (4, 2)
    with pytest.raises(DamagedError, match="may lead out of its folder"):
        shards.image(name)


# --- sums --------------------------------------------------------------------------------------------------------
@given(st.dictionaries(names, st.text("0123456789abcdef", min_size=64, max_size=64)))
def test_sums_come_back_in_order(folder: Path, sums: dict[str, str]) -> None:
    (folder / "sums").write_text(sums_text(sums), encoding="utf-8")
    assert [(name, one.sha256) for name, one in read_sums(folder / "sums").items()] == list(sums.items())


def test_sha256sum_reads_our_sums(tmp_path: Path) -> None:
    shards = Shards(tmp_path, Candidate, 1, 1)
    files = {"images/a.png": Image.new("RGB", (4, 2)), "latents/é 1.safetensors": torch.ones(2)}
    shards.write(0, [candidate(latents="latents/é 1.safetensors")], files)
    write_folder(tmp_path / "weights", lambda folder: (folder / "w").write_text("x"))
    for place, sums in ((tmp_path, shards.sums(0).name), (tmp_path / "weights", SUMS)):
        subprocess.run(["sha256sum", "--strict", "-c", sums], cwd=place, check=True, capture_output=True)
    assert torch.equal(shards.tensor("latents/é 1.safetensors"), torch.ones(2))
    assert shards.image("images/a.png", (4, 2)).size == (4, 2)


@given(content=st.dictionaries(names, st.binary(max_size=9), min_size=1, max_size=3), draw=st.randoms())
def test_a_folder_that_was_changed_is_refused(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes], draw: random.Random
) -> None:
    path = tmp_path_factory.mktemp("folder") / "weights"

    def fill(folder: Path) -> None:
        for name, data in content.items():
            (folder / name).write_bytes(data)

    write_folder(path, fill)
    check_folder(path)
    victim = path / draw.choice([*content, SUMS])
    data = victim.read_bytes()
    ways: list[Callable[[], Any]] = [
        victim.unlink,
        lambda: (path / "more").write_bytes(b""),
        lambda: victim.write_bytes(corrupt(data, draw) if data else b"x"),
    ]
    draw.choice(ways)()
    with pytest.raises(DamagedError, match=path.name):
        check_folder(path)


# --- images and tensors ------------------------------------------------------------------------------------------
def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has a few bytes of pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8192, 8193), (10_000, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    assert size[0] * size[1] > MAX_PIXELS
    with pytest.raises(DamagedError, match=rf"bomb\.png: .*more than {MAX_PIXELS}"):
        parse_image(Path("bomb.png"), png_header(*size), size)


def test_an_image_of_another_size_or_format_is_refused() -> None:
    image = Image.new("RGB", (4, 2))
    with pytest.raises(DamagedError, match="4x2 pixels, not of the 2x4 of its record"):
        parse_image(Path("a.png"), image_bytes(image), (2, 4))
    buffer = io.BytesIO()
    image.save(buffer, format="BMP")
    with pytest.raises(DamagedError, match="cannot be read as a PNG"):
        parse_image(Path("a.png"), buffer.getvalue())


@given(draw=st.randoms())
def test_whatever_is_no_image_or_tensor_is_a_damaged_file(draw: random.Random) -> None:
    """Also where no sum tells it first, as for files that come from elsewhere."""
    image = Image.linear_gradient("L").resize((8, 8)).convert("RGB")
    for data, parse in ((image_bytes(image), parse_image), (tensor_bytes(torch.ones(3)), parse_tensor)):
        try:
            parse(Path("a"), corrupt(data, draw))
        except DamagedError as error:
            assert error.file == Path("a")


# --- what says which directory was used --------------------------------------------------------------------------
@pytest.mark.parametrize("current", [b"../../x\n", b"/etc\n", b"\xff\xfe", b"", b"0123456789ab0\n", b"0123456789AB\n"])
def test_an_odd_current_file_is_no_directory(tmp_path: Path, current: bytes) -> None:
    first, second = StageDirectory(tmp_path, "reward", {"a": 1}), StageDirectory(tmp_path, "reward", {"a": 2})
    first.begin()
    first.finish({})
    assert second.staleness() == "reward is stale: a was 1, is 2"
    (first.family / "current").write_bytes(current)
    assert second.staleness() is None


def test_a_damaged_manifest_explains_nothing_and_opens_nothing(tmp_path: Path) -> None:
    first, second = StageDirectory(tmp_path, "reward", {"a": 1}), StageDirectory(tmp_path, "reward", {"a": 2})
    first.begin()
    first.finish({})
    manifest = first.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"1", b"3", 1))
    assert "what changed cannot be told" in (second.staleness() or "")
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        first.begin()
    write_sealed(manifest, {"fingerprint": "of another"})
    with pytest.raises(StageError, match="of another configuration"):
        first.begin()


# --- a whole run -------------------------------------------------------------------------------------------------
class Careful(toy_backend.ToyAdapter):
    """Keeps the latents of every other candidate, so that both latents and images are trained on."""

    def generate(self, requests: Any, sampling: Any) -> list[Generated]:
        drawn = super().generate(requests, sampling)
        latents = super().encode([one.image for one in drawn])
        return [
            dataclasses.replace(one, latents=latents[index]) if request.seed % 2 else one
            for index, (request, one) in enumerate(zip(requests, drawn, strict=True))
        ]


class CarefulPlugin:
    @hookimpl
    def srum_model_adapters(self) -> Sequence[Provider]:
        return [dataclasses.replace(toy_backend.srum_model_adapters()[0], name="careful", factory=Careful)]


def careful_host() -> PluginHost:
    host = toy_host()
    host.register(CarefulPlugin(), "careful")
    return host


def tries(action: Callable[[], Any]) -> str:
    """What an action is refused with; empty if it is not."""
    try:
        action()
    except (DamagedError, CheckpointError) as error:
        return str(error)
    return ""


def put(path: Path, data: bytes | None) -> None:
    """Without data, delete."""
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)


def test_500_corruptions_are_named_and_none_is_used(tmp_path: Path) -> None:
    host, draw = careful_host(), random.Random(0)
    toy_run(tmp_path, "adapter=careful", host=host)
    session = Session(toy_config(tmp_path, "adapter=careful", host=host), host)
    # The same candidates, regions and rewards, but nothing grounded or trained yet.
    other = ("adapter=careful", "grounder=toy-locate")
    regrounds = Session(toy_config(tmp_path, *other, host=host), host)
    retrains = Session(toy_config(tmp_path, "adapter=careful", "train.lr=0.01", host=host), host)
    state = TrainingState({}, {}, torch.optim.SGD([torch.zeros(1)]), {})
    folders = {part.name: session.directory(part).path for part in PARTS}

    def ground_again() -> None:
        generate.locate(regrounds, files := generate.saved(regrounds), files.read())

    def train_again() -> None:
        data = Dataset.build(retrains, retrains.model(), train._examples(retrains))
        for name in [name for example in data.examples for name in example.candidates]:
            data.latents[name]

    def measure_again() -> None:
        evaluate.make(session, session.directory(evaluate.STAGE))
        evaluate.conclude(session, session.directory(evaluate.STAGE))

    def resume_again() -> None:
        resume(session.directory(train.STAGE), state)

    def load_again() -> None:
        Session(session.config, host).model(train.weights(session.directory(train.STAGE)))

    newest = checkpoints(session.directory(train.STAGE))[-1][1].name
    kept = {f"images/{path.stem}.png" for path in (folders["generate"] / "latents").iterdir()}
    assert 0 < len(kept) < 12

    def readers(stage: str, name: str) -> Sequence[Callable[[], Any]]:
        """Who reads a file later on; nobody reads a manifest or an older checkpoint."""
        directory = next(session.directory(part) for part in PARTS if part.name == stage)
        if name.startswith(("part-", "images/", "latents/", "understanding")):
            if stage.startswith(("baseline", "evaluate")):
                return [measure_again]
            if stage == "generate" and name.endswith(".sha256"):  # of an image or of latents
                return [ground_again, train_again]
            return [ground_again] if stage == "generate" and name in kept else [train_again]
        return next(
            (
                [action]
                for start, action in {
                    "weights/": load_again,
                    f"checkpoints/{newest}/": resume_again,
                    "done.json": lambda: directory.complete,
                    "pictures/": directory.pictures,
                    "seconds.json": directory.seconds,
                }.items()
                if name.startswith(start)
            ),
            [],
        )

    groups = (
        ("generate", "reward", "baseline"),
        ("ground", "train", "evaluate-images"),
        ("judge", "evaluate"),
        ("baseline-images",),
    )
    count, refused, seen = 0, 0, set()
    for turn in range(1000):
        if count >= 500:
            break
        broken: list[tuple[Path, bytes, bytes | None]] = []
        for stage in groups[turn % len(groups)]:
            files = [path for path in sorted(folders[stage].rglob("*")) if path.is_file()]
            path = draw.choice(files)
            name, data = path.relative_to(folders[stage]).as_posix(), path.read_bytes()
            figures = path.name == "seconds.json" or path.name.startswith("cost-")  # may be absent
            delete = not data or (draw.random() < 0.2 and not figures)
            broken.append((path, data, None if delete else corrupt(data, draw)))
            seen.add(name.split("/")[0] if "/" in name else path.suffix)
            # Without a done.json a stage is not complete; and what the last stage lacks it makes again.
            made_again = delete and (name == "done.json" or stage == "evaluate")
            if not made_again and (actions := readers(stage, name)):
                put(path, broken[-1][2])
                assert any(path.name in tries(action) for action in actions), f"{path} was used"
                put(path, data)
                refused += 1
        for path, _, damaged in broken:
            put(path, damaged)
        found = verify(session)
        for path, data, _ in broken:
            named = any(path.name in f"{finding.file} {finding.problem}" for finding in found.findings)
            last = path == folders["evaluate"] / "done.json" and "evaluate" in found.unfinished
            assert named or last, path
            put(path, data)
        count += len(broken)
    assert count >= 500 and refused > 250
    assert seen >= {".jsonl", ".sha256", ".json", "images", "latents", "pictures", "checkpoints", "weights"}
    assert verify(session).findings == ()


def test_a_run_whose_image_was_deleted_trains_no_step(tmp_path: Path) -> None:
    toy_run(tmp_path, "train.batch=12")
    (image,) = (tmp_path / "run").glob("stages/generate/*/images/p2-1.png")
    image.unlink()
    toy_backend.calls.clear()
    with pytest.raises(DamagedError, match=r"p2-1\.png: it is missing, but part-00001\.sha256 lists it"):
        toy_run(tmp_path, "train.batch=12", "train.lr=0.01")
    assert toy_backend.calls["predict"] == 0
