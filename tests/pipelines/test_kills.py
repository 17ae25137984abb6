"""Builds that are killed again and again: each goes on, and ends in the set of one never killed."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from fork_builds import BuildServer, Ended
from tiny_builds import arguments, contents
from tiny_data import jpeg, labelled_tars, pair, pool, write_tar

# Every step of the build has parts: a small partition and group are a task of the search each, and
# an index each.
OPTIONS = (
    *("--shard_size", "4", "--caption_scores", "--min_clip_score", "-0.99"),
    *("--index", "hnsw", "--partition_rows", "6", "--query_rows", "6"),
)
STEPS = {
    *("caption", "embeddings/finetune", "embeddings/pool", "embeddings/evaluation-00000"),
    *("score-captions", "select-captions", "candidates-text-compensated"),
    *("screen", "index-trained", "index", "index-trials", "index-tuned"),
    *("retrieve-hits", "retrieve", "judge", "select", "shards"),
}
# What a run writes whether or not anything is left to do.
NOT_PARTS = ("units/", "timings/", "build.json", "report.")


@pytest.fixture(scope="module")
def server() -> Iterator[BuildServer]:
    with BuildServer() as server:
        yield server


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Finetune images, pool and evaluation images."""
    root = tmp_path_factory.mktemp("data")
    shown = [m for n in range(4) for m in pair(str(n), jpeg(3000 + n), "shown")]
    return (
        labelled_tars(root / "ft", tars=4, per_tar=3),
        pool(root / "pool", tars=4, per_tar=6),
        write_tar(root / "shown" / "0.tar", shown).parent,
    )


@pytest.fixture(scope="module")
def whole(
    server: BuildServer, places: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ended]:
    """A build that is left alone: its folder, and what it did."""
    folder = tmp_path_factory.mktemp("whole")
    ended = server.run(command(places, folder), folder)
    assert ended.code == 0
    return folder, ended


def command(places: tuple[Path, Path, Path], folder: Path, *more: str) -> list[str]:
    finetune, pairs, shown = places
    return arguments(finetune, pairs, folder / "set", *OPTIONS, "--evaluation", str(shown), *more)


def parts(written: Iterable[str]) -> Counter[tuple[str, int]]:
    """Step and number of each part to the times that it was written.

    A part may be several files; it was written as often as the one that was most often.
    """
    files: Counter[str] = Counter()
    for path in written:
        if path.startswith("set.work/") and not path.startswith(NOT_PARTS, len("set.work/")):
            files[path.removeprefix("set.work/")] += 1
    found: Counter[tuple[str, int]] = Counter()
    for path, times in files.items():
        step, name = path.split("/", 1)
        if step == "embeddings":
            role, name = name.split("/", 1)
            step = f"{step}/{role}"
        if step == "rejected":
            step = name.rpartition("-")[0]
        number = re.findall(r"\d+", name)[-1]
        if step == "shards":
            number = f"{int(name.startswith('image'))}{number}"
        found[step, int(number)] = max(found[step, int(number)], times)
    return found


def anchors(folder: Path) -> dict[str, str]:
    """The files of the set, without those that a killed process was writing."""
    found = contents(folder / "set")
    return {name: digest for name, digest in found.items() if "/." not in f"/{name}"}


def kill_and_resume(
    server: BuildServer,
    chain: list[str],
    folder: Path,
    alone: Ended,
    *,
    kills: int,
    seed: int,
    workers: bool = False,
) -> tuple[int, Counter[tuple[str, int]]]:
    """Kill a build so often, and let it end.

    Args:
        server: forks it.
        chain: its command line.
        folder: that it writes into.
        alone: the same build, left alone.
        kills: how often.
        seed: of the moments.
        workers: kill one of two worker processes instead of the build's own. How they share the
            work is chance: neither may come so far, and the build then ends before its time.

    Returns:
        Kills that landed, and how often parts were written more than once.
    """
    rng = random.Random(seed)
    total = len(parts(alone.written))
    written: list[str] = []
    left_over = alone.operations
    landed = 0
    for left in range(kills, 0, -1):
        # Spread over the build, but anywhere: each leaves about its share for the rest. Two
        # workers share the operations, in no fixed ratio, and one of them must come so far.
        share = left_over * 2 // (left + 1) // (4 if workers else 1)
        moment = rng.randint(1, max(share, 1))
        ended = server.run(chain, folder, die_at=moment, workers=workers)
        written += ended.written
        if workers and ended.code == 0:
            break
        assert ended.code == (2 if workers else -9), "the build was over before it was killed"
        landed += 1
        assert not (folder / "set" / "anchor_set.json").exists()
        left_over = alone.operations * (total - len(parts(written))) // total
    ended = server.run(chain, folder, workers=workers)
    assert ended.code == 0
    every = parts([*written, *ended.written])
    return landed, Counter({part: times - 1 for part, times in every.items() if times > 1})


def test_every_step_leaves_parts(whole: tuple[Path, Ended]) -> None:
    assert {step for step, _ in parts(whole[1].written)} == STEPS


def test_twelve_kills_repeat_what_was_in_flight(
    server: BuildServer,
    places: tuple[Path, Path, Path],
    whole: tuple[Path, Ended],
    tmp_path: Path,
) -> None:
    chain = command(places, tmp_path)
    landed, again = kill_and_resume(server, chain, tmp_path, whole[1], kills=12, seed=5)
    assert anchors(tmp_path) == anchors(whole[0])
    assert again.total() <= landed == 12, again


def test_eight_kills_over_embeddings_that_exist_already(
    server: BuildServer,
    places: tuple[Path, Path, Path],
    whole: tuple[Path, Ended],
    tmp_path: Path,
) -> None:
    held = whole[0] / "set.work" / "embeddings" / "pool"  # in clip-retrieval's layout
    existing = ("--pool_embeddings", str(held))
    alone = server.run(command(places, tmp_path / "alone", *existing), tmp_path / "alone")
    assert alone.code == 0
    assert {step for step, _ in parts(alone.written)} == STEPS | {"locate"}
    chain = command(places, tmp_path / "killed", *existing)
    folder = tmp_path / "killed"
    landed, again = kill_and_resume(server, chain, folder, alone, kills=8, seed=6)
    assert anchors(folder) == anchors(tmp_path / "alone")
    assert again.total() <= landed == 8, again


def test_ten_kills_of_a_worker_repeat_what_was_in_flight(
    server: BuildServer,
    places: tuple[Path, Path, Path],
    whole: tuple[Path, Ended],
    tmp_path: Path,
) -> None:
    wanted = 10
    for seed in range(7, 12):
        folder = tmp_path / str(seed)
        chain = command(places, folder)
        landed, again = kill_and_resume(
            server, chain, folder, whole[1], kills=wanted, seed=seed, workers=True
        )
        assert anchors(folder) == anchors(whole[0])
        assert again.total() <= landed * 2, again  # one of each worker
        wanted -= landed
        if not wanted:
            break
    assert not wanted
