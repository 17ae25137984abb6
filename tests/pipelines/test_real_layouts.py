"""Files in the real layouts, made by the real tools: img2dataset, clip-retrieval's writer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from other_tools import clip_retrieval_writes, image_server, img2dataset, needs_tools
from PIL import Image
from tiny_builds import CLIP, build
from tiny_data import jpeg, write_tar

from pipelines.embedding import embed
from pipelines.embedding.encoder import ImageEncoder
from pipelines.parts import required_part
from schemas.record import IMAGE_TEXT_PAIR
from shards.reader import AnchorSet
from shards.sources import open_pool, raise_bad, read_unit
from shards.sources.base import Sample
from shards.sources.beside import read_beside

pytestmark = needs_tools

PAIRS = 20
GONE = (3, 11)  # their URLs lead nowhere
# Columns of releases, beside URL and TEXT.
LAION_400M = {"SAMPLE_ID", "LICENSE", "NSFW", "similarity"}
LAION_2B = {"LANGUAGE", "hash", "pwatermark", "punsafe", "similarity"}
VALUES: dict[str, Any] = {
    "SAMPLE_ID": 2**53 + 1,
    "LICENSE": "?",
    "NSFW": "UNLIKELY",
    "LANGUAGE": "en",
    "hash": -(2**60),
}
WEB = {
    "400m": (LAION_400M, {"license": "?", "nsfw": "UNLIKELY", "similarity": 0.25}),
    "2b": (LAION_2B, {"language": "en", "pwatermark": 0.25, "punsafe": 0.25, "similarity": 0.25}),
}


def download(root: Path, release: str, **options: object) -> Path:
    """A folder as img2dataset leaves it; two of the URLs fail."""
    files = {f"{n}.jpg": jpeg(1000 + n) for n in range(PAIRS) if n not in GONE}
    columns = sorted(WEB[release][0])
    with image_server(files) as site:
        table = {
            "URL": [f"{site}/{n}.jpg" for n in range(PAIRS)],
            "TEXT": [f"a pair number {n}" for n in range(PAIRS)],
        } | {name: [VALUES.get(name, 0.25)] * PAIRS for name in columns}
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), root / "urls.parquet")
        more = {"output_format": "webdataset", "number_sample_per_shard": 10}
        img2dataset(root / "urls.parquet", root / "laion", columns, **(more | options))
    return root / "laion"


@pytest.fixture(scope="module")
def laion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return download(tmp_path_factory.mktemp("download"), "400m")


def samples(place: Path) -> list[Sample]:
    source = open_pool(str(place))
    return [sample for unit in source.units for sample in read_unit(source, unit)]


def number(sample: Sample) -> int:
    return int((sample.text or "").rpartition(" ")[2])


def test_tars_with_their_parquet(laion: Path) -> None:
    found = samples(laion)
    assert sorted(map(number, found)) == [n for n in range(PAIRS) if n not in GONE]
    for sample in found:
        n, url = number(sample), sample.web["url"]
        assert sample.source_key == f"{n // 10:05d}{n % 10}"
        assert url.endswith(f"/{n}.jpg")
        assert sample.web == {"url": url} | WEB["400m"][1]
        assert Image.open(io.BytesIO(sample.image)).size == (48, 48)
    for tar in ("00000.tar", "00001.tar"):
        beside = read_beside(str(laion / tar), raise_bad)
        assert beside is not None
        assert (len(beside.rows), beside.failed) == (9, 1)


def test_the_parquet_stands_in_for_a_json(laion: Path, tmp_path: Path) -> None:
    """Some publish the tars without their jsons: then the parquet says it all."""
    before = samples(laion)
    for tar in ("00000", "00001"):
        members = [(f"{s.source_key}.jpg", s.image) for s in before if s.source == f"{tar}.tar"]
        write_tar(tmp_path / f"{tar}.tar", members)
        (tmp_path / f"{tar}.parquet").write_bytes((laion / f"{tar}.parquet").read_bytes())
    after = samples(tmp_path)
    assert [(s.source_key, s.text, s.web) for s in after] == [
        (s.source_key, s.text, s.web) for s in before
    ]


def test_files_in_folders(tmp_path: Path) -> None:
    """``--output_format files``: NAME.txt and NAME.json beside NAME.jpg."""
    folder = download(tmp_path, "2b", output_format="files")
    found = samples(folder)
    assert sorted(map(number, found)) == [n for n in range(PAIRS) if n not in GONE]
    for sample in found:
        assert sample.web == {"url": sample.web["url"]} | WEB["2b"][1]
        assert (folder / sample.source).read_bytes() == sample.image


def test_a_build_over_a_download(laion: Path, finetune: Path, tmp_path: Path) -> None:
    built = build(finetune, laion, tmp_path / "set", "--kinds", IMAGE_TEXT_PAIR, "--k", "2")
    assert built.code == 0, built.err
    assert "embed-pool: read 18, kept 18" in built.out.splitlines()
    parts = [required_part(str(tmp_path / "set.work"), embed.POOL, n) for n in (0, 1)]
    assert [part.extra["noted"] for part in parts] == [{"not_downloaded": 1}] * 2
    report = json.loads((tmp_path / "set.work" / "report.json").read_text())
    noted = {stage["stage"]: stage["noted"] for stage in report["stages"]}
    assert noted[embed.POOL] == {"not_downloaded": 2}
    assert "(not_downloaded 2)" in (tmp_path / "set.work" / "report.html").read_text()
    for record, _ in AnchorSet.open(str(tmp_path / "set")).samples(raise_bad):
        assert record.nsfw == "UNLIKELY"
        assert record.similarity == 0.25


def test_embeddings_by_clip_retrieval(laion: Path, finetune: Path, tmp_path: Path) -> None:
    """Read by webdataset as clip-retrieval does, embedded, and written by its own writer."""
    encoder = ImageEncoder(str(CLIP))
    partitions = []
    for tar in sorted(laion.glob("*.tar")):
        rows = list(webdataset.WebDataset(str(tar), shardshuffle=False))
        images = [Image.open(io.BytesIO(row["jpg"])).convert("RGB") for row in rows]
        embeddings = encoder.embed([encoder.prepare(image) for image in images])
        about = [
            {"key": r["__key__"], "caption": r["txt"].decode(), "json": r["json"].decode()}
            for r in rows
        ]
        partitions.append((embeddings.astype(np.float32), about))
    clip_retrieval_writes(tmp_path / "batches", tmp_path / "embeddings", partitions)
    only = ("--kinds", IMAGE_TEXT_PAIR, "--k", "2")
    existing = ("--pool_embeddings", str(tmp_path / "embeddings"))
    for output, more in (("ours", ()), ("theirs", existing)):
        built = build(finetune, laion, tmp_path / output, *only, *more)
        assert built.code == 0, built.err
    ours, theirs = (
        [record.model_dump() for record, _ in AnchorSet.open(str(tmp_path / n)).samples(raise_bad)]
        for n in ("ours", "theirs")
    )
    assert ours == theirs
    assert len(ours) > 5


def test_what_clip_retrieval_does_not_say(laion: Path, tmp_path: Path) -> None:
    """The layout that we rely on: no model, no place, the key as the image's path."""
    about = [{"key": "000000001", "caption": "c", "json": json.dumps({"similarity": 0.5})}]
    clip_retrieval_writes(tmp_path / "b", tmp_path / "e", [(np.ones((1, 4), np.float16), about)])
    table = pq.read_table(tmp_path / "e" / "metadata" / "metadata_0.parquet").to_pylist()
    assert table == [{"image_path": "000000001", "caption": "c", "similarity": 0.5}]
