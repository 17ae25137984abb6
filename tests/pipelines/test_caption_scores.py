"""Captions against their images: scored, put in order, left out below a floor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_builds import CLIP, Built, build, contents
from tiny_data import labelled_tars, pool

from models.clip import load_clip
from schemas.manifest import Manifest
from schemas.record import TEXT_COMPENSATED
from shards.images import decode_image
from shards.reader import AnchorSet
from shards.sources import raise_bad

SEVERAL = ("--decoding", "nucleus", "--captions_per_image", "3", "--caption_seed", "4")
ALONE = ("--kinds", TEXT_COMPENSATED, *SEVERAL)


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_tars(tmp_path_factory.mktemp("data") / "ft", tars=2, per_tar=4)


@pytest.fixture(scope="module")
def scored(finetune: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("scored") / "set"
    made(build(finetune, None, output, *ALONE, "--caption_scores"))
    return output


def made(built: Built) -> Built:
    assert built.code == 0, built.err
    return built


def manifest(output: Path) -> Manifest:
    return AnchorSet.open(str(output)).manifest


@torch.inference_mode()
def cosines(anchors: Path) -> dict[str, list[float]]:
    """Of every anchor, by open_clip alone: key to the cosine of each text."""
    clip = load_clip(str(CLIP))
    found = {}
    for record, data in AnchorSet.open(str(anchors)).samples(raise_bad):
        image = clip.model.encode_image(clip.preprocess(decode_image(data)[0])[None])
        texts = clip.model.encode_text(clip.tokenizer(record.texts or [record.text]))
        pairs = torch.nn.functional.cosine_similarity(image, texts)
        found[record.key] = pairs.tolist()
    return found


def test_scores_are_the_encoders_and_the_best_caption_comes_first(scored: Path) -> None:
    expected = cosines(scored)
    assert len(expected) == 8
    several = 0
    for record, _ in AnchorSet.open(str(scored)).samples(raise_bad):
        own = expected[record.key]
        assert record.clip_score == pytest.approx(own[0], abs=2e-3)
        assert own == sorted(own, reverse=True) or np.ptp(own) < 2e-3
        several += len(own) > 2
    assert several  # images with captions to choose among
    told = manifest(scored)
    assert told.provenance.config["caption_scores"] is True
    assert told.provenance.encoder is not None
    assert told.provenance.counts["select-captions"].dropped == {}


def test_the_floor_drops_captions_and_says_which(
    finetune: Path, scored: Path, tmp_path: Path
) -> None:
    every = sorted(score for scores in cosines(scored).values() for score in set(scores))
    floor = round(every[len(every) // 2], 3)
    output = tmp_path / "set"
    made(build(finetune, None, output, *ALONE, "--min_caption_score", str(floor)))
    counts = manifest(output).provenance.counts["select-captions"]
    assert 0 < counts.dropped["low_caption_score"] < counts.read
    records = [record for record, _ in AnchorSet.open(str(output)).samples(raise_bad)]
    assert all(record.clip_score is not None and record.clip_score >= floor for record in records)
    parts = sorted((tmp_path / "set.work" / "rejected").glob("select-captions-*.parquet"))
    rows = [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]
    assert len(rows) == counts.dropped["low_caption_score"]
    assert all(float(row["detail"]) < floor and row["caption"] for row in rows)
    report = json.loads((tmp_path / "set.work" / "report.json").read_bytes())
    assert {"stage": "select-captions", "reason": "low_caption_score"}.items() <= (
        report["rejected"][0].items()
    )
    assert "Captions and images" in {one["title"] for one in report["distributions"]}


def test_both_kinds_with_more_workers_and_again_are_the_same_bytes(
    finetune: Path, tmp_path: Path
) -> None:
    pairs = pool(tmp_path / "pool", tars=2, per_tar=4)
    options = ("--caption_scores", *SEVERAL)
    output, other = tmp_path / "a" / "set", tmp_path / "b" / "set"
    made(build(finetune, pairs, output, *options))
    before = contents(output)
    again = made(build(finetune, pairs, output, *options))
    assert contents(output) == before, again.err
    workers = ("--direct_num_workers", "2", "--direct_running_mode", "multi_threading")
    made(build(finetune, pairs, other, *options, *workers))
    assert contents(other) == before
    scores = {
        record.kind: record.clip_score
        for record, _ in AnchorSet.open(str(output)).samples(raise_bad)
    }
    assert scores[TEXT_COMPENSATED] is not None


def test_stages_one_by_one(finetune: Path, scored: Path, tmp_path: Path) -> None:
    output = tmp_path / "set"
    for stages in ("caption,embed", "select", "assemble"):
        made(build(finetune, None, output, *ALONE, "--caption_scores", "--stages", stages))
    assert manifest(output).digest == manifest(scored).digest


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--min_caption_score", "1.5"), "--min_caption_score is 1.5; a cosine lies"),
        (("--kinds", "image-text-pair", "--caption_scores"), "leaves text-compensated out"),
    ],
)
def test_what_means_nothing_is_refused(
    options: tuple[str, ...], sentence: str, finetune: Path, tmp_path: Path
) -> None:
    built = build(finetune, tmp_path / "pool", tmp_path / "set", *options)
    assert built.code == 2
    assert sentence in built.sentence
