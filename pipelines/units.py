"""Lists of units in the work folder, so that the job graph holds one element per source.

A graph is sent to a runner whole (Dataflow takes 10 MB), and a source may have 40,000 tars or a
million files. The driver therefore writes what there is to read into the work folder:

    WORK/units/ROLE/units.parquet      one row per unit: name, tar, slice
    WORK/units/ROLE/items_00000.parquet    slices of lists of files, one row group each

The graph starts from the place of the first file. A unit that crosses a shuffle is a name; the
worker that reads a slice of a list looks its files up (``with_items``). Nothing here enters a
fingerprint: parts depend on what the units hold, not on where they are listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import UserError
from schemas.tables import UNIT_ITEMS, UNITS
from shards import places
from shards.sources import ListItem, Source, Unit

SLICES_A_FILE = 100
"""Slices in one file of items: some megabytes, whose footer is read again for every slice."""

_ROOT = b"root"


def write_units(work: str, role: str, source: Source) -> str:
    """List a source's units in the work folder; returns the place of the list.

    Args:
        work: the work folder.
        role: of the source, as a folder's name: ``finetune``, ``pool``, ``evaluation-00000``.
        source: its units' items may be empty only where they are tars.
    """
    folder = places.join(work, "units", role)
    slices = [unit for unit in source.units if unit.tar is None]
    numbers = {unit.number: at for at, unit in enumerate(slices)}
    for start in range(0, len(slices), SLICES_A_FILE):
        _write_items(folder, start // SLICES_A_FILE, slices[start : start + SLICES_A_FILE])
    table = pa.table(
        {
            "name": [unit.name for unit in source.units],
            "tar": [unit.tar for unit in source.units],
            "slice": [numbers.get(unit.number) for unit in source.units],
        },
        schema=UNITS,
    )
    root = source.units[0].root if source.units else ""
    place = places.join(folder, "units.parquet")
    _write(place, [table.replace_schema_metadata({_ROOT: root.encode()})])
    return place


class ReadUnits(beam.PTransform):  # type: ignore[misc]
    """``Pipeline -> PCollection[Unit]``: the units of a list that ``write_units`` has left.

    Args:
        place: of the list.
    """

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Unit]:
        """See the class."""
        return root | beam.Create([self._place]) | beam.FlatMap(read_units) | beam.Reshuffle()


def read_units(place: str) -> Iterator[Unit]:
    """The units of a list, in order; slices of lists of files come without their items."""
    table = _open(place).read(use_threads=False)
    root = table.schema.metadata[_ROOT].decode()
    folder = places.parent_and_name(place)[0]
    columns = (table.column(name).to_pylist() for name in UNITS.names)
    for number, (name, tar, at) in enumerate(zip(*columns, strict=True)):
        listed = None if at is None else (_items_place(folder, at // SLICES_A_FILE), at)
        yield Unit(number, name, root, tar, listed=listed)


def unit_names(place: str) -> list[str]:
    """The names of a list's units, in order."""
    names: list[str] = _open(place).read(["name"], use_threads=False).column("name").to_pylist()
    return names


def with_items(unit: Unit) -> Unit:
    """The unit with its items, read from the work folder if it does not carry them.

    Raises:
        UserError: the work folder was cleared while the build ran.
    """
    if unit.listed is None or unit.items:
        return unit
    place, at = unit.listed
    rows = _open(place).read_row_group(at % SLICES_A_FILE, use_threads=False).to_pylist()
    return replace(unit, items=tuple(_item(row) for row in rows))


def _item(row: dict[str, Any]) -> ListItem:
    own = {name: row.pop(name) for name in ("path", "class_index", "text", "beside")}
    web = {name: value for name, value in row.items() if value is not None}
    return ListItem(**own, web=web or None)


def _items_place(folder: str, number: int) -> str:
    return places.join(folder, f"items_{number:05d}.parquet")


def _write_items(folder: str, number: int, slices: list[Unit]) -> None:
    _write(
        _items_place(folder, number),
        [
            pa.Table.from_pylist(
                [
                    {
                        "path": item.path,
                        "class_index": item.class_index,
                        "text": item.text,
                        "beside": item.beside,
                    }
                    | (item.web or {})
                    for item in unit.items
                ],
                schema=UNIT_ITEMS,
            )
            for unit in slices
        ],
    )


def _write(place: str, groups: list[pa.Table]) -> None:
    """A parquet with one row group per table."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, groups[0].schema, compression="zstd") as writer:
        for table in groups:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    places.write_bytes(place, sink.getvalue().to_pybytes())


def _open(place: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(places.open_read(place))
    except UserError:
        raise UserError(
            f"{place!r} is gone: the work folder was cleared while the build ran; run it again."
        ) from None
