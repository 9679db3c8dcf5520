"""The run directory: shards, fingerprints, staleness, locks."""

import json
import multiprocessing
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from srum_plugins.errors import ContractError, DamagedError, StageError
from srum_plugins.records import Box, Grounding, Region
from srum_plugins.runs import files
from srum_plugins.runs.files import ASIDE, clean, write_bytes, write_folder, write_json
from srum_plugins.runs.fingerprint import canonical, changes, fingerprint, stable_seed
from srum_plugins.runs.lock import held
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.runs.sums import digest, sums_text
from srum_plugins.stages.session import file_name
from srum_plugins.world import World

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ingredients = st.dictionaries(st.text(min_size=1), plain, max_size=4)


def record(index: int) -> Grounding:
    return Grounding(f"é{index}\u2028", (Region(Box(0, 0, index + 1, 2.5), "a b\n"),), {"far": index})


# --- fingerprints ------------------------------------------------------------------------------------------------
@given(ingredients)
def test_a_fingerprint_survives_json_and_key_order(value: dict[str, Any]) -> None:
    shuffled = dict(reversed(list(value.items())))
    assert fingerprint(json.loads(canonical(shuffled))) == fingerprint(value)


@given(ingredients, ingredients)
def test_fingerprints_differ_just_if_the_values_do(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (fingerprint(one) == fingerprint(two)) == (canonical(one) == canonical(two))


@given(ingredients, ingredients)
def test_changes_are_named_just_if_there_are_any(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (changes(one, two) == []) == (canonical(one) == canonical(two))


def test_a_fingerprint_never_changes_between_releases() -> None:
    assert fingerprint({"b": [1, 2.5, None], "a": "é"})[:16] == "d764fee2563da33e"


def test_changes_in_words() -> None:
    old = {"aggregator": {"name": "srum", "background": 0.0}, "seed": 1, "inputs": {"judge": "a" * 64}}
    new = {"aggregator": {"name": "shuffled", "background": 0.5}, "seed": 2, "inputs": {"judge": "b" * 64}}
    assert changes(old, new) == ["aggregator was srum, is shuffled", "its input judge changed", "seed was 1, is 2"]
    assert changes({"a": {"name": "x", "k": 1}}, {"a": {"name": "x", "k": None}}) == ["a.k was 1, is unset"]


@given(st.lists(plain, max_size=3), st.lists(plain, max_size=3))
def test_seeds_are_stable_and_apart(one: list[Any], two: list[Any]) -> None:
    assert 0 <= stable_seed(*one) < 2**63
    assert (stable_seed(*one) == stable_seed(*two)) == (canonical(one) == canonical(two))


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_file_names_are_safe_and_apart(one: str, two: str) -> None:
    names = [file_name(one), file_name(two)]
    assert (names[0] == names[1]) == (one == two)
    for name in names:
        assert "/" not in name and "\0" not in name and not name.startswith(".") and 0 < len(name) <= 100


# --- shards ------------------------------------------------------------------------------------------------------
@given(total=st.integers(1, 23), chunk=st.integers(1, 9), data=st.data())
def test_any_order_and_any_loss_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, total: int, chunk: int, data: st.DataObject
) -> None:
    def make(folder: Path, order: list[int]) -> dict[str, bytes]:
        shards = Shards(folder, Grounding, total, chunk)
        for index in order:
            shards.write(index, [record(item) for item in shards.items(index)])
        assert shards.missing() == []
        assert shards.done() == total
        assert shards.read() == [record(item) for item in range(total)]
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    straight, other = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("other")
    count = len(Shards(straight, Grounding, total, chunk))
    expected = make(straight, list(range(count)))
    lost = data.draw(st.sets(st.sampled_from(range(count))))
    make(other, data.draw(st.permutations(range(count))))
    for index in lost:
        (other / f"part-{index:05d}.jsonl").unlink()
    shards = Shards(other, Grounding, total, chunk)
    assert shards.missing() == sorted(lost)
    assert make(other, shards.missing()) == expected


def test_images_are_on_disk_before_the_records_that_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards(tmp_path, Grounding, 1, 1)
    broken = Image.new("F", (2, 2))  # PNG cannot hold it
    with pytest.raises(OSError):
        shards.write(0, [record(0)], {"images/a.png": Image.new("RGB", (2, 2)), "images/b.png": broken})
    assert shards.missing() == [0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    order: list[str] = []

    def flush(path: Path) -> None:
        order.append(f"flush {re.sub(rf'{ASIDE}[0-9a-f]+-', '', path.name)}")

    monkeypatch.setattr(files, "sync", flush)
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append(f"name {to.name}"), replace(self, to))[1])
    shards.write(0, [record(0)], {"images/a.png": Image.new("RGB", (2, 2))})
    part = order.index("name part-00000.jsonl")
    for name in ("a.png", "part-00000.sha256"):
        flushed = order.index(f"flush {name}")
        assert flushed < order.index(f"name {name}") < order.index(f"flush {tmp_path.name}", flushed) < part
    assert order.index("flush part-00000.jsonl") < part


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}\n{}\n", "part-00000.jsonl: line 1: Grounding: missing field(s) candidate_id, regions"),
        ('{"candidate_id": "a", "regions": []}\n{"candidate_id": 3, "regions": []}\n', "jsonl: line 2: Grounding"),
        ('{"candidate_id": "a", "regions": []}\n{"candi\n', "part-00000.jsonl: line 2: "),
        ('{"candidate_id": "a", "regions": []}\n', "1 records, expected 2"),
    ],
)
def test_odd_parts_are_named_with_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    shards = Shards(tmp_path, Grounding, 2, 2)
    shards.part(0).write_text(text)
    shards.sums(0).write_text(sums_text({shards.part(0).name: digest(shards.part(0))}))
    with pytest.raises(DamagedError) as caught:
        shards.read()
    assert words in str(caught.value)
    assert "srum verify CONFIG --repair" in str(caught.value)


def test_incomplete_shards_cannot_be_read_and_miscounted_ones_not_written(tmp_path: Path) -> None:
    shards = Shards(tmp_path, Grounding, 3, 2)
    with pytest.raises(ContractError, match="needs 2 records, got 1"):
        shards.write(0, [record(0)])
    with pytest.raises(StageError, match="not complete"):
        shards.read()


def test_numbers_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    shards = Shards(tmp_path, Grounding, 1, 1)
    with pytest.raises(ValueError):
        shards.write(0, [Grounding("a", (Region(Box(0, 0, 1, 1), score=float("nan")),))])
    assert shards.missing() == [0]


# --- files -------------------------------------------------------------------------------------------------------
def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("inf")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_a_folder_is_whole_or_absent_and_leftovers_are_cleaned(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_folder(tmp_path / "weights", fail)
    write_bytes(tmp_path / "deep" / "kept", b"kept")
    (tmp_path / "deep" / f"{ASIDE}1-part").write_text("half")
    assert not (tmp_path / "weights").exists()
    clean(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["deep", "deep/kept"]
    write_folder(tmp_path / "weights", lambda folder: write_bytes(folder / "w", b"1"))
    write_folder(tmp_path / "weights", lambda folder: write_bytes(folder / "v", b"2"))
    assert [path.name for path in (tmp_path / "weights").glob("?")] == ["v"]


# --- stage directories -------------------------------------------------------------------------------------------
def test_a_changed_setting_is_stale_in_words_and_changing_back_finds_the_old_results(tmp_path: Path) -> None:
    first = StageDirectory(tmp_path, "reward", {"aggregator": {"name": "srum"}})
    assert first.staleness() is None
    first.begin()
    assert not first.complete
    first.finish({"rewards": 3})
    second = StageDirectory(tmp_path, "reward", {"aggregator": {"name": "shuffled"}})
    assert not second.complete
    assert second.staleness() == "reward is stale: aggregator was srum, is shuffled"
    second.begin()
    second.finish({})
    third = StageDirectory(tmp_path, "reward", {"aggregator": {"name": "uniform"}})
    assert third.staleness() == "reward is stale: aggregator was shuffled, is uniform"
    again = StageDirectory(tmp_path, "reward", {"aggregator": {"name": "srum"}})
    assert again.complete
    assert again.staleness() is None
    assert again.facts()["rewards"] == 3
    again.use()
    assert third.staleness() == "reward is stale: aggregator was srum, is uniform"


def test_seconds_add_up_over_processes(tmp_path: Path) -> None:
    for _ in range(2):
        directory = StageDirectory(tmp_path, "judge", {})
        directory.begin()
        before = directory.seconds()
        directory.tick()
        assert directory.seconds() >= before


def _hold(root: Path, ready: Any, release: Any) -> None:
    with held(root, World()):
        ready.set()
        release.wait(30)


def test_two_runs_cannot_have_one_directory_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, release))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(StageError, match=f"is already being run by process {holder.pid}"), held(tmp_path, World()):
        pass
    holder.kill()
    holder.join()
    with held(tmp_path, World()):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_one_file_may_be_written_by_several_at_once(tmp_path: Path) -> None:
    """As by threads that ask an endpoint the same, and processes of two machines with the same number."""
    content = {"request": "the same"}

    def write(name: int) -> None:
        write_json(tmp_path / f"{name}.json", content)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [name for name in range(20) for _ in range(8)]))
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.json" for name in range(20)}
    assert all(json.loads(path.read_text()) == content for path in tmp_path.iterdir())
