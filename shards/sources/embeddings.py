"""Embeddings that exist already, as clip-retrieval writes them and LAION publishes them.

``img_emb/img_emb_00.npy`` holds rows of float16 or float32, ``metadata/metadata_00.parquet`` what
they are of: row i of one belongs to row i of the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from schemas.errors import BadSample, UserError
from shards import places
from shards.sources.base import ListItem, Sample, Unit
from shards.tars import OnBad

_NPY = re.compile(r"img_emb_?(\d+)\.npy")
_METADATA = re.compile(r"metadata_?(\d+)\.parquet")


class EmbeddingSet:
    """Pairs of files, each a unit of two items: the .npy and the parquet, below one root."""

    def __init__(self, place: str, pairs: list[tuple[str, str]]) -> None:
        self.place = place
        self.classes: list[str] = []
        self.units = [
            Unit(number, npy, place, items=(ListItem(npy), ListItem(metadata)))
            for number, (npy, metadata) in enumerate(pairs)
        ]

    def read(self, unit: Unit, on_bad: OnBad) -> Iterator[Sample]:
        """There are no images to read.

        Raises:
            BadSample: always.
        """
        raise BadSample("no_image", f"{unit.name} holds embeddings")


def open_embeddings(place: str) -> EmbeddingSet:
    """A folder with ``img_emb/`` and ``metadata/``, or with the files of both.

    Files belong together by their number, whatever its zero padding.

    Raises:
        UserError: there are none, or one lacks its other half.
    """
    place = place.rstrip("/")
    folders = places.list_folder(place)[0]
    npy = _numbered(place, "img_emb" if "img_emb" in folders else "", _NPY)
    metadata = _numbered(place, "metadata" if "metadata" in folders else "", _METADATA)
    if not npy:
        raise UserError(
            f"{place!r} holds no img_emb/img_emb_N.npy; name the folder that holds img_emb and "
            f"metadata."
        )
    for number in sorted(npy.keys() ^ metadata.keys()):
        have = npy.get(number) or metadata.get(number)
        lack = "metadata parquet" if number in npy else "img_emb .npy"
        raise UserError(
            f"{have!r} in {place!r} has no {lack} of its number; fetch it, or remove it."
        )
    return EmbeddingSet(place, [(npy[number], metadata[number]) for number in sorted(npy)])


def _numbered(place: str, folder: str, pattern: re.Pattern[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in places.list_folder(places.join(place, folder) if folder else place)[1]:
        if match := pattern.fullmatch(name):
            path = f"{folder}/{name}" if folder else name
            number = int(match[1])
            if number in found:
                raise UserError(
                    f"{found[number]!r} and {path!r} in {place!r} have one number; remove one."
                )
            found[number] = path
    return found


def read_npy_header(file: BinaryIO, place: str) -> tuple[int, int, np.dtype[Any]]:
    """Rows, dimension and type of a .npy of embeddings; leaves the file at its first row.

    Raises:
        UserError: it is no .npy, or not a table of float16 or float32 rows.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, by_columns, kind = read(file)
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise UserError(f"{place!r} is no .npy that can be read ({error}).") from None
    if len(shape) != 2 or by_columns or kind not in (np.dtype("<f2"), np.dtype("<f4")):
        raise UserError(
            f"{place!r} is not a table of float16 or float32 rows (it is {kind} {list(shape)})."
        )
    return int(shape[0]), int(shape[1]), kind
