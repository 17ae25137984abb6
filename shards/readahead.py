"""Reading ahead: an iterator that runs in a thread, some way before whoever takes from it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_ITEMS, _BYTES = 64, 1 << 20
_POLL = 0.1


def read_ahead(items: Iterable[T], size: Callable[[T], int], *, parcels: int = 4) -> Iterator[T]:
    """The items in their order, made by a thread of its own.

    Items pass between the threads in parcels, of 64 items or a megabyte: handing over single
    ones would cost as much as reading them.

    Args:
        items: iterated in the thread; what it raises is raised here, after the items before it.
        size: bytes of an item.
        parcels: held ready at most, which bounds the memory.
    """
    ready: queue.Queue[tuple[list[T], BaseException | None, bool]] = queue.Queue(parcels)
    stop = threading.Event()

    def put(parcel: list[T], error: BaseException | None = None, last: bool = False) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((parcel, error, last), timeout=_POLL)
                return

    def work() -> None:
        parcel: list[T] = []
        held = 0
        try:
            for item in items:
                parcel.append(item)
                held += size(item)
                if len(parcel) >= _ITEMS or held >= _BYTES:
                    put(parcel)
                    parcel, held = [], 0
                if stop.is_set():
                    return
        except BaseException as error:  # the taker's to handle, whatever it is
            put(parcel, error)
        else:
            put(parcel, last=True)

    # A daemon, so that a reader that was let go of never keeps the interpreter from ending.
    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            parcel, error, last = ready.get()
            yield from parcel
            if error is not None:
                raise error
            if last:
                return
    finally:
        stop.set()
        with contextlib.suppress(queue.Empty):
            ready.get_nowait()
        thread.join()
