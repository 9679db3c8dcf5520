"""Records that fail are set apart, and the run goes on without them; stages that are done again."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import toy_backend
from engine_fixtures import contents, toy_config, toy_host, toy_run
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins import cli, hookimpl
from srum_plugins.contracts import Located, ModelAdapter
from srum_plugins.errors import ContractError, DamagedError, StageError, StorageError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Capability, Provider
from srum_plugins.records import Failure, Grounding, Judgement
from srum_plugins.runs.redo import NOTE, put_aside
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import ground, judge, reward
from srum_plugins.stages.quarantine import Failing, attempt, set_apart
from srum_plugins.stages.session import Session

FAILING = Failing[str](keep=lambda item, failure: f"-{item} {failure.cause}", read=lambda record: None)


class Picky(toy_backend.ChoiceJudge):
    """Cannot judge some candidates."""

    refused: tuple[str, ...] = ()
    error: Exception = ValueError("cannot read this one")

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        if any(item.candidate.id in self.refused for item in items):
            raise self.error
        return super().judge(items, groundings, model)


class Plugin:
    @hookimpl
    def srum_judges(self) -> list[Provider]:
        needs = frozenset({Capability.CHOICE})
        factory = lambda options: Picky(toy_backend.JudgeOptions())  # noqa: E731
        return [Provider("picky", "refuses some", factory, needs=lambda options: needs)]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    monkeypatch.setattr(Picky, "refused", ("p1-0", "p3-2"))
    found = toy_host()
    found.register(Plugin(), "picky")
    return found


def listed(folder: Path, stage: str) -> list[dict[str, Any]]:
    (path,) = (folder / "run/stages" / stage).glob("*/quarantine.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- one chunk -----------------------------------------------------------------------------------------------------
@given(st.sets(st.integers(0, 9)), st.integers(2, 10))
def test_those_that_fail_are_kept_as_failures_in_their_place(bad: set[int], count: int) -> None:
    def work(items: range) -> tuple[list[str], dict[str, Any]]:
        if broken := bad & set(items):
            raise ValueError(f"{min(broken)}")
        return [str(item) for item in items], {}

    if set(range(count)) <= bad:
        with pytest.raises(ValueError, match="0"):
            attempt(work, range(count), FAILING, 0)
    else:
        records, _ = attempt(work, range(count), FAILING, 0)
        assert records == [f"-{item} ValueError" if item in bad else str(item) for item in range(count)]


@pytest.mark.parametrize(
    "error", [ContractError("x"), StageError("x"), StorageError("full"), MemoryError(), KeyboardInterrupt()]
)
def test_what_is_no_fault_of_a_record_stops_the_run(error: BaseException) -> None:
    def work(items: range) -> tuple[list[str], dict[str, Any]]:
        raise error

    with pytest.raises(type(error)):
        attempt(work, range(1), FAILING, 0)


# --- a run -------------------------------------------------------------------------------------------------------
def test_a_judge_that_fails_at_some_candidates_leaves_them_out(tmp_path: Path, host: PluginHost) -> None:
    said = toy_run(tmp_path, "judge=picky", "run.max_failed=0.2", host=host)
    assert any(line.startswith("judge: 2 in quarantine, see ") for line in said)
    assert listed(tmp_path, "judge") == [
        {"candidate": name, "cause": "ValueError", "detail": "cannot read this one"} for name in ("p1-0", "p3-2")
    ]
    session = Session(toy_config(tmp_path, "judge=picky", host=host), host)
    records = judge.read_judgements(session)
    assert [one.candidate_id for one in records if isinstance(one.alpha, Failure)] == ["p1-0", "p3-2"]
    assert all(isinstance(score, Failure) for one in records if one.candidate_id == "p1-0" for score in one.local)
    assert {(one.judge, one.version) for one in records} == {("picky", records[0].version)}
    assert [one is None for one in reward.read_rewards(session)].count(True) == 2
    assert session.directory(judge.STAGE).facts()["quarantined"] == 2
    assert (tmp_path / "run/summary.json").exists()


def test_too_many_stop_the_run_which_says_what_to_do(tmp_path: Path, host: PluginHost) -> None:
    with pytest.raises(StageError) as caught:
        toy_run(tmp_path, "judge=picky", "run.max_failed=0.1", host=host)
    message = str(caught.value)
    assert "2 of 12 records of the stage judge have failed, more than run.max_failed=0.1 allows" in message
    assert "cannot read this one" in message
    assert "--from judge" in message
    with pytest.raises(StageError, match="more than run"):  # what failed is on disk, and counts again
        toy_run(tmp_path, "judge=picky", "run.max_failed=0.1", host=host)
    assert len(listed(tmp_path, "judge")) == 2
    assert not list((tmp_path / "run/stages").glob("train"))


def test_a_judge_that_fails_at_all_of_a_chunk_is_not_blamed_on_the_candidates(
    tmp_path: Path, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Picky, "refused", tuple(f"p{prompt}-{index}" for prompt in range(4) for index in range(3)))
    with pytest.raises(ValueError, match="cannot read this one"):
        toy_run(tmp_path, "judge=picky", host=host)


def test_a_corrupt_image_is_set_apart_and_the_candidate_not_judged(tmp_path: Path, host: PluginHost) -> None:
    toy_run(tmp_path, only="generate", host=host)
    (image,) = (tmp_path / "run/stages/generate").glob("*/images/p2-1.png")
    whole = image.read_bytes()
    image.write_bytes(whole[:-20])
    for stage in ("ground", "judge", "reward"):
        toy_run(tmp_path, "run.max_failed=0.1", only=stage, host=host)
    (one,) = listed(tmp_path, "ground")
    assert one["candidate"] == "p2-1"
    assert one["cause"] == "DamagedError"
    assert "p2-1.png" in one["detail"]
    session = Session(toy_config(tmp_path, host=host), host)
    assert [record.failure is not None for record in ground.read_groundings(session)].count(True) == 1
    assert session.directory(ground.STAGE).facts()["quarantined"] == 1
    assert session.directory(judge.STAGE).facts()["quarantined"] == 0
    assert session.directory(judge.STAGE).facts()["failed_global"] == 1
    assert [record is None for record in reward.read_rewards(session)].count(True) == 1
    # The mend: the image as it was, and the stages that missed it again.
    image.write_bytes(whole)
    said: list[str] = []
    from srum_plugins.stages.pipeline import run

    run(toy_config(tmp_path, host=host), host, say=said.append, start="ground")
    assert not list((tmp_path / "run/stages/ground").glob("????????????/quarantine.jsonl"))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    toy_run(fresh, host=host)
    found = {name: data for name, data in contents(tmp_path / "run").items() if ".replaced-" not in name}
    assert found == contents(fresh / "run")


def test_a_candidate_that_is_damaged_is_not_trained_on(tmp_path: Path, host: PluginHost) -> None:
    toy_run(tmp_path, host=host)
    (image,) = (tmp_path / "run/stages/generate").glob("*/images/p2-1.png")
    image.write_bytes(image.read_bytes()[:-20])
    toy_backend.calls.clear()
    with pytest.raises(DamagedError, match=r"p2-1\.png"):
        toy_run(tmp_path, "train.lr=0.01", host=host)
    assert toy_backend.calls["predict"] == 0


# --- stages again ------------------------------------------------------------------------------------------------
def test_stages_are_done_again_from_one_on_and_what_was_there_is_put_aside(tmp_path: Path) -> None:
    from srum_plugins.stages.pipeline import run

    toy_run(tmp_path)
    before = contents(tmp_path / "run")
    toy_backend.calls.clear()
    said: list[str] = []
    run(toy_config(tmp_path), toy_host(), say=said.append, start="reward")
    assert [line.split()[0] for line in said] == ["evaluate", "train", "reward"]
    assert all("is done again; what was there is now " in line for line in said)
    assert not toy_backend.calls["ground"] and toy_backend.calls["aggregate"] == 1 and toy_backend.calls["predict"]
    after = contents(tmp_path / "run")
    assert {name: data for name, data in after.items() if ".replaced-" not in name} == before
    assert {name.replace(".replaced-1", "") for name in after if ".replaced-" in name} < set(before)


def test_doing_again_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    from srum_plugins.stages.pipeline import run

    class Stop:
        @hookimpl
        def srum_checkpoint_saved(self, step: int) -> None:
            raise KeyboardInterrupt

    toy_run(tmp_path)
    before = contents(tmp_path / "run")
    host = toy_host()
    host.register(Stop(), "stop")
    with pytest.raises(KeyboardInterrupt):
        run(toy_config(tmp_path), host, say=lambda line: None, start="judge")
    toy_backend.calls.clear()
    run(toy_config(tmp_path), toy_host(), say=lambda line: None, start="judge")
    assert toy_backend.calls["judge"] == 0  # already done again
    found = {name: data for name, data in contents(tmp_path / "run").items() if ".replaced-" not in name}
    assert found == before
    run(toy_config(tmp_path), toy_host(), say=lambda line: None, start="judge")  # and once more from the start
    assert toy_backend.calls["judge"] == 3


def test_a_run_that_was_killed_at_its_very_end_has_nothing_left_to_do_again(tmp_path: Path) -> None:
    from srum_plugins.runs import redo
    from srum_plugins.stages.pipeline import run

    toy_run(tmp_path)
    session = Session(toy_config(tmp_path), toy_host())
    redo.put_aside(tmp_path / "run", "judge", [session.directory(judge.STAGE)], lambda line: None)
    toy_run(tmp_path)
    assert not (tmp_path / "run" / redo.NOTE).exists()
    redo.put_aside(tmp_path / "run", "evaluate", [], lambda line: None)  # the note, and all is complete
    toy_run(tmp_path)
    assert not (tmp_path / "run" / redo.NOTE).exists()
    toy_backend.calls.clear()
    run(toy_config(tmp_path), toy_host(), say=lambda line: None, start="judge")
    assert toy_backend.calls["judge"] == 3


def test_from_is_a_stage_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", str(tmp_path / "toy.yaml"), "--from", "judging"])
    assert "invalid choice: 'judging'" in capsys.readouterr().err


def stages(folder: Path) -> list[StageDirectory]:
    found = [StageDirectory(folder, name, {}) for name in ("judge", "reward", "train")]
    for one in found:
        one.begin()
    return found


def test_putting_aside_that_is_interrupted_leaves_no_stage_that_was_made_of_one_that_is_gone(tmp_path: Path) -> None:
    for most in range(4):
        given, said = stages(tmp_path / str(most)), []

        def say(line: str, most: int = most, said: list[str] = said) -> None:
            if len(said) == most:
                raise KeyboardInterrupt
            said.append(line)

        with suppress(KeyboardInterrupt):
            put_aside(tmp_path / str(most), "judge", given, say)
        there = [one.path.exists() for one in given]
        assert there == sorted(there, reverse=True)
        put_aside(tmp_path / str(most), "judge", given, say=said.append)
        assert [len(list(one.family.glob("*.replaced-*"))) for one in given] == [1, 1, 1]


def test_what_was_put_aside_may_be_deleted_in_any_order_and_a_damaged_note_is_none(tmp_path: Path) -> None:
    for gone in (None, 1, None, 2):
        given = stages(tmp_path)
        if gone is not None:
            shutil.rmtree(given[0].path.with_name(f"{given[0].path.name}.replaced-{gone}"))
        put_aside(tmp_path, "judge", given, say=lambda line: None)
        (tmp_path / NOTE).write_text("{")
    assert sorted(path.name[-1] for path in given[0].family.glob("*.replaced-*")) == ["1", "2"]
    assert sorted(path.name[-1] for path in given[1].family.glob("*.replaced-*")) == ["1", "2", "3", "4"]


def test_the_list_of_what_failed_is_that_of_the_last_time(tmp_path: Path) -> None:
    directory = stages(tmp_path)[0]
    assert set_apart(directory, {"a": Failure("odd")}, 10, 0.5) == 1
    assert directory.loose() == ["quarantine.jsonl"]
    assert set_apart(directory, {}, 10, 0.5) == 0
    assert directory.loose() == []
