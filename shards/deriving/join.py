"""``join``: captions that came without images, and the receiver's own copy of the images, in one.

An image is found by the SHA-256 of its bytes, wherever and under whatever name the receiver keeps
it. The records stay the sender's: key, source and class name too. Where the receiver's class of an
image has another name that is reported, since only people can say whether it is another class.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from schemas.errors import BadSample, UserError
from schemas.manifest import InputInfo
from schemas.record import KINDS, Kind
from shards import places
from shards.decoding import Tally
from shards.deriving.derive import (
    MAX_BAD_FRACTION,
    Derived,
    Plan,
    Recipe,
    Row,
    derive,
    fullest_shard,
)
from shards.deriving.picks import Picks
from shards.reader import AnchorSet, RangeReader, read_image
from shards.sources import Source

MAX_UNMATCHED = 0.01
"""Share of the captions that may lack an image before join refuses."""


@dataclass(frozen=True)
class Images:
    """Where the images of a labelled source lie, by the digest of their bytes.

    Attributes:
        files: places of the files.
        names: of the N images: file and key, as the source has them.
        sha256: S32 [N].
        file: int32 [N], position in ``files``.
        offset: int64 [N]; -1 if the file is the image.
        size: int64 [N].
        label: int32 [N], class index.
        classes: of the source, by index.
        order: int64 [N], positions sorted by digest, the first of equal ones first.
        inputs: its units, with a fingerprint each of the images that were read.
        tally: what could be read, and what not.
    """

    files: list[str]
    names: list[tuple[str, str]]
    sha256: NDArray[np.bytes_]
    file: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int32]
    classes: list[str]
    order: NDArray[np.int64]
    inputs: list[InputInfo]
    tally: Tally

    def find(self, digests: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Position of the first image of each digest; -1 where there is none."""
        if not len(self.sha256):
            return np.full(len(digests), -1)
        at = np.searchsorted(self.sha256, digests, sorter=self.order)
        found = self.order[np.minimum(at, len(self.order) - 1)]
        return np.where(self.sha256[found] == digests, found, -1)

    def read(self, i: int, reader: RangeReader) -> bytes:
        """The bytes of image i, checked.

        Raises:
            BadSample: ``hash_mismatch``: it changed since it was hashed.
            UserError: its file is gone.
        """
        place = self.files[self.file[i]]
        offset = int(self.offset[i])
        data = reader.read(place, None if offset < 0 else offset, int(self.size[i]))
        if hashlib.sha256(data).digest() != _whole(self.sha256[i]):
            raise BadSample("hash_mismatch", f"{self.names[i][1]} in {place}")
        return data


@dataclass(frozen=True)
class Matching:
    """What found what.

    Attributes:
        matched: captions whose image was found.
        had_images: anchors that brought their image along.
        unmatched_captions: keys of the anchors that have no image.
        unmatched_images: file and key of the images that no caption is of.
        renamed: (class in the set, class in the data) to the number of images, where they differ.
        unreadable: images of the data that could not be read, by reason.
    """

    matched: int
    had_images: int
    unmatched_captions: list[str]
    unmatched_images: list[tuple[str, str]]
    renamed: dict[tuple[str, str], int]
    unreadable: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain values, all lists complete."""
        return {
            "matched": self.matched,
            "had_images": self.had_images,
            "unmatched_captions": self.unmatched_captions,
            "unmatched_images": [
                {"source": file, "source_key": key} for file, key in self.unmatched_images
            ],
            "renamed_classes": [
                {"set": ours, "data": theirs, "images": number}
                for (ours, theirs), number in self.renamed.items()
            ],
            "unreadable_images": self.unreadable,
        }


def join(
    place: str,
    source: Source,
    output: str,
    *,
    max_unmatched: float = MAX_UNMATCHED,
    shard_size: int | None = None,
    name: str | None = None,
    max_bad: float = MAX_BAD_FRACTION,
) -> tuple[Derived, Matching]:
    """Write a set with the images of the receiver's data.

    Anchors that have their image in the set already keep it; those whose image is not found are
    left out, counted as ``no_image``.

    Args:
        place: the set.
        source: the receiver's labelled images (shards.sources.open_labelled).
        output: folder of the new set.
        max_unmatched: share of the captions without images that may stay without.
        shard_size: anchors per shard; default: as in the fullest shard of the set.
        name: of the new set; default: that of the set.
        max_bad: share of the anchors that may be corrupt.

    Raises:
        UserError: too many captions without an image; or see derive.
    """
    anchors = AnchorSet.open(place)
    images = read_images(source)
    plan, matching = match(anchors, images)
    lacking = len(matching.unmatched_captions)
    if lacking > max_unmatched * (lacking + matching.matched):
        raise UserError(
            f"{lacking:,} of {lacking + matching.matched:,} captions of {place!r} have no image in "
            f"{source.place!r} (the first is {matching.unmatched_captions[0]}): is it other data, "
            f"or was it re-encoded? --max-unmatched allows more."
        )

    def image(reader: RangeReader, tar: str, row: Row) -> bytes | None:
        if row["image_offset"] is not None:
            return read_image(reader, tar, row)
        digest = np.array([bytes.fromhex(row["image_sha256"])], "S32")
        return images.read(int(images.find(digest)[0]), reader)

    recipe = Recipe(
        command="join",
        parents=[anchors],
        options={},
        shard_size=shard_size or fullest_shard([anchors]),
        name=name or anchors.manifest.name,
        classes=anchors.manifest.classes,
        inputs=images.inputs,
        image=image,
    )
    return derive(output, recipe, lambda: plan, max_bad), matching


def read_images(source: Source) -> Images:
    """Read and hash every image of a source once; what cannot be read is tallied."""
    files: list[str] = []
    names: list[tuple[str, str]] = []
    numbers: list[tuple[int, int, int, int]] = []
    digests = bytearray()
    inputs: list[InputInfo] = []
    tally = Tally()
    with tqdm(
        desc="hashing images", unit="image", leave=False, disable=not sys.stderr.isatty()
    ) as bar:
        for unit in source.units:
            content = hashlib.sha256()
            for sample in source.read(unit, tally.drop):
                place = places.join(unit.root, sample.source)
                if not files or files[-1] != place:
                    files.append(place)
                digest = hashlib.sha256(sample.image).digest()
                content.update(f"{digest.hex()}  {sample.source_key}\n".encode())
                digests += digest
                names.append((sample.source, sample.source_key))
                offset = -1 if sample.offset is None else sample.offset
                label = -1 if sample.class_index is None else sample.class_index
                numbers.append((len(files) - 1, offset, sample.size, label))
                tally.kept += 1
                bar.update()
            fingerprint = f"sha256:{content.hexdigest()}"
            inputs.append(InputInfo(role="finetune", name=unit.name, fingerprint=fingerprint))
    table = np.array(numbers, np.int64).reshape(-1, 4)
    sha256 = np.frombuffer(bytes(digests), "S32")
    return Images(
        files=files,
        names=names,
        sha256=sha256,
        file=table[:, 0].astype(np.int32),
        offset=table[:, 1].copy(),
        size=table[:, 2].copy(),
        label=table[:, 3].astype(np.int32),
        classes=list(source.classes),
        order=np.argsort(sha256, kind="stable"),
        inputs=inputs,
        tally=tally,
    )


def match(anchors: AnchorSet, images: Images) -> tuple[Plan, Matching]:
    """Which anchors will have an image, and what is left over on either side."""
    picks: dict[Kind, list[Picks]] = {kind: [] for kind in KINDS}
    used = np.zeros(len(images.sha256), bool)
    lacking: list[str] = []
    renamed: Counter[tuple[str, str]] = Counter()
    matched = had = 0
    for number, shard in enumerate(anchors.manifest.shards):
        table = anchors.table(shard)
        stripped = table.column("image_offset").is_null().to_numpy()
        at = images.find(_digests(table.column("image_sha256")))
        lacking += table.filter(pa.array(stripped & (at < 0))).column("key").to_pylist()
        had += int((~stripped).sum())
        rows = np.flatnonzero(stripped & (at >= 0))
        matched += len(rows)
        used[at[rows]] = True
        classes = table.column("class_name").take(pa.array(rows)).to_pylist()
        for ours, label in zip(classes, images.label[at[rows]].tolist(), strict=True):
            if label >= 0 and images.classes[label] != ours:
                renamed[str(ours), images.classes[label]] += 1
        picks[shard.kind].append(Picks.of_shard(0, number, np.flatnonzero(~stripped | (at >= 0))))
    plan = Plan(
        {kind: Picks.concatenate(parts) for kind, parts in picks.items()},
        {"no_image": len(lacking)} if lacking else {},
    )
    matching = Matching(
        matched=matched,
        had_images=had,
        unmatched_captions=lacking,
        unmatched_images=_unused(images, used),
        renamed=dict(sorted(renamed.items())),
        unreadable=dict(sorted(images.tally.dropped.items())),
    )
    return plan, matching


def _unused(images: Images, used: NDArray[np.bool_]) -> list[tuple[str, str]]:
    """Names of the images whose content no caption is of; of copies, all are in use or none."""
    idle = ~np.isin(images.sha256, images.sha256[used])
    return [images.names[i] for i in np.flatnonzero(idle).tolist()]


def _digests(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    # A hostile parquet may hold anything here; what is no digest is no image's either.
    values = [v if len(v) == 64 else "0" * 64 for v in column.to_pylist()]
    try:
        return np.frombuffer(bytes.fromhex("".join(values)), "S32")
    except ValueError:
        raise UserError("a record's image_sha256 is not hexadecimal; verify the set.") from None


def _whole(digest: np.bytes_) -> bytes:
    """All 32 bytes: numpy drops the zeros at the end of such values."""
    return bytes(digest).ljust(32, b"\0")
