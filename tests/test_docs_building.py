"""docs/building.md: its commands run as they stand, in the order of the page, on the toy world.

Hub models are out of reach of a test, so those that the page names are replaced by the toy world's.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_builds import BLIP, CLIP

from pipelines.__main__ import main as build
from pipelines.embedding.encoder import ImageEncoder
from pipelines.options import parse
from pipelines.selection.rejected import main as rejected
from shards.images import decode_image
from shards.reader import AnchorSet
from shards.sources import open_pool, read_unit
from toyworld.world import WorldConfig, ensure_world

PAGE = Path(__file__).parent.parent / "docs" / "building.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
ENCODER = re.compile(r"--encoder \S+")
COMMANDS = {
    "anchorft-build ": build,
    "python -m pipelines.selection.rejected ": rejected,
}
CAPTIONER = re.compile(r"--captioner \S+")


def on_the_toy_world(block: str) -> str:
    """The block with small models; the small captioner has few positions for a caption."""
    short = "" if "--max_new_tokens" in block else " --max_new_tokens 16"
    block = ENCODER.sub(f"--encoder {CLIP}", block)
    return CAPTIONER.sub(f"--captioner {BLIP}{short}", block)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands name: finetune and evaluation images, a pool, and its embeddings."""
    folder = tmp_path_factory.mktemp("building")
    small = WorldConfig(finetune=48, pool=60, pool_shard=30, evaluation=24)
    world = ensure_world(folder / "world", small)
    (folder / "data").mkdir()
    for name, place in (
        ("data/train", "finetune"),
        ("data/val", "eval/id-photo"),
        ("data/sketch", "eval/shift-sketch"),
        ("data/others", "eval/unseen-photo"),
        ("laion", "pool"),
    ):
        (folder / name).symlink_to(world / place)
    write_embeddings(folder / "laion", folder / "laion-embeddings")
    return folder


def write_embeddings(pool: Path, output: Path) -> None:
    """One file per tar, as clip-retrieval's inference lays them out, and an index of all rows."""
    encoder, source = ImageEncoder(str(CLIP)), open_pool(str(pool))
    index = None
    for name in ("img_emb", "metadata"):
        (output / name).mkdir(parents=True)
    for unit in source.units:
        samples = read_unit(source, unit)
        images = [encoder.prepare(decode_image(sample.image)[0]) for sample in samples]
        embeddings = encoder.embed(images)
        np.save(output / "img_emb" / f"img_emb_{unit.number}.npy", embeddings)
        index = index or faiss.IndexHNSWFlat(embeddings.shape[1], 15, faiss.METRIC_INNER_PRODUCT)
        index.add(embeddings.astype(np.float32))
        rows = [
            {"image_path": sample.source_key, "caption": sample.text} | sample.web
            for sample in samples
        ]
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, output / "metadata" / f"metadata_{unit.number}.parquet")
    faiss.write_index(index, str(output / "image.index"))


def test_the_commands_run_in_their_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    lines = [one for block in BLOCKS for one in block.replace("\\\n", " ").splitlines()]
    assert len(lines) >= 8
    for line in lines:
        (name,) = (name for name in COMMANDS if line.startswith(name))
        arguments = shlex.split(on_the_toy_world(line).removeprefix(name))
        assert COMMANDS[name](arguments) == 0, f"{line}\n{capsys.readouterr().err}"
    ours, theirs = (
        AnchorSet.open(str(folder / "anchors" / name)).manifest
        for name in ("mine", "from-embeddings")
    )
    pairs = [shard.sha256 for shard in ours.shards if shard.kind == "image-text-pair"]
    assert [shard.sha256 for shard in theirs.shards] == pairs


def test_every_command_of_ours_is_in_a_block_that_runs() -> None:
    outside = re.sub(r"^```sh\n.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^\s*(?:anchorft-\w+|python -m) ", outside, re.MULTILINE)


def test_every_option_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    others = {"--output_format", "--reason", "--limit"}  # of img2dataset, and of our small tools
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", TEXT))
    assert named - known - others <= {name for name in named if name.startswith("--direct_")}


def test_every_reason_that_is_named_exists() -> None:
    """Reasons stand in backticks; each is a string in the source."""
    root = PAGE.parents[1]
    source = "\n".join(
        path.read_text("utf-8")
        for room in ("pipelines", "shards")
        for path in (root / room).rglob("*.py")
    )
    about_bad = TEXT[TEXT.index("**Bad samples**") : TEXT.index("**Embeddings that exist")]
    reasons = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", about_bad))
    assert len(reasons) > 15
    for reason in reasons:
        assert f'"{reason}"' in source, reason
