"""Reading embeddings: the one place that knows where a part's vectors lie and what they look like.

Whoever made them, they come out as float16 values of unit length: what retrieval's exact scores
rest on (see pipelines.retrieval.search). Local files are mapped into memory, so that only what is
touched is read; remote ones are copied to scratch disk once and mapped from there.

A file is checked against its SHA-256 when a process opens it for the first time, and not again
while its size and date stay: hashing a gigabyte takes about a second, the search of one against
thousands of queries takes minutes, but a task that opens a part a hundred times should not hash it
a hundred times.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.parts import Part, array_place
from schemas.errors import UserError
from shards import places

_CHUNK = 65_536  # rows that are brought to unit length at once
_TOLERANCE = 1e-3  # float16 takes a length this far from 1, so such a row is of unit length


def vectors_place(work: str, part: Part) -> str:
    """Where a part's .npy lies: in the work folder, or where its ``extra["npy"]`` says.

    The latter are embeddings that were there already; they may be float32 or of another length.
    """
    place = part.extra.get("npy")
    return array_place(work, part.stage, part.number) if place is None else str(place)


class Vectors:
    """The embeddings of one part, [N, D]; rows are read when they are asked for.

    Raises:
        UserError: the file is missing, not the array that the part was made with, or no array of
            numbers.
    """

    def __init__(self, work: str, part: Part) -> None:
        place = vectors_place(work, part)
        self._unit = "npy" not in part.extra
        self._array = _mapped(place, part.extra["npy_sha256"])
        self.rows, self.dimension = self._array.shape

    def take(
        self, rows: NDArray[np.integer] | slice, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Some rows, as contiguous float32 that holds float16 values of unit length.

        Args:
            rows: their numbers, ascending.
            out: where to put them (default: a new array).
        """
        if not isinstance(rows, slice) and len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            # No gap: a slice of the file is read faster than a list of rows.
            rows = slice(int(rows[0]), int(rows[-1]) + 1)
        taken = self._array[rows]
        if out is None:
            out = np.empty(taken.shape, np.float32)
        # torch widens float16 several times as fast as numpy.
        torch.from_numpy(out).copy_(torch.from_numpy(taken if self._unit else unit_rows(taken)))
        return out


def read_array(work: str, part: Part) -> NDArray[np.float32]:
    """All embeddings of a part as float32 [N, D], ready for faiss; their values are float16.

    Raises:
        UserError: as Vectors.
    """
    return Vectors(work, part).take(slice(None))


def unit_rows(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows brought to unit length and rounded to float16; without a direction they are zeros."""
    out = np.empty(values.shape, np.float32)
    for start in range(0, len(values), _CHUNK):
        wide = values[start : start + _CHUNK].astype(np.float64)
        length = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        good = np.isfinite(length) & (length > 0)
        wide = np.where(good[:, None], wide, 0) / np.where(good, length, 1)[:, None]
        out[start : start + _CHUNK] = wide.astype(np.float16)
    return out


def _mapped(place: str, sha256: str) -> NDArray[np.floating]:
    if not places.is_local(place):
        # The copy's name is gone at once, its space with the array.
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            places.copy_out(place, Path(file.name))
            check_sha256(place, sha256, file.name)
            return _load(place, file.name)
    check_once(place, sha256, "embed")
    return _load(place, places.local_path(place))


def check_once(place: str, sha256: str, stage: str) -> None:
    """Check a file's content, unless this process has and it has not changed since.

    Args:
        place: the file; a remote one is not remembered.
        sha256: what it was when it was written.
        stage: that wrote it.

    Raises:
        UserError: it is missing, or not what it was.
    """
    if not places.is_local(place):
        check_sha256(place, sha256, stage=stage)
        return
    path = Path(places.local_path(place))
    if not path.is_file():
        raise UserError(f"{place!r} is missing; run the {stage} stage again.")
    found = path.stat()
    _check_stamped(place, sha256, stage, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _check_stamped(place: str, sha256: str, stage: str, size: int, changed: int) -> None:
    check_sha256(place, sha256, stage=stage)


def check_sha256(place: str, sha256: str, copy: str | None = None, *, stage: str = "embed") -> None:
    """Check a file's content; ``copy`` is where it was copied to.

    Raises:
        UserError: it is not what it was when ``stage`` wrote it.
    """
    if places.sha256_file(copy or place)[0] != sha256:
        raise UserError(f"{place!r} was changed after it was written; run the {stage} stage again.")


def _load(place: str, path: str) -> NDArray[np.floating]:
    try:
        # Copy on write: nobody writes, but torch warns of arrays that cannot be written to.
        array: NDArray[np.floating] = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{place!r} is no .npy of numbers ({error}).") from None
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32):
        raise UserError(f"{place!r} is not a table of float16 or float32 rows.")
    return array
