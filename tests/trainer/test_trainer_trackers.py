"""wandb and trackio themselves: a run that goes on is one run there, and has each point once."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from test_trainer_run import interrupt
from wandb_standin import Server, wandb_standin

from schemas.errors import UserError
from trainer.loop import _open_metrics
from trainer.metrics import MetricsFile, read_metrics
from trainer.parallel.processes import World
from trainer.trackers import check_trackers
from trainer.trackers.points import points
from trainer.trackers.tracker import TRACKERS
from trainer.train import TrainResult

Run = Callable[..., TrainResult]
T = TypeVar("T")


def cut_off(run: Run, tracker: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is cut off a step after its checkpoint at step 3, and goes on; its folder."""
    flags = ("--track", tracker, "--eval-id", f"seen={images}", "--eval-every", "1")
    interrupt(lambda: run(*flags), 4, monkeypatch)
    return run(*flags, "--workers", "1").output


def expected(folder: Path) -> dict[int, dict[str, float]]:
    """The points of metrics.jsonl by step, without pace and memory, which no two runs share."""
    found: dict[int, dict[str, float]] = {}
    for line in read_metrics(folder):
        found.setdefault(line["step"], {}).update(points(line))
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert {step for step, values in found.items() if "eval/id/seen/top1" in values} == {3, 6}
    return {step: stable(values) for step, values in found.items()}


def stable(values: dict[str, Any]) -> dict[str, float]:
    measured = ("images_per_second", "data_wait", "peak_memory_mib", "timestamp", "step")
    return {k: v for k, v in values.items() if k not in measured and not k.startswith("_")}


@pytest.fixture
def wandb_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of this machine's user; wandb's own process ends with the test."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    wandb.teardown()
    yield
    wandb.teardown()


def records(path: Path) -> Iterator[Any]:
    """What a .wandb file holds: LevelDB's log of protocol buffers, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb_offline_leaves_one_whole_run_to_send(
    wandb_alone: None, run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    folder = cut_off(run, "wandb", images, monkeypatch)
    (written,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    found: dict[int, dict[str, float]] = {}
    for record in records(written):
        if record.WhichOneof("record_type") == "run":
            about = record.run
        if record.WhichOneof("record_type") == "history":
            step = record.history.step.num
            assert step not in found
            values = {i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            found[step] = stable(values)
    assert found == expected(folder)
    assert (about.project, about.display_name) == ("mine", "run")
    assert about.run_id == (folder / "track_id").read_text()
    told = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert told["inputs"] == json.loads((folder / "config.json").read_text())["inputs"]


@pytest.fixture
def server(wandb_alone: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with wandb_standin() as served:
        monkeypatch.setenv("WANDB_BASE_URL", served.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield served


def test_a_run_goes_on_at_a_wandb_server(
    server: Server, run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut_off(run, "wandb", images, monkeypatch)
    ((identity, lines),) = server.history.items()
    assert identity == (folder / "track_id").read_text()
    assert [line["_step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {line["_step"]: stable(line) for line in lines} == expected(folder)
    assert server.exit_codes[identity] == [1, 0]
    assert server.about[identity]["project"] == "anchorft"
    first = server.history.pop(identity)
    run("--track", "wandb", "--force", "--epochs", "1")  # another run, and no more of the first
    ((other, lines),) = server.history.items()
    assert other != identity
    assert len(first) == 6
    assert [line["_step"] for line in lines] == [1, 2, 3]


def test_what_a_wandb_server_lacks_is_sent_and_nothing_else(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for start, names, steps in ((0, ["wandb"], (1, 2)), (1, [], (2, 3)), (3, ["wandb"], (4,))):
        metrics = MetricsFile(tmp_path, start, track=names)
        for step in steps:
            metrics.write({"step": step, "loss": step / 2})
        metrics.close()
    (lines,) = server.history.values()
    assert [(line["_step"], line["loss"]) for line in lines] == [(n, n / 2) for n in (1, 2, 3, 4)]
    assert "less than" not in capfd.readouterr().err  # so wandb says of a step that it has


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where trackio keeps its database; it looks this up once, when it is imported."""
    assert "trackio" not in sys.modules
    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("TRACKIO_")]:
            patch.delenv(name)
        patch.setenv("TRACKIO_DIR", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        import trackio  # noqa: F401

        yield folder


def test_trackio_has_a_run_that_goes_on_once(
    trackio_folder: Path,
    run: Run,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setenv("TRACKIO_PROJECT", "mine")
    folder = cut_off(run, "trackio", images, monkeypatch)
    assert (trackio_folder / "mine.db").exists()
    (held,) = trackio.Api().runs("mine")
    assert held.name == f"run-{(folder / 'track_id').read_text()}"
    assert held.config["inputs"] == json.loads((folder / "config.json").read_text())["inputs"]
    found: dict[int, dict[str, float]] = {}
    for line in SQLiteStorage.get_logs("mine", held.name):
        values = stable(line)
        assert not found.get(line["step"], {}).keys() & values.keys() - {"epoch"}
        found.setdefault(line["step"], {}).update(values)
    assert found == expected(folder)
    assert capsys.readouterr().out == ""


def test_a_run_goes_on_at_trackios_own_server(
    trackio_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    served, _, _, address = trackio.show(open_browser=False, block_thread=False)
    monkeypatch.setenv("TRACKIO_SERVER_URL", address)
    for start, names, steps in ((0, ["trackio"], (1, 2)), (1, [], (2, 3)), (3, ["trackio"], (4,))):
        metrics = MetricsFile(tmp_path, start, track=names)
        for step in steps:
            metrics.write({"step": step, "loss": step / 2})
        metrics.close()
    (held,) = trackio.Api().runs("anchorft")  # it is a thread of this process, with its database
    lines = SQLiteStorage.get_logs("anchorft", held.name)
    assert [(line["step"], line["loss"]) for line in lines] == [(n, n / 2) for n in (1, 2, 3, 4)]
    served.close(verbose=False)


@pytest.mark.parametrize(
    ("name", "environment", "sentence"),
    [
        ("wandb", {}, "--track wandb cannot begin (No API key configured"),
        (
            "trackio",
            {"TRACKIO_SERVER_URL": "http://127.0.0.1:9/?write_token=x"},
            "--track trackio cannot begin (trackio.init() could not create a remote client",
        ),
    ],
)
def test_a_tracker_that_cannot_begin_is_a_sentence(
    wandb_alone: None,
    trackio_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    environment: dict[str, str],
    sentence: str,
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as raised:
        MetricsFile(tmp_path, 0, track=[name])
    assert str(raised.value).startswith(sentence)
    assert str(raised.value).endswith(", or leave it out.")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_package_that_is_missing_is_named_before_anything_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"needs the package {name}; run pip install {name}"):
        run("--track", name)
    assert not (tmp_path / "run").exists()
    monkeypatch.delitem(sys.modules, name)
    (tmp_path / "empty" / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "empty")])
    with pytest.raises(UserError, match=f"run pip install {name}"):  # a folder is no package
        check_trackers([name])


class Failing:
    """A tracker that takes a point, and no more."""

    def __init__(self, folder: Path, lines: Sequence[Any]) -> None:
        self.taken = 0

    def write(self, entry: Any) -> None:
        self.taken += 1
        if self.taken > 1:
            raise ConnectionError("the server\nis gone.")

    def close(self, *, finished: bool) -> None:
        raise AssertionError("it was left alone before")


def test_a_tracker_that_fails_costs_its_curves_and_no_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TRACKERS, "tensorboard", Failing)
    result = run("--track", "tensorboard")
    assert [line["step"] for line in read_metrics(result.output)] == [1, 2, 3, 4, 5, 6]
    said = capsys.readouterr().err
    assert said.count("--track tensorboard failed (ConnectionError: the server is gone)") == 1


def test_if_one_cannot_begin_those_before_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class First(Failing):
        def close(self, *, finished: bool) -> None:
            closed.append(finished)

    def second(folder: Path, lines: Sequence[Any]) -> Failing:
        raise UserError("no.")

    monkeypatch.setitem(TRACKERS, "tensorboard", First)
    monkeypatch.setitem(TRACKERS, "wandb", second)
    with pytest.raises(UserError, match=r"^no"):
        MetricsFile(tmp_path, 0, track=["tensorboard", "wandb"])
    assert closed == [False]


class Told(World):
    """The second of two processes; the first has a problem."""

    def all_of(self, items: Sequence[T]) -> list[T]:
        return ["--track wandb cannot begin", *items]  # type: ignore[list-item]


def test_only_the_first_process_tracks_and_all_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", lambda folder, lines: pytest.fail("it is opened"))
    second = Told(torch.device("cpu"), 1, 2)
    with pytest.raises(UserError, match="--track wandb cannot begin"):
        _open_metrics(tmp_path, 0, ["wandb"], second)
    assert list(tmp_path.iterdir()) == []
