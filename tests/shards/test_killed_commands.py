"""Killed at any point, a command leaves a whole set or none, and ends as if it never had been."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_builds import contents
from tiny_data import jpeg
from tiny_kills import Job, command, run, writing
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import BadSample, UserError
from schemas.manifest import MANIFEST_NAME
from shards.reader import AnchorSet

AT_OPERATIONS, IN_TIME = 5, 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets that overlap, one without images, and the data that it is of."""
    root = tmp_path_factory.mktemp("world")
    small_set(str(root / "a"))
    small_set(
        str(root / "b"), [text_record(i) for i in (3, 9, 11)], [pair_record(i) for i in (2, 7)]
    )
    assert run(command("strip", root / "a", "--pairs", "keep", "--output", root / "bare")).code == 0
    (root / "data" / "circle").mkdir(parents=True)
    for i in range(6):
        (root / "data" / "circle" / f"{i}.jpg").write_bytes(jpeg(i))
    return root


JOBS: dict[str, Callable[[Path, Path], Job]] = {
    "write": lambda world, out: writing(out),
    "merge": lambda world, out: command(
        "merge", world / "a", world / "b", "--shard-size", 3, "--output", out
    ),
    "subset": lambda world, out: command(
        "subset", world / "a", "--limit-per-class", 3, "--shard-size", 3, "--output", out
    ),
    "reshard": lambda world, out: command(
        "reshard", world / "a", "--shard-size", 3, "--output", out
    ),
    "strip": lambda world, out: command(
        "strip", world / "a", "--pairs", "drop", "--shard-size", 3, "--output", out
    ),
    "join": lambda world, out: command(
        "join", world / "bare", "--finetune", world / "data", "--shard-size", 3, "--output", out
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_killed_command_leaves_all_or_nothing_and_can_be_run_again(
    name: str, world: Path, tmp_path: Path
) -> None:
    make = JOBS[name]
    undisturbed = run(make(world, tmp_path / "undisturbed"))
    assert undisturbed.code == 0
    wanted = contents(tmp_path / "undisturbed")
    # Sets that are only written, by no command, keep the temporary files of those who died.
    litter = name == "write"
    random.seed(name)
    points = random.sample(range(1, undisturbed.operations + 1), AT_OPERATIONS)
    for point in points:
        out = tmp_path / f"killed-{point}"
        assert run(make(world, out), die_at=point).killed
        _all_or_nothing(out, tmp_path / "undisturbed")
        assert run(make(world, out)).code == 0
        _is_as(out, wanted, litter)
    # One folder, in which run after run is killed, wherever each then was.
    out = tmp_path / "again"
    for _ in range(IN_TIME):
        run(make(world, out), die_after=random.uniform(0, undisturbed.seconds))
        _all_or_nothing(out, tmp_path / "undisturbed")
    assert run(make(world, out)).code == 0
    _is_as(out, wanted, litter)


def _all_or_nothing(out: Path, undisturbed: Path) -> None:
    if not (out / MANIFEST_NAME).exists():
        with pytest.raises(UserError, match=r"is not an anchor set: it holds no anchor_set\.json"):
            AnchorSet.open(str(out))
        return
    anchors = AnchorSet.open(str(out))
    assert anchors.manifest == AnchorSet.open(str(undisturbed)).manifest
    read = list(anchors.samples(_fail))
    assert len(read) == anchors.manifest.samples


def _fail(key: str, problem: BadSample) -> None:
    raise AssertionError(f"{key}: {problem}")


def _is_as(out: Path, wanted: dict[str, str], litter: bool) -> None:
    found = contents(out)
    if litter:
        found = {path: digest for path, digest in found.items() if not path.endswith(".tmp")}
    assert found == wanted
