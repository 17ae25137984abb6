"""Items of one length together, so that no batch needs padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def bucketed(
    items: Iterable[T], length: Callable[[T], int], *, batch: int, hold: int
) -> Iterator[list[T]]:
    """Lists of items of one length; a function of the items' order alone.

    Args:
        items: in order.
        length: of an item.
        batch: most items of a list.
        hold: most items that wait for others of their length; then the fullest list goes as it is.

    Yields:
        Lists of 1 to ``batch`` items, in their order within each length.
    """
    waiting: dict[int, list[T]] = {}
    held = 0
    for item in items:
        key = length(item)
        waiting.setdefault(key, []).append(item)
        held += 1
        if len(waiting[key]) < batch:
            if held < hold:
                continue
            key = max(waiting, key=lambda one: (len(waiting[one]), -one))
        full = waiting.pop(key)
        held -= len(full)
        yield full
    for key in sorted(waiting):
        yield waiting[key]
