"""Thrift's compact protocol, read only: what a parquet's footer and page headers are written in.

pyarrow allocates what a page header claims before it looks at the page, and shows none of these
headers; to refuse a claim, one must read it. Numbers are kept, and of texts only their length.
"""

from __future__ import annotations

from typing import Any

_DEPTH = 24  # parquet's own structures are half as deep
_STOP, _TRUE, _FALSE, _BYTE = 0, 1, 2, 3
_DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 7, 8, 9, 10, 11, 12


class Compact:
    """A cursor over bytes.

    Attributes:
        at: position of the next byte.
    """

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self.at = at
        self._data = data

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """A structure: field number to number, bool, length of a text, list, or structure.

        Raises:
            ValueError: it breaks off, is nested too deep, or is no such structure.
        """
        if depth > _DEPTH:
            raise ValueError("nested too deep")
        found: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            found[field] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._varint()
            return self._items(head & 15, size, depth + 1)
        if kind == _MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            for _ in range(size):
                self._items(kinds >> 4, 1, depth + 1)
                self._items(kinds & 15, 1, depth + 1)
            return size
        if kind == _BINARY:
            size = self._varint()
            self._skip(size)
            return size
        if kind == _DOUBLE:
            return self._skip(8)
        if kind == _BYTE:
            return self._byte()
        if 4 <= kind <= 6:
            return self._zigzag()
        raise ValueError(f"no such type as {kind}")

    def _items(self, kind: int, size: int, depth: int) -> list[Any]:
        if depth > _DEPTH or size > len(self._data) - self.at:  # an item has at least a byte
            raise ValueError("a list is nested too deep or longer than the file")
        if kind in (_TRUE, _FALSE):
            return [self._byte() for _ in range(size)]
        return [self._value(kind, depth) for _ in range(size)]

    def _byte(self) -> int:
        if not 0 <= self.at < len(self._data):
            raise ValueError("it breaks off")
        self.at += 1
        return self._data[self.at - 1]

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self.at:
            raise ValueError("it breaks off")
        self.at += size

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) >= 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number has more than 64 bits")
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
