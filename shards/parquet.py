"""Parquets from anybody, read with limits: what one claims is checked before any is believed.

A few bytes of a parquet can stand for gigabytes: a page that inflates, a row count in a run of
one, a long text that a dictionary repeats, a schema so deep that the parser's stack ends. So the
footer and the headers of all pages are read first (shards.compact), and texts stay in their
dictionaries until it is known how long they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UserError
from schemas.record import SINCE_1_0
from schemas.tables import RECORDS
from shards.compact import Compact

MAX_FILE_BYTES = 128 << 20
"""Of a parquet; a shard's has some hundred bytes an anchor."""
MAX_INFLATED_BYTES = 256 << 20
"""Of all pages of a parquet, and of all its texts."""
MAX_VALUES = 20_000_000
"""Of all columns of a parquet together: rows, or elements of lists."""

_MAX_FOOTER_BYTES = 8 << 20
_MAX_NODES = 1_000  # of a schema; ours has 50, and pyarrow's stack ends before 10,000
_MAX_PAGES = 200_000
# PLAIN, PLAIN_DICTIONARY, RLE, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, RLE_DICTIONARY,
# BYTE_STREAM_SPLIT. Not DELTA_BYTE_ARRAY, where a text may repeat the one before at no cost.
_ENCODINGS = {0, 2, 3, 5, 6, 8, 9}
_MAGIC = b"PAR1"


class BadParquet(UserError):
    """A parquet cannot be read; ``detail`` says what is wrong with it, without its name."""

    def __init__(self, place: str, problem: object) -> None:
        self.detail = " ".join(str(problem).split())[:200]
        super().__init__(f"{place!r} is not a parquet that can be read ({self.detail}).")


def read_records(data: bytes, place: str, rows: int | None = None) -> pa.Table:
    """The parquet of a shard, as a table of schemas.tables.RECORDS; further columns are left.

    Args:
        data: of the file.
        place: of the file, for errors.
        rows: that it must have, if that is known.

    Raises:
        BadParquet: it is none, lacks a column, has another number of rows, or claims too much.
    """
    names = check_claims(data, place, rows)
    held = pa.schema([f for f in RECORDS if f.name in names or f.name not in SINCE_1_0])
    missing = [name for name in held.names if name not in names]
    if missing:
        raise BadParquet(place, f"it has no column {missing[0]}")
    table = read_columns(data, place, held.names, held)
    try:
        return table if held.equals(RECORDS) else _with_later_columns(table)
    except (pa.ArrowException, ValueError, AttributeError, RecursionError) as error:
        raise BadParquet(place, error) from None


def _with_later_columns(table: pa.Table) -> pa.Table:
    """A table of RECORDS from one that a writer of an older minor version made.

    Such a writer has kept the later fields among the unknown ones.

    Raises:
        ValueError: the unknown fields are not a JSON object.
    """
    extra = [json.loads(text) if text else {} for text in table.column("extra").to_pylist()]
    columns = {
        field.name: table.column(field.name)
        if field.name in table.column_names
        else pa.array([fields.get(field.name) for fields in extra], field.type)
        for field in RECORDS
    }
    return pa.table(columns, schema=RECORDS)


def check_claims(data: bytes, place: str, rows: int | None = None, *, times: int = 1) -> list[str]:
    """Look at footer and page headers; returns the names of the columns.

    Args:
        data: of the file.
        place: of the file, for errors.
        rows: that it must have, if that is known.
        times: how many times the usual size it may have and claim, where it is read in batches.

    Raises:
        BadParquet: they are not sound, or claim more than this machine should give.
    """
    if len(data) > times * MAX_FILE_BYTES:
        raise BadParquet(place, f"it is larger than {times * MAX_FILE_BYTES:,} bytes")
    try:
        _check(data, rows, times)
        names = pq.ParquetFile(pa.BufferReader(data)).schema_arrow.names
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        pa.ArrowException,
    ) as error:
        raise BadParquet(place, error) from None
    return list(names)


def read_columns(
    data: bytes, place: str, names: list[str], schema: pa.Schema | None = None
) -> pa.Table:
    """Some columns of a parquet whose claims were checked.

    Raises:
        BadParquet: they do not read, are not of ``schema``, or hold more text than they should.
    """
    try:
        table = _with_dictionaries(data).read(columns=names, use_threads=False)
        return _plain(table.select(names), schema)
    except (pa.ArrowException, ValueError, OSError, NotImplementedError) as error:
        raise BadParquet(place, error) from None


def read_batches(data: bytes, place: str, names: list[str], rows: int) -> Iterator[pa.Table]:
    """As read_columns, in tables of at most so many rows.

    Raises:
        BadParquet: they do not read, or a batch holds more text than it should.
    """
    try:
        for batch in _with_dictionaries(data).iter_batches(rows, columns=names, use_threads=False):
            yield _plain(pa.Table.from_batches([batch]).select(names), None)
    except (pa.ArrowException, ValueError, OSError, NotImplementedError) as error:
        raise BadParquet(place, error) from None


def _with_dictionaries(data: bytes) -> pq.ParquetFile:
    """A parquet whose texts stay in their dictionaries when they are read."""
    whole = pq.ParquetFile(pa.BufferReader(data))
    leaves = [whole.schema.column(i) for i in range(len(whole.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)


def _plain(table: pa.Table, schema: pa.Schema | None) -> pa.Table:
    """The table with texts in place of dictionaries, if they are not too long."""
    size = sum(_text_bytes(chunk) for column in table.columns for chunk in column.chunks)
    if size > MAX_INFLATED_BYTES:
        raise ValueError(f"its texts would take {size:,} bytes")
    return table.cast(schema or _plain_schema(table.schema))


def _check(data: bytes, rows: int | None, times: int) -> None:
    """Raises ValueError, or what a structure without its fields raises."""
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC:
        raise ValueError("it does not begin and end as one")
    footer = int.from_bytes(data[-8:-4], "little")
    if not 0 < footer <= min(len(data) - 12, _MAX_FOOTER_BYTES):
        raise ValueError(f"its footer claims {footer:,} bytes")
    about = Compact(data[len(data) - 8 - footer : len(data) - 8]).struct()
    if len(about[2]) > _MAX_NODES:
        raise ValueError(f"its schema has {len(about[2]):,} nodes")
    groups = about[4]
    if about[3] != sum(group[3] for group in groups) or min([g[3] for g in groups], default=0) < 0:
        raise ValueError("its row count is not the sum of its row groups'")
    if rows is not None and about[3] != rows:
        raise ValueError(f"it has {about[3]:,} rows where {rows:,} are due")
    values = inflated = pages = 0
    for group in groups:
        for column in group[1]:
            if 1 in column:
                raise ValueError("a column lies in another file")
            for number, size in _pages(data, column[3]):
                values, inflated, pages = values + number, inflated + size, pages + 1
                if values > times * MAX_VALUES or pages > _MAX_PAGES:
                    raise ValueError(f"it claims more than {times * MAX_VALUES:,} values")
                if inflated > times * MAX_INFLATED_BYTES:
                    raise ValueError(f"its pages claim to inflate to {inflated:,} bytes or more")
            values += group[3]  # a page may claim none for a column that claims rows


def _pages(data: bytes, column: dict[int, Any]) -> list[tuple[int, int]]:
    """Of every page of a column: values and bytes that its header claims."""
    start = min(offset for offset in (column.get(11), column[9]) if offset)
    end = start + column[7]
    if not 4 <= start <= end <= len(data):
        raise ValueError("a column lies outside of the file")
    found: list[tuple[int, int]] = []
    values = 0
    at = start
    while at < end and len(found) <= _MAX_PAGES:
        cursor = Compact(data, at)
        header = cursor.struct()
        kind, size, stored = header[1], header[2], header[3]
        at = cursor.at + stored
        if size < 0 or stored < 0 or at > end:
            raise ValueError("a page lies outside of its column")
        # a data page of either version, or a dictionary, whose values are not the column's
        inner = header.get(5) or header.get(8) or header.get(7) or {1: 0}
        number = inner[1]
        if not 0 <= number <= MAX_VALUES:
            raise ValueError(f"a page claims {number:,} values")
        encoding = inner.get(4 if kind == 3 else 2, 0)
        if encoding not in _ENCODINGS:
            raise ValueError(f"a page is of encoding {encoding}, whose size cannot be told")
        values += number if kind in (0, 3) else 0
        found.append((number, size))
    if values != column[5]:
        raise ValueError("a column's pages do not hold the values that it claims")
    return found


def _text_bytes(array: pa.Array) -> int:
    """Bytes of the texts that an array stands for, once they are taken from its dictionary."""
    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary).cast(pa.int64())
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(array.type):
        return sum(map(_text_bytes, array.flatten()))
    if pa.types.is_map(array.type):
        return _text_bytes(array.keys) + _text_bytes(array.items)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _text_bytes(array.values)
    return 0


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with texts in place of dictionaries of texts, one level deep."""
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    return kind
