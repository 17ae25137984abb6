"""Every layout that labelled images come in is trained on, from a disk or from a store."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trainer_samples import COLOURS
from webdataset import TarWriter

from models.clip import Clip
from shards import places
from shards.decoding import Tally
from shards.reader import RangeReader
from shards.sources import open_labelled
from trainer.augment import train_transform
from trainer.data import TrainingBatches, load_batches
from trainer.index import index_images

CLASSES = sorted(COLOURS)
Images = list[tuple[str, str, bytes]]
"""Class, name and bytes of each."""


def image_folder(root: str, images: Images) -> str:
    for name, file, data in images:
        places.write_bytes(places.join(root, name, file), data)
    return root


def tars(root: str, images: Images, split: str = "") -> str:
    """Two unequal tars, and the class names beside them or above the split."""
    places.write_bytes(places.join(root, "classnames.txt"), "\n".join(CLASSES).encode())
    for shard, part in enumerate((images[:5], images[5:])):
        out = io.BytesIO()
        with TarWriter(out, encoder=False) as tar:
            for name, file, data in part:
                label = str(CLASSES.index(name)).encode()
                key = f"{name}-{Path(file).stem}"
                tar.write({"__key__": key, "jpg": data, "cls": label})
        place = places.join(root, *([split] if split else []), f"{shard}.tar")
        places.write_bytes(place, out.getvalue())
    return root


def labelled_json(root: str, images: Images) -> str:
    """One tar whose labels are in a json member; the class names lie beside it."""
    places.write_bytes(places.join(root, "classnames.txt"), "\n".join(CLASSES).encode())
    out = io.BytesIO()
    with TarWriter(out, encoder=False) as tar:
        for name, file, data in images:
            about = f'{{"label": {CLASSES.index(name)}}}'.encode()
            tar.write({"__key__": f"{name}-{Path(file).stem}", "jpg": data, "json": about})
    places.write_bytes(places.join(root, "only.tar"), out.getvalue())
    return places.join(root, "only.tar")


def text_list(root: str, images: Images, mark: str, ext: str) -> str:
    image_folder(places.join(root, "pictures"), images)
    rows = [("filepath", "label"), *((f"pictures/{name}/{file}", name) for name, file, _ in images)]
    place = places.join(root, f"list.{ext}")
    places.write_bytes(place, "".join(mark.join(row) + "\n" for row in rows).encode())
    return place


def parquet_list(root: str, images: Images) -> str:
    image_folder(places.join(root, "pictures"), images)
    paths = [f"pictures/{name}/{file}" for name, file, _ in images]
    out = io.BytesIO()
    pq.write_table(pa.table({"path": paths, "class_name": [name for name, _, _ in images]}), out)
    place = places.join(root, "list.parquet")
    places.write_bytes(place, out.getvalue())
    return place


LAYOUTS: dict[str, Callable[[str, Images], str]] = {
    "image folder": image_folder,
    "tars": tars,
    "tars, by a range": lambda root, images: places.join(tars(root, images), "{0..1}.tar"),
    "tars, by a glob": lambda root, images: places.join(tars(root, images), "*.tar"),
    "a tar, labels in json": labelled_json,
    "CLIP_benchmark": lambda root, images: tars(root, images, "train"),
    "CSV": lambda root, images: text_list(root, images, ",", "csv"),
    "TSV": lambda root, images: text_list(root, images, "\t", "tsv"),
    "parquet": parquet_list,
}


@pytest.fixture(params=["disk", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "data")
        return
    place = f"memory://{tmp_path.name}/data"
    yield place
    filesystem, path = places.filesystem(place)
    filesystem.rm(path, recursive=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_indexed_whole_and_read(
    layout: str, root: str, images: Path, clip: Clip
) -> None:
    known: Images = [
        (path.parent.name, path.name, path.read_bytes()) for path in sorted(images.glob("*/*.jpg"))
    ]
    tally = Tally()
    index = index_images(open_labelled(LAYOUTS[layout](root, known)), tally)
    assert not tally.dropped
    assert index.classes == CLASSES
    with RangeReader() as reader:
        found = [(index.classes[index.label[i]], index.read(i, reader)) for i in range(len(index))]
    assert sorted(found) == sorted((name, data) for name, _, data in known)

    dataset = TrainingBatches(
        index,
        templates=("a {c}",),
        transform=train_transform(clip.preprocess_cfg, 0.9),
        tokenizer=clip.tokenizer,
        seed=0,
        batch_size=len(known),
    )
    (batch,) = load_batches(dataset, 0, 1, workers=0, pin=False)
    assert not batch.bad
    assert sorted(batch.keys["finetune"]) == sorted(index.keys.to_pylist())
    assert batch.texts["class"].equal(clip.tokenizer([f"a {CLASSES[i]}" for i in batch.classes]))
    # Each square is of the colour that its class is called by.
    brightest = batch.images["finetune"].mean((2, 3)).argmax(1)
    channel = [int(np.argmax(COLOURS[CLASSES[i]])) for i in batch.classes]
    assert brightest.tolist() == channel
