"""Every random choice of a run, as a pure function of the seed and of what it is made for.

Streams are independent: drawing more from one (captions, anchors) changes nothing in another,
so runs with and without anchors see the same finetune batches. Nothing depends on the number of
workers, and a run is resumed by asking for the next step.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What a draw is for. The numbers are part of every run's numerics: never reuse one."""

    FINETUNE_ORDER = 0
    ANCHOR_ORDER = 1
    TEMPLATE = 2
    FINETUNE_CROP = 3
    CAPTION = 4
    ANCHOR_CROP = 5
    ANCHOR_TEXT = 6
    FORWARD = 7
    CLASSIFIER = 8


def generator(seed: int, stream: Stream, *what: int) -> np.random.Generator:
    """A generator that belongs to one draw."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, *what]))


def draw_seed(seed: int, stream: Stream, *what: int) -> int:
    """A 63-bit seed for torch that belongs to one draw."""
    state = np.random.SeedSequence([seed, stream, *what]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def steps_per_epoch(size: int, batch: int) -> int:
    """Batches in a pass over ``size`` samples."""
    return -(-size // batch)


def by_shards(
    shard: NDArray[np.integer], window: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """A permutation that reads shard after shard: shards in a drawn order, then a window.

    In it every sample moves by less than ``window`` places, so that of the shards only those that
    the window touches are read from.

    Args:
        shard: int [N], of each sample.
        window: places, at least 1; 1 moves none.
        random: of the draws.

    Returns:
        int64 [N].
    """
    place = random.permutation(int(shard.max()) + 1)
    sequence = np.argsort(place[shard], kind="stable")
    later = np.arange(len(shard)) + window * random.random(len(shard))
    return sequence[np.argsort(later, kind="stable")].astype(np.int64)


class Order:
    """The order in which a set of samples is visited: a new permutation every epoch.

    Every sample comes exactly once an epoch. What a whole number of batches leaves over is not a
    short batch at the end, which would be a poor one to contrast, but makes all a little smaller:
    their sizes differ by one at most. The batches are those of all processes together, so the
    order depends on the seed alone, however many processes share the work.

    Args:
        size: samples in the set, at least 1.
        batch: most samples a step, all processes together.
        shard: int [size], of each sample, where shards are read one after the other (see
            by_shards); None for permutations of all samples, each as likely.
        window: of by_shards.
    """

    def __init__(
        self,
        seed: int,
        stream: Stream,
        size: int,
        batch: int,
        *,
        shard: NDArray[np.integer] | None = None,
        window: int = 1,
    ) -> None:
        self.size = size
        self._shard, self._window = shard, window
        self.batch = min(size, batch)
        self.steps_per_epoch = steps_per_epoch(size, self.batch)
        self._seed = seed
        self._stream = stream
        self._latest: tuple[int, NDArray[np.int64]] | None = None

    def at(self, step: int, rank: int = 0, world: int = 1) -> tuple[int, NDArray[np.int64]]:
        """The epoch of a step, and the indices of the samples of one of the processes.

        Args:
            step: from 0 on.
            rank: of the process.
            world: number of processes.

        Returns:
            The epoch, and int64 [n]: every ``world``-th sample of the step's batch.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._latest is None or self._latest[0] != epoch:
            random = generator(self._seed, self._stream, epoch)
            if self._shard is None:
                order = random.permutation(self.size)
            else:
                order = by_shards(self._shard, self._window, random)
            self._latest = (epoch, order)
        start, stop = (self.size * i // self.steps_per_epoch for i in (within, within + 1))
        return epoch, self._latest[1][start:stop][rank::world]
