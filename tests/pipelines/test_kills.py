"""Builds that are killed again and again: each goes on, and ends in the set of one never killed."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from fork_builds import BuildServer
from tiny_builds import arguments, contents
from tiny_data import labelled_tars, pool

CHAINS, KILLS = 3, 10
# Made from one unit each, and costly: what a kill may cost is one of them, that in flight.
PARTS = ("caption/", "embeddings/", "screen/", "retrieve/", "shards/")


def test_thirty_kills_end_in_one_set(tmp_path: Path) -> None:
    finetune = labelled_tars(tmp_path / "ft", tars=4, per_tar=3)
    pairs = pool(tmp_path / "pool", tars=8, per_tar=3)
    options = ("--shard_size", "4")
    rng = random.Random(5)
    with BuildServer() as server:
        whole = tmp_path / "whole"
        ended = server.run(arguments(finetune, pairs, whole / "set", *options), whole)
        assert ended.code == 0
        operations = ended.operations
        kinds = Counter(
            path.removeprefix("set.work/").split("/")[0] + "/" for path in ended.written
        )
        assert all(kinds[kind] >= 4 for kind in PARTS), kinds
        kills = 0
        for chain in range(CHAINS):
            folder = tmp_path / str(chain)
            command = arguments(finetune, pairs, folder / "set", *options)
            written: Counter[str] = Counter()
            done = 0
            for left in range(KILLS, 0, -1):
                # Spread over the build, but anywhere: each leaves about its share for the rest.
                share = (operations - done) * 2 // (left + 1)
                ended = server.run(command, folder, die_at=rng.randint(1, max(share, 1)))
                written.update(ended.written)
                assert ended.code == -9, "the build was over before it was killed"
                assert not (folder / "set" / "anchor_set.json").exists()
                kills += 1
                done = sum(written.values()) * operations // (sum(kinds.values()) + 1)
            ended = server.run(command, folder)
            assert ended.code == 0
            written.update(ended.written)
            assert contents(folder / "set") == contents(whole / "set")
            again = {
                path: times - 1
                for path, times in written.items()
                if times > 1 and path.removeprefix("set.work/").startswith(PARTS)
            }
            assert sum(again.values()) <= KILLS, again
        assert kills >= 30
