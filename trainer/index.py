"""Where every image of a set lies: arrays of references, some 30 bytes and a name a sample.

Image bytes are read when they are used, so memory does not grow with the images.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from schemas.errors import BadSample, UserError
from schemas.record import IMAGE_TEXT_PAIR, Kind
from shards import places
from shards.decoding import Tally
from shards.reader import AnchorSet, RangeReader
from shards.sources import Source, Unit
from shards.sources.tar_sets import read_unit_tar
from shards.tars import MAX_MEMBER_BYTES

_Reference = tuple[int, int, int, int, str]  # file, offset, size, class, key


@dataclass(frozen=True)
class ImageIndex:
    """References to the images of a labelled source.

    Attributes:
        root: folder that the files lie below.
        classes: class names by index.
        files: names of the files below the root; a tar, or an image.
        keys: [N] the samples' keys, as an anchor's record has them.
        file: int32 [N], position in ``files``.
        offset: int64 [N], of the image's bytes in its file; -1 if the file is the image.
        size: int64 [N], of the image in bytes; -1 if the file is the image.
        label: int32 [N], class index.
    """

    root: str
    classes: list[str]
    files: pa.Array
    keys: pa.Array
    file: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.file)

    def key(self, i: int) -> str:
        """Sample i's key."""
        return str(self.keys[i].as_py())

    def read(self, i: int, reader: RangeReader) -> bytes:
        """The bytes of image i.

        Raises:
            BadSample: ``missing_file`` or ``unreadable_file``, where each image is a file.
            UserError: a tar is gone.
        """
        place = places.join(self.root, self.files[int(self.file[i])].as_py())
        if self.offset[i] >= 0:
            return reader.read(place, int(self.offset[i]), int(self.size[i]))
        try:
            return places.read_limited(place, MAX_MEMBER_BYTES)
        except UserError as error:  # or a pipe, or too large to be an image
            raise BadSample("missing_file", str(error)) from None
        except OSError as error:
            raise BadSample("unreadable_file", str(error)) from None

    def sources(self) -> pa.Array:
        """[N] the file of each sample below the root, as an anchor's record has it."""
        return self.files.take(pa.array(self.file))

    def digest(self) -> str:
        """SHA-256 of all references and class names: another digest, other training data."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for names in (self.files, self.keys):
            for start in range(0, len(names), 10_000):
                digest.update("\0".join(names[start : start + 10_000].to_pylist()).encode())
        for array in (self.file, self.offset, self.size, self.label):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def index_images(source: Source, tally: Tally) -> ImageIndex:
    """Walk a labelled source without reading its images; bad samples are tallied.

    Raises:
        UserError: no image is left.
    """
    files: list[pa.Array] = []
    keys: list[pa.Array] = []
    numbers: list[NDArray[np.int64]] = []
    known = 0
    for unit in _progress(source.units, "indexing"):
        names, references = _walk(unit, len(source.classes), known, tally)
        known += len(names)
        files.append(pa.array(names, pa.large_string()))
        keys.append(pa.array([reference[-1] for reference in references], pa.large_string()))
        rows = np.array([reference[:-1] for reference in references], np.int64)
        numbers.append(rows.reshape(-1, 4))
        tally.kept += len(references)
    if not tally.kept:
        reasons = ", ".join(f"{r} {n:,}" for r, n in tally.dropped.items()) or "it is empty"
        raise UserError(f"{source.place!r} holds no image that can be used ({reasons}).")
    table = np.concatenate(numbers)
    return ImageIndex(
        root=source.units[0].root,
        classes=list(source.classes),
        files=pa.concat_arrays(files),
        keys=pa.concat_arrays(keys),
        file=table[:, 0].astype(np.int32),
        offset=table[:, 1].copy(),
        size=table[:, 2].copy(),
        label=table[:, 3].astype(np.int32),
    )


def _walk(unit: Unit, classes: int, known: int, tally: Tally) -> tuple[list[str], list[_Reference]]:
    """File names and references of a unit; ``known`` files came before."""
    if unit.tar is not None:
        samples = read_unit_tar(unit, tally.drop, classes, want=lambda ext: ext in ("cls", "json"))
        return [unit.tar], [
            (known, s.offset or 0, s.size, _known(s.class_index), s.source_key) for s in samples
        ]
    names: list[str] = []
    references: list[_Reference] = []
    for item in unit.items:
        key = places.printable(item.path)
        if key != item.path:
            tally.drop(key, BadSample("bad_name", "the name of the file is not UTF-8"))
            continue
        if item.class_index is None:
            tally.drop(item.path, BadSample("no_class_folder", "lies outside a class folder"))
            continue
        references.append((known + len(names), -1, -1, item.class_index, item.path))
        names.append(item.path)
    return names, references


def _known(label: int | None) -> int:
    assert label is not None  # labelled tars drop samples without one
    return label


@dataclass(frozen=True)
class Texts:
    """The texts of anchors, in Arrow's compact form.

    Attributes:
        first: large_string [N].
        several: large_list of large_string [N]; null or empty where there is only the first.
    """

    first: pa.Array
    several: pa.Array

    def draw(self, row: int, random: np.random.Generator) -> str:
        """One of the row's texts, each as likely."""
        texts = self.several[row].as_py() or [self.first[row].as_py()]
        return str(texts[int(random.integers(len(texts)))])


@dataclass(frozen=True)
class Anchors:
    """The anchors of one kind: hashes, texts, origins and, where there are any, references.

    Attributes:
        places: the shards' tars.
        keys: [N].
        source: [N] file of the source; with ``source_key`` it finds the finetune image.
        source_key: [N].
        sha256: uint8 [N, 32], of the image's bytes.
        texts: of N anchors.
        file: int32 [N], position in ``places``.
        offset: int64 [N], of the image in its tar; -1 in a set without images.
        size: int64 [N], of the image in bytes.
    """

    places: list[str]
    keys: pa.Array
    source: pa.Array
    source_key: pa.Array
    sha256: NDArray[np.uint8]
    texts: Texts
    file: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.file)

    def read(self, i: int, reader: RangeReader) -> bytes:
        """The bytes of anchor i's image, checked.

        Raises:
            BadSample: ``hash_mismatch``: the tar was changed or cut after it was written;
                ``bad_range``: no tar of ours holds such an image.
            UserError: the tar is gone.
        """
        place = self.places[int(self.file[i])]
        offset, size = int(self.offset[i]), int(self.size[i])
        if not (0 <= offset < 1 << 62 and 0 <= size <= MAX_MEMBER_BYTES):
            raise BadSample("bad_range", f"{self.keys[i].as_py()}: {size} bytes from {offset}")
        data = reader.read(place, offset, size)
        if hashlib.sha256(data).digest() != self.sha256[i].tobytes():
            raise BadSample("hash_mismatch", f"{self.keys[i].as_py()} in {place}")
        return data


def index_anchors(anchors: AnchorSet, kind: Kind) -> Anchors:
    """Read the tables of one kind's shards.

    Raises:
        UserError: no anchors of the kind, a broken table, or image-text pairs without images.
    """
    shards = anchors.shards(kind)
    tables = [anchors.table(shard) for shard in shards]
    if not sum(table.num_rows for table in tables):
        raise UserError(f"{anchors.root!r} holds no {kind} anchors.")
    table = pa.concat_tables(tables)
    if kind == IMAGE_TEXT_PAIR and table["image_offset"].null_count:
        raise UserError(
            f"{anchors.root!r} has {kind} anchors without image bytes, which cannot be trained on; "
            f"fetch a set that includes them."
        )
    digests = "".join(table["image_sha256"].to_pylist())
    if not pc.all(pc.match_substring_regex(table["image_sha256"], "^[0-9a-f]{64}$")).as_py():
        raise UserError(f"{anchors.root!r} has an image_sha256 that is none; fetch the set again.")
    return Anchors(
        places=[anchors.place(shard) for shard in shards],
        keys=_strings(table["key"]),
        source=_strings(table["source"]),
        source_key=_strings(table["source_key"]),
        sha256=np.frombuffer(bytes.fromhex(digests), np.uint8).reshape(-1, 32),
        texts=Texts(
            first=_strings(table["text"]),
            several=_whole(table["texts"], pa.large_list(pa.large_string())),
        ),
        file=np.repeat(np.arange(len(shards), dtype=np.int32), [t.num_rows for t in tables]),
        offset=table["image_offset"].fill_null(-1).to_numpy(),
        size=table["image_size"].fill_null(-1).to_numpy(),
    )


def _strings(column: pa.ChunkedArray) -> pa.Array:
    return _whole(column, pa.large_string())


def _whole(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    # Large types: their 64-bit offsets hold more than 2 GiB of text in one piece.
    whole = column.cast(kind).combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _progress(units: Iterable[Unit], what: str) -> Iterator[Unit]:
    yield from tqdm(units, desc=what, unit="part", leave=False, disable=not sys.stderr.isatty())
