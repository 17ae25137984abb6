"""Every sample once an epoch: over tars of any number and size, processes, and workers."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_samples import COLOURS, encoded, picture
from webdataset import TarWriter

from models.clip import Clip, load_clip
from schemas.errors import UserError
from shards.decoding import Tally
from shards.sources import open_labelled
from trainer.augment import train_transform
from trainer.config import TrainConfig
from trainer.data import Batch, TrainingBatches, load_batches
from trainer.draws import Order, Stream, by_shards
from trainer.index import ImageIndex, index_images
from trainer.inputs import open_sets
from trainer.parallel.processes import join_world
from trainer.prepare import prepare
from trainer.train import TrainResult

IMAGES = [encoded(picture(colour, 0, size=8)) for colour in COLOURS.values()]


@pytest.fixture(scope="module")
def model(clip_folder: Path) -> Clip:
    return load_clip(str(clip_folder))


def write(root: Path, sizes: Sequence[int]) -> str:
    (root / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
    numbers = itertools.count()
    for shard, size in enumerate(sizes):
        with TarWriter(str(root / f"{shard}.tar"), encoder=False) as tar:
            for _ in range(size):
                i = next(numbers)
                label = str(i % 3).encode()
                tar.write({"__key__": f"s{i:03d}", "jpg": IMAGES[i % 3], "cls": label})
    return str(root)


def batches(index: ImageIndex, model: Clip, rank: int, world: int, **more: Any) -> TrainingBatches:
    return TrainingBatches(
        index,
        templates=("a {c}",),
        transform=train_transform(model.preprocess_cfg, 0.9),
        tokenizer=model.tokenizer,
        rank=rank,
        world=world,
        **more,
    )


def keys(found: Sequence[Batch]) -> list[str]:
    return [key for batch in found for key in batch.keys["finetune"]]


def in_turn(shares: Sequence[Sequence[Batch]]) -> list[str]:
    """The keys in the order of one process, which the processes share out in turn."""
    order: list[str] = []
    for step in zip(*shares, strict=True):
        one_each = itertools.zip_longest(*(batch.keys["finetune"] for batch in step))
        order += [key for keys in one_each for key in keys if key is not None]
    return order


tars = st.lists(st.integers(1, 9), min_size=1, max_size=5)  # unequal, and fewer than the workers
windows = st.none() | st.integers(1, 12)


@settings(max_examples=25, deadline=None)
@given(
    sizes=tars,
    world=st.integers(1, 4),
    batch=st.integers(2, 12),
    seed=st.integers(0, 99),
    window=windows,
)
def test_every_sample_comes_exactly_once_an_epoch(
    model: Clip, sizes: list[int], world: int, batch: int, seed: int, window: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = index_images(open_labelled(write(Path(folder), sizes)), Tally())
        more = {"batch_size": batch, "seed": seed, "window": window}

        def epoch(number: int, world: int) -> list[str]:
            ranks = [batches(index, model, rank, world, **more) for rank in range(world)]
            steps = ranks[0].order.steps_per_epoch
            first = number * steps
            return in_turn(
                [
                    list(load_batches(rank, first, first + steps, workers=0, pin=False))
                    for rank in ranks
                ]
            )

        everyone = [f"s{i:03d}" for i in range(sum(sizes))]
        first, second = epoch(0, world), epoch(1, world)
        assert sorted(first) == sorted(second) == everyone
        assert epoch(0, world) == first, "the same order again"
        assert epoch(0, 1) == first, "whatever the number of processes"
        if len(everyone) > 7 and (window is None or min(window, len(sizes)) > 3):
            assert first != second, "another order in the next epoch"


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(("world", "workers"), [(1, 1), (1, 3), (2, 2), (3, 3), (4, 1)])
def test_worker_processes_change_nothing(
    model: Clip, tmp_path: Path, world: int, workers: int, window: int | None
) -> None:
    index = index_images(open_labelled(write(tmp_path, [5, 1, 7])), Tally())
    more = {"batch_size": 4, "seed": 5, "window": window}

    def run(workers: int) -> list[list[Batch]]:
        return [
            list(
                load_batches(
                    batches(index, model, rank, world, **more), 0, 8, workers=workers, pin=False
                )
            )
            for rank in range(world)
        ]

    alone, shared = run(0), run(workers)
    order = in_turn(shared)
    assert order == in_turn(alone)
    assert sorted(order[:13]) == sorted(order[13:]) == [f"s{i:03d}" for i in range(13)]
    assert order[:13] != order[13:]
    for mine, theirs in zip(itertools.chain(*alone), itertools.chain(*shared), strict=True):
        assert mine.images["finetune"].equal(theirs.images["finetune"])


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    window=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_by_shards_moves_no_sample_further_than_the_window(
    sizes: list[int], window: int, seed: int
) -> None:
    shard = np.repeat(np.arange(len(sizes)), sizes)
    order = by_shards(shard, window, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(shard)))
    # Without a window the shards come whole, one after the other, as they are.
    still = by_shards(shard, 1, np.random.default_rng(seed))
    runs = [list(run) for _, run in itertools.groupby(still.tolist(), key=lambda i: shard[i])]
    assert len(runs) == len(sizes)
    assert all(run == list(range(run[0], run[0] + len(run))) for run in runs)
    place = np.empty(len(shard), int)
    place[still] = np.arange(len(shard))
    assert np.abs(place[order] - np.arange(len(shard))).max() < window


def test_a_window_mixes_and_shards_come_in_another_order_every_epoch() -> None:
    shard = np.repeat(np.arange(20), 50)
    orders = Order(0, Stream.FINETUNE_ORDER, 1000, 1000, shard=shard, window=100)
    first, second = (orders.at(step)[1] for step in (0, 1))
    for order in (first, second):
        assert sorted(order.tolist()) == list(range(1000))
        assert (np.diff(order) == 1).mean() < 0.1, "neighbours in the tar are none in the order"
        touched = [len(set(shard[order[i : i + 50]])) for i in range(0, 1000, 50)]
        assert max(touched) <= 5, "only the shards that the window touches are read"
    assert shard[first].tolist() != shard[second].tolist()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--shuffle", "shards"), "where every image is a file of its own; leave it out"),
        (("--shuffle-window", "9"), "means nothing without --shuffle shards"),
        (("--shuffle", "shards", "--shuffle-window", "0"), "--shuffle-window must be at least 1"),
        (("--shuffle", "shard"), "did you mean shards?"),
    ],
)
def test_a_shuffle_that_means_nothing_is_refused(
    run: Callable[..., TrainResult], flags: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(*flags)
    assert sentence in str(caught.value)


def test_a_run_reads_tar_after_tar(
    config: Callable[..., TrainConfig], anchors: Path, tmp_path: Path
) -> None:
    place = write(tmp_path, [8, 8, 8])

    def read(*flags: Any) -> list[set[int]]:
        with join_world(torch.device("cpu")) as world:
            asked = config("--finetune", place, *flags)
            dataset = prepare(asked, open_sets(asked), world).dataset
        return [set(dataset.index.file[dataset.order.at(step)[1]].tolist()) for step in range(3)]

    assert [len(tars) for tars in read("--shuffle", "shards", "--shuffle-window", "1")] == [1, 1, 1]
    for flags in ((), ("--shuffle", "shards")):  # 10,000 are mixed
        assert min(len(tars) for tars in read(*flags)) > 1
    pairs = config("--anchors", anchors, "--shuffle", "shards", "--shuffle-window", "1")
    with join_world(torch.device("cpu")) as world:
        dataset = prepare(pairs, open_sets(pairs), world).dataset
    (share,), (order,) = dataset.shares, dataset.pair_orders.values()
    assert share.pairs is not None
    shards = [share.pairs.file[i] for step in range(2) for i in order.at(step)[1]]
    assert [number for number, _ in itertools.groupby(shards)] in ([0, 1], [1, 0])
