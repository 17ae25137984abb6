"""Readers that know nothing of us: tar, webdataset, open_clip's trainer, pyarrow, pandas.

No line here reads through shards: only the expected values come from the set's writer.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
import webdataset as wds
from open_clip_train.data import get_wds_dataset, tar_file_expander
from PIL import Image
from tiny_data import encoded, jpeg, picture
from tiny_sets import pair_record, small_set, text_record

from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, AnchorRecord
from shards.images import decode_image
from shards.writer import write_shard

TEXTS = [f"a circle number {i}" for i in range(6)]
TARS = "text-compensated/{00000..00001}.tar"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    small_set(str(folder))
    return folder


def test_tar_lists_and_extracts_a_shard(root: Path, tmp_path: Path) -> None:
    tar = root / "image-text-pair" / "00000.tar"
    names = subprocess.check_output(["tar", "tf", tar], text=True).splitlines()
    keys = [pair_record(i).key for i in range(6)]
    assert names == [f"{key}.{ext}" for key in keys for ext in ("jpg", "txt", "json")]
    told = subprocess.run(["tar", "xf", tar, "-C", tmp_path], capture_output=True, check=True)
    assert told.stderr == b""
    assert (tmp_path / f"{keys[2]}.jpg").read_bytes() == jpeg(2)
    assert (tmp_path / f"{keys[2]}.txt").read_text() == "a pair number 2"
    assert json.loads((tmp_path / f"{keys[2]}.json").read_text())["rank"] == 2


def test_plain_webdataset_decodes_a_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing of ours needs its decoders that run code, or URLs that run commands.
    monkeypatch.setattr(wds.utils, "enforce_security", True)
    data = wds.WebDataset(f"{root}/{TARS}", shardshuffle=False).decode("pil")
    samples = list(data.to_tuple("__key__", "jpg", "txt", "json"))
    assert [text for _, _, text, _ in samples] == TEXTS
    for i, (key, image, _, record) in enumerate(samples):
        assert key == record["key"] == text_record(i).key
        assert isinstance(image, Image.Image)
        assert image.size == (record["width"], record["height"])
        assert AnchorRecord.model_validate(record) == text_record(i)


def test_every_kind_of_image_reads_as_one_field(tmp_path: Path) -> None:
    """png and webp too, by the field list that open_clip uses."""
    samples = []
    for i, (format, ext) in enumerate((("PNG", "png"), ("WEBP", "webp"), ("JPEG", "jpg"))):
        image = encoded(picture(i), format)
        about = {"image_ext": ext, "image_sha256": "0" * 64}
        samples.append((text_record(i).model_copy(update=about), image))
    entry = write_shard(str(tmp_path), TEXT_COMPENSATED, 0, samples)
    data = wds.WebDataset(str(tmp_path / entry.path), shardshuffle=False).decode("pilrgb")
    read = list(data.rename(image="jpg;png;jpeg;webp").to_tuple("image"))
    wanted = [decode_image(image)[0] for _, image in samples]
    assert [image.tobytes() for (image,) in read] == [image.tobytes() for image in wanted]


@pytest.fixture(autouse=True)
def known_to_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer webdatasets put a mark after each shard, which open_clip's loader does not know.

    open_clip 3.3 asks for webdataset 0.2.86 at most, beside which it needs none of this; nothing
    that we write plays a part.
    """
    if "eof_value" in inspect.signature(tar_file_expander).parameters:
        as_before = functools.partial(tar_file_expander, eof_value=None)
        monkeypatch.setattr("open_clip_train.data.tar_file_expander", as_before)


def open_clip_arguments(**values: Any) -> SimpleNamespace:
    """What open_clip's own command line would hold."""
    defaults: dict[str, Any] = {
        "train_data": None,
        "val_data": None,
        "train_num_samples": None,
        "val_num_samples": None,
        "train_data_upsampling_factors": None,
        "dataset_resampled": False,
        "seed": 0,
        "batch_size": 2,
        "workers": 1,
        "world_size": 1,
    }
    return SimpleNamespace(**(defaults | values))


def batches(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, texts = zip(*data.dataloader, strict=True)
    return torch.cat(images), torch.cat(texts)


@pytest.mark.parametrize("workers", [0, 2])
def test_open_clips_training_loader_reads_a_set(root: Path, workers: int) -> None:
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    transform = open_clip.transform.image_transform(32, is_train=False)
    arguments = open_clip_arguments(
        train_data=f"{root}/{TARS}", train_num_samples=6, workers=workers, batch_size=3
    )
    loader = get_wds_dataset(arguments, transform, is_train=True, tokenizer=tokenizer)
    images, texts = batches(loader)
    assert images.shape == (6, 3, 32, 32)
    # shuffled, but all of them, and each with its own text
    wanted = {tuple(tokenizer(text)[0].tolist()): i for i, text in enumerate(TEXTS)}
    order = [wanted[tuple(text.tolist())] for text in texts]
    assert sorted(order) == list(range(6))
    for image, i in zip(images, order, strict=True):
        assert torch.equal(image, transform(decode_image(jpeg(i))[0]))


def test_open_clips_resampling_and_evaluation_read_a_set(root: Path) -> None:
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    transform = open_clip.transform.image_transform(32, is_train=True)
    shards = (
        f"{root}/{TARS}::{root}/image-text-pair/00000.tar"  # both kinds, as open_clip joins them
    )
    arguments = open_clip_arguments(
        train_data=shards,
        train_num_samples=8,
        dataset_resampled=True,
        train_data_upsampling_factors="1::2",
        val_data=f"{root}/image-text-pair/00000.tar",
        workers=0,
    )
    loader = get_wds_dataset(arguments, transform, is_train=True, tokenizer=tokenizer)
    assert batches(loader)[0].shape == (8, 3, 32, 32)
    _, texts = batches(get_wds_dataset(arguments, transform, is_train=False, tokenizer=tokenizer))
    assert torch.equal(texts, tokenizer([f"a pair number {i}" for i in range(6)]))


def test_open_clip_leaves_out_samples_without_an_image(root: Path, tmp_path: Path) -> None:
    samples = [(text_record(0), jpeg(0)), (text_record(1), None), (text_record(2), jpeg(2))]
    entry = write_shard(str(tmp_path), TEXT_COMPENSATED, 0, samples)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    transform = open_clip.transform.image_transform(32, is_train=False)
    arguments = open_clip_arguments(val_data=str(tmp_path / entry.path), workers=0)
    _, texts = batches(get_wds_dataset(arguments, transform, is_train=False, tokenizer=tokenizer))
    assert torch.equal(texts, tokenizer([TEXTS[0], TEXTS[2]]))


def test_pyarrow_queries_the_parquets_and_seeks_in_the_tars(root: Path) -> None:
    data = ds.dataset(root, format="parquet", exclude_invalid_files=True)
    assert len(data.files) == 3
    assert data.count_rows() == 12
    wanted = (ds.field("kind") == IMAGE_TEXT_PAIR) & (ds.field("score") > 0.525)
    columns = ["text", "score", "image_offset", "image_size"]
    rows = data.to_table(columns=columns, filter=wanted).to_pylist()
    assert [row["text"] for row in rows] == [f"a pair number {i}" for i in (3, 4, 5)]
    tar = (root / "image-text-pair" / "00000.tar").read_bytes()
    for i, row in zip((3, 4, 5), rows, strict=True):
        assert tar[row["image_offset"] : row["image_offset"] + row["image_size"]] == jpeg(i)


def test_pandas_reads_a_parquet(root: Path) -> None:
    frame = pd.read_parquet(root / "image-text-pair" / "00000.parquet")
    assert frame.groupby(frame.query_classes.str[0]).score.max().round(6).to_dict() == {
        "circle": 0.53,
        "square": 0.54,
        "bar": 0.55,
    }
    # what is in the parquet is what is in the tar
    tar = io.BytesIO((root / "image-text-pair" / "00000.tar").read_bytes())
    for row in pq.read_table(root / "image-text-pair" / "00000.parquet").to_pylist():
        tar.seek(row["record_offset"])
        record = json.loads(tar.read(row["record_size"]))
        assert {name: row[name] for name in record} == record
