"""The trainer reads every layout of labelled images that builds read, local or remote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pandas as pd
import pytest
import torch
from trainer_samples import COLOURS, encoded, picture
from webdataset import TarWriter

from models.clip import Clip
from schemas.errors import BadSample
from shards import places
from shards.decoding import Tally
from shards.images import decode_image
from shards.reader import RangeReader
from shards.sources import open_labelled
from trainer.augment import train_transform
from trainer.data import Batch, TrainingBatches, load_batches
from trainer.draws import Stream, draw_seed
from trainer.index import index_images

NAMES = sorted(COLOURS)
IMAGES = {f"{name}-{i}": encoded(picture(COLOURS[name], i)) for name in NAMES for i in range(3)}


def class_of(name: str) -> str:
    return name.partition("-")[0]


def folder(root: Path) -> str:
    for name, data in IMAGES.items():
        (root / class_of(name)).mkdir(parents=True, exist_ok=True)
        (root / class_of(name) / f"{name}.jpg").write_bytes(data)
    return ""


def tars(root: Path) -> str:
    root.mkdir(parents=True)
    (root / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    for shard in range(2):
        with TarWriter(str(root / f"0000{shard}.tar"), encoder=False) as tar:
            for name, data in list(IMAGES.items())[shard::2]:
                label = str(NAMES.index(class_of(name))).encode()
                tar.write({"__key__": name, "jpg": data, "cls": label})
    return ""


def range_of_tars(root: Path) -> str:
    tars(root)
    return "{00000..00001}.tar"


def glob_of_tars(root: Path) -> str:
    tars(root)
    return "*.tar"


def clip_benchmark(root: Path) -> str:
    tars(root / "train")
    (root / "train" / "classnames.txt").rename(root / "classnames.txt")
    tars(root / "test")
    (root / "test" / "classnames.txt").unlink()
    return ""


def table(root: Path) -> pd.DataFrame:
    folder(root / "images")
    paths = [f"images/{class_of(name)}/{name}.jpg" for name in IMAGES]
    return pd.DataFrame({"filepath": paths, "label": [class_of(name) for name in IMAGES]})


def csv(root: Path) -> str:
    table(root).to_csv(root / "list.csv", index=False)
    return "list.csv"


def tsv(root: Path) -> str:
    table(root).to_csv(root / "list.tsv", index=False, sep="\t")
    return "list.tsv"


def parquet(root: Path) -> str:
    table(root).to_parquet(root / "list.parquet")
    return "list.parquet"


LAYOUTS = [folder, tars, range_of_tars, glob_of_tars, clip_benchmark, csv, tsv, parquet]


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    if system.exists("/trainer-sources"):
        system.rm("/trainer-sources", recursive=True)


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_trains(
    layout: Callable[[Path], str],
    remote: bool,
    clip: Clip,
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
) -> None:
    inside = layout(tmp_path / "data")
    root = str(tmp_path / "data")
    if remote:
        memory.put(root, "/trainer-sources", recursive=True)
        root = "memory://trainer-sources"
    tally = Tally()
    index = index_images(open_labelled(places.join(root, inside) if inside else root), tally)
    assert index.classes == NAMES
    assert not tally.dropped
    with RangeReader() as reader:
        found = {index.read(i, reader): NAMES[index.label[i]] for i in range(len(index))}
    assert found == {data: class_of(name) for name, data in IMAGES.items()}
    transform = train_transform(clip.preprocess_cfg, 0.5)
    dataset = TrainingBatches(
        index,
        templates=("a {c}",),
        transform=transform,
        tokenizer=clip.tokenizer,
        seed=3,
        batch_size=9,
    )
    (batch,) = load_batches(dataset, 0, 1, workers=0, pin=False)
    assert len(batch) == 9
    _, chosen = dataset.order.at(0)
    with RangeReader() as reader, torch.random.fork_rng(devices=[]):
        for place, i in enumerate(chosen.tolist()):
            name = NAMES[index.label[i]]
            assert batch.keys["finetune"][place] == index.key(i)
            assert batch.classes[place] == index.label[i]
            assert torch.equal(batch.texts["class"][place], clip.tokenizer([f"a {name}"])[0])
            torch.default_generator.manual_seed(draw_seed(3, Stream.FINETUNE_CROP, 0, i))
            pixels = transform(decode_image(index.read(i, reader))[0])
            assert torch.equal(batch.images["finetune"][place], pixels)


def test_files_that_no_build_would_take_are_counted(clip: Clip, tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "stray.jpg").write_bytes(b"x")
    (tmp_path / "red" / os.fsdecode(b"\xff.jpg")).write_bytes(next(iter(IMAGES.values())))
    os.mkfifo(tmp_path / "red" / "pipe.jpg")
    tally = Tally()
    index = index_images(open_labelled(str(tmp_path)), tally)
    assert tally.dropped == {"no_class_folder": 1, "bad_name": 1}
    assert len(index) == len(IMAGES) + 1
    (pipe,) = (i for i in range(len(index)) if index.key(i) == "red/pipe.jpg")
    with RangeReader() as reader, pytest.raises(BadSample) as caught:
        index.read(pipe, reader)  # a pipe that nobody writes to would be waited for without end
    assert caught.value.reason == "missing_file"
    dataset = TrainingBatches(
        index,
        templates=("a {c}",),
        transform=train_transform(clip.preprocess_cfg, 0.5),
        tokenizer=clip.tokenizer,
        seed=3,
        batch_size=10,
    )
    batch = dataset[0]
    assert isinstance(batch, Batch)
    assert [bad[:3] for bad in batch.bad] == [("finetune", "red/pipe.jpg", "missing_file")]
