"""Push and pull, killed by the system at random moments: a whole set, or none, and never half."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import FORKS, command
from s3_server import s3_server
from tiny_builds import contents
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, Manifest
from shards import places
from shards.__main__ import main
from shards.completion import complete_set

KILLS = 8
"""Of each of the four commands below."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as place:
        yield place


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills") / "whole"
    own = [text_record(i) for i in range(60)]
    complete_set(str(root), small_set(str(root), own, [pair_record(i) for i in range(40)]))
    return root


def run(*arguments: str) -> None:
    """The command line, in this process."""
    assert main(arguments) == 0


def assert_whole_or_none(place: str) -> bool:
    """True if there is a set; then every file must be there, as the manifest says."""
    manifest = places.join(place, MANIFEST_NAME)
    try:
        text = places.read_bytes(manifest)
    except UserError:
        return False
    for entry in Manifest.from_json(text, manifest).entries():
        found = places.sha256_file(places.join(place, entry.path))
        assert found == (entry.sha256, entry.bytes), entry.path
    return True


def killed(arguments: tuple[str, ...], seconds: float) -> bool:
    """Run the command in a process and kill it; False if it was done before."""
    process = FORKS.Process(target=command, args=(dict(os.environ), arguments))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode == -9


def kill_at_random(
    arguments: tuple[str, ...], reset: Callable[[], None], check: Callable[[], bool], seed: int
) -> None:
    """Kill KILLS runs, some of which go on from where the one before was killed."""
    started = time.monotonic()
    process = FORKS.Process(target=command, args=(dict(os.environ), arguments))
    process.start()
    process.join()
    assert process.exitcode == 0
    lasts = time.monotonic() - started
    dice = random.Random(seed)
    reset()
    kills = 0
    for _ in range(200):
        if dice.random() < 0.5:
            reset()
        kills += killed(arguments, dice.uniform(0, lasts))
        if check():
            reset()
        if kills == KILLS:
            break
    assert kills == KILLS
    run(*arguments)
    assert check()


def test_killed_pulls(whole: Path, bucket: str, tmp_path: Path) -> None:
    """From S3 into a folder."""
    run("push", str(whole), f"{bucket}/pulls")
    target = tmp_path / "target"

    def reset() -> None:
        for path in sorted(target.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()

    def check() -> bool:
        return assert_whole_or_none(str(target))

    kill_at_random(("pull", f"{bucket}/pulls", str(target)), reset, check, 1)
    assert contents(target) == contents(whole)


def test_killed_pulls_of_some_shards(whole: Path, tmp_path: Path) -> None:
    """From a folder, where a card and a gallery are written at the end."""
    target, once = tmp_path / "target", tmp_path / "once"

    def reset() -> None:
        for path in sorted(target.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()

    def check() -> bool:
        return assert_whole_or_none(str(target))

    arguments = ("pull", str(whole), str(target), "--shards", "0")
    kill_at_random(arguments, reset, check, 2)
    run("pull", str(whole), str(once), "--shards", "0")
    assert contents(target) == contents(once)


def test_killed_pushes(whole: Path, bucket: str) -> None:
    """Into S3, where half an upload leaves nothing."""
    target = f"{bucket}/pushes"
    fs, path = places.filesystem(target)

    def reset() -> None:
        fs.invalidate_cache()
        if fs.exists(path):
            fs.rm(path, recursive=True)

    def check() -> bool:
        fs.invalidate_cache()
        return assert_whole_or_none(target)

    kill_at_random(("push", str(whole), target), reset, check, 3)


def test_killed_replacements(whole: Path, tmp_path: Path) -> None:
    """Of another set, by --force: the old one, the new one, or none."""
    old, target = tmp_path / "old", tmp_path / "target"
    complete_set(str(old), small_set(str(old)))

    def reset() -> None:
        run("push", str(old), str(target), "--force")

    def check() -> bool:
        there = assert_whole_or_none(str(target))
        manifest = target / MANIFEST_NAME
        return there and manifest.read_bytes() == (whole / MANIFEST_NAME).read_bytes()

    run("push", str(old), str(target))
    kill_at_random(("push", str(whole), str(target), "--force"), reset, check, 4)
    assert contents(target) == contents(whole)
