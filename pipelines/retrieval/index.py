"""faiss indices: trained once, filled partition by partition, mapped into memory, searched.

Which vectors an index proposes is all that is asked of it: their scores are computed from the
stored embeddings (Partition.score), so they are exact whatever the index.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from pipelines.retrieval.partitions import Partition
from pipelines.retrieval.rule import HNSW, IVF_PQ, Choice
from schemas.errors import UserError
from shards import places

_ITERATIONS = 10  # of k-means, faiss's own default for lists
_SLACK = 8  # more candidates than neighbours, for what float32 confuses
_CODES = 10  # times as many candidates as neighbours, where codes only approximate
_MOST = 2048  # candidates a query, as long as k is below
_WIDEST = 4096  # largest efSearch that is tried


class Effort(NamedTuple):
    """How hard an index is searched.

    Attributes:
        probe: lists that are visited (nprobe), or HNSW's efSearch; 0 where there is no such thing.
        depth: candidates per query.
    """

    probe: int
    depth: int


def efforts(index: Any, k: int, *, lossy: bool, share: float = 1.0) -> list[Effort]:
    """What to try, in rising order.

    Args:
        index: from faiss.
        k: neighbours wanted.
        lossy: its order of candidates is not that of the vectors.
        share: of its rows that count; the others are passed over, so more must be proposed.
    """
    ivf, hnsw = _ivf(index), _hnsw(index)
    if ivf is not None:
        probes = _powers(1, ivf.nlist)
    elif hnsw is not None:
        probes = _powers(16, max(_WIDEST, 2 * k))
    else:
        probes = [0] * 6
    found = []
    for step, probe in enumerate(probes):
        wanted = k + _SLACK
        if lossy:
            wanted = max(wanted, min(_CODES * k * 2 ** max(0, step - 2), _MOST))
        # Half as many again: which rows are passed over is no random choice.
        depth = wanted if share == 1 else int(1.5 * wanted / share) + 1
        found.append(Effort(max(probe, depth) if hnsw is not None else probe, depth))
    return list(dict.fromkeys(found))


def _powers(first: int, last: int) -> list[int]:
    powers = [first]
    while powers[-1] < last:
        powers.append(min(2 * powers[-1], last))
    return powers


def train(choice: Choice, vectors: NDArray[np.float32]) -> Any:
    """An empty index, trained on a sample of the pool.

    k-means starts from faiss's fixed seed, and its sums do not depend on the number of threads,
    so the same sample gives the same index on processors of one kind.
    """
    index = faiss.index_factory(vectors.shape[1], choice.factory(), faiss.METRIC_INNER_PRODUCT)
    ivf = _ivf(index)
    if ivf is not None:
        ivf.cp.niter = _ITERATIONS
        ivf.cp.min_points_per_centroid = 1  # the rule sees to it; faiss would print a warning
        ivf.cp.max_points_per_centroid = 1 << 30  # the sample is the whole of it
        if choice.type == IVF_PQ:
            ivf_pq: Any = faiss.downcast_index(ivf)
            ivf_pq.pq.cp.min_points_per_centroid = 1
    if choice.train_rows:
        index.train(vectors)
    return index


def fill(empty: Any, partition: Partition) -> Any:
    """Add a partition's rows to the empty index; a row's id is its number there."""
    for block in partition.blocks():
        empty.add(block.vectors)
    return empty


@contextlib.contextmanager
def one_thread_for(choice: Choice) -> Iterator[None]:
    """HNSW's graph depends on the order in which rows enter it, so one thread builds it."""
    threads = faiss.omp_get_max_threads()
    if choice.type == HNSW:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


_writer: Any = faiss.PyCallbackIOWriter  # type: ignore[attr-defined]


def save(index: Any, place: str) -> None:
    """Write an index atomically."""
    with places.atomic_write(place) as file:
        faiss.write_index(index, _writer(file.write))


@contextlib.contextmanager
def opened(place: str, *, mapped: bool = True) -> Iterator[Any]:
    """Map an index into memory; a remote one is copied to scratch disk for as long.

    Args:
        place: of the faiss file.
        mapped: False reads it whole, so that rows can be added.

    Raises:
        UserError: faiss cannot read it.
    """
    with contextlib.ExitStack() as stack:
        path = places.local_path(place)
        if not places.is_local(place):
            path = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".faiss")).name
            places.copy_out(place, Path(path))
        try:
            index = faiss.read_index(path, _flags(path) if mapped else 0)
        except (RuntimeError, MemoryError) as error:
            reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else "memory"
            raise UserError(f"{place!r} cannot be read as a faiss index ({reason}).") from None
        yield index


def _flags(path: str) -> int:
    """faiss maps inverted lists by one flag, flat codes and graphs by another, and not both."""
    with Path(path).open("rb") as file:
        lists = file.read(4).startswith((b"Iw", b"IxPT", b"IxM"))
    return int(faiss.IO_FLAG_MMAP if lists else faiss.IO_FLAG_MMAP_IFC)


class Header(NamedTuple):
    """What a faiss file says of itself in its first bytes."""

    dimension: int
    rows: int


def read_header(place: str) -> Header:
    """Look at a faiss file's first bytes, before faiss, which trusts all of them, reads the rest.

    Raises:
        UserError: it is no index, or claims more rows than its bytes can hold.
    """
    with places.open_read(place) as file:
        start = file.read(16)
        size = file.seek(0, 2)
    name = start[:4]
    if len(start) < 16 or not (name.isalnum() and name.startswith(b"I")):
        raise UserError(f"{place!r} is not a faiss index.")
    dimension, rows = struct.unpack("<iq", start[4:16])
    if not (0 < dimension < 1 << 20 and 0 <= rows <= size):
        raise UserError(f"{place!r} is damaged: it claims {rows} rows of {dimension} numbers.")
    return Header(dimension, rows)


def candidates(index: Any, queries: NDArray[np.float32], effort: Effort) -> NDArray[np.int64]:
    """Ids of the rows that the index proposes, [N, depth]; -1 where it has no more."""
    ivf, hnsw = _ivf(index), _hnsw(index)
    if ivf is not None:
        ivf.nprobe = effort.probe
    elif hnsw is not None:
        hnsw.efSearch = effort.probe
    ids: NDArray[np.int64] = index.search(queries, min(effort.depth, max(1, index.ntotal)))[1]
    return ids


def _ivf(index: Any) -> Any | None:
    return faiss.try_extract_index_ivf(index)


def _hnsw(index: Any) -> Any | None:
    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
    return getattr(index, "hnsw", None)
