"""The world on disk: a finetune set, a pool and evaluation sets, in the layouts of real ones.

    ROOT/
      finetune/CLASS/NNNNN.jpg            image folder: photos of half of the classes, biased
      pool/NNNNN.{tar,parquet,_stats.json}  as img2dataset writes a LAION subset
      eval/NAME/test/0.tar                CLIP_benchmark's layout, classnames.txt beside
      world.json                          written last: what was rendered

Every picture has a seed of its own, so the same config gives the same bytes in any order.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from tqdm import tqdm

from schemas.errors import UserError
from shards import places
from toyworld.render import SIDE, encode_jpeg, render
from toyworld.scene import Scene, alt_text, biased, draw_scene
from toyworld.vocabulary import DOMAINS, SEEN, TEMPLATES, UNSEEN

NOTE = "world.json"
TEMPLATES_NAME = "zeroshot_classification_templates.txt"  # as CLIP_benchmark names it
POOL_DOMAIN_ODDS = (0.4, 0.2, 0.2, 0.2)
_FINETUNE, _POOL, _POOL_NOTES, _EVAL = 10, 11, 12, 20


@dataclass(frozen=True)
class WorldConfig:
    """Sizes of the sets, and the seed of everything in them.

    Attributes:
        seed: another one gives another world.
        finetune: photos in the finetune set.
        pool: samples that the pool's downloads were tried for; one in fifty failed.
        pool_shard: samples a tar.
        evaluation: pictures in each evaluation set; in distribution there are twice as many.
    """

    seed: int = 0
    finetune: int = 3000
    pool: int = 24_000
    pool_shard: int = 4000
    evaluation: int = 1000


@dataclass(frozen=True)
class EvalSet:
    """One evaluation set: its name, group (id, shift, zero_shot), classes and domain."""

    name: str
    group: str
    classes: tuple[str, ...]
    domain: str


EVAL_SETS: tuple[EvalSet, ...] = (
    EvalSet("id-photo", "id", SEEN, "photo"),
    *(EvalSet(f"shift-{domain}", "shift", SEEN, domain) for domain in DOMAINS[1:]),
    *(EvalSet(f"unseen-{domain}", "zero_shot", UNSEEN, domain) for domain in DOMAINS),
)


def ensure_world(root: Path, config: WorldConfig) -> Path:
    """Render the world below ``root`` unless it is there.

    Raises:
        UserError: another world is there, or something else.
    """
    note = root / NOTE
    wanted = json.dumps(asdict(config), indent=2, sort_keys=True) + "\n"
    if note.is_file():
        if note.read_text("utf-8") != wanted:
            raise UserError(f"'{root}' holds a world of another config; give another folder.")
        return root
    if root.is_dir() and ({p.name for p in root.iterdir()} - {"finetune", "pool", "eval"}):
        raise UserError(f"'{root}' holds something else than a world; give another folder.")
    total = config.finetune + config.pool + (len(EVAL_SETS) + 1) * config.evaluation
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn")) as workers,
        tqdm(total=total, desc="render", unit=" images") as bar,
    ):

        def mapped(function: Callable[[int], Any], size: int) -> Iterator[Any]:
            for result in workers.map(function, range(size), chunksize=100):
                bar.update()
                yield result

        _write_finetune(root / "finetune", config, mapped)
        _write_pool(root / "pool", config, mapped)
        for number, one in enumerate(EVAL_SETS):
            _write_evaluation(root / "eval" / one.name, number, config, mapped)
    places.write_bytes(str(note), wanted.encode())
    return root


Mapped = Callable[[Callable[[int], Any], int], Iterator[Any]]


def _rng(config: WorldConfig, stream: int, index: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, stream, index])


def _finetune_sample(index: int, config: WorldConfig) -> tuple[str, bytes]:
    rng = _rng(config, _FINETUNE, index)
    scene = biased(draw_scene(rng, classes=SEEN, domains=("photo",)), rng)
    return scene.name, encode_jpeg(render(scene))


def _write_finetune(root: Path, config: WorldConfig, mapped: Mapped) -> None:
    for name in SEEN:
        (root / name).mkdir(parents=True, exist_ok=True)
    samples = mapped(partial(_finetune_sample, config=config), config.finetune)
    for index, (name, data) in enumerate(samples):
        (root / name / f"{index:05d}.jpg").write_bytes(data)
    (root / TEMPLATES_NAME).write_text("\n".join(TEMPLATES) + "\n", "utf-8")


def _pool_scene(config: WorldConfig, index: int) -> Scene:
    return draw_scene(_rng(config, _POOL, index), domain_odds=POOL_DOMAIN_ODDS)


def _pool_sample(index: int, config: WorldConfig) -> tuple[bytes | None, dict[str, Any]]:
    """Image (None: the download failed) and metadata; one in thirty repeats an earlier picture."""
    rng = _rng(config, _POOL_NOTES, index)
    scene, quality = _pool_scene(config, index), 90
    if index and rng.random() < 1 / 30:
        scene, quality = _pool_scene(config, int(rng.integers(index))), 70
    number = index % config.pool_shard
    failed = bool(rng.random() < 1 / 50)
    data = None if failed else encode_jpeg(render(scene), quality)
    about = {
        "caption": alt_text(scene, rng),
        "url": f"https://example.org/{config.seed}/{index:08d}.jpg",
        "key": f"{index // config.pool_shard:05d}{number:04d}",
        "status": "failed_to_download" if failed else "success",
        "error_message": "HTTP Error 404: Not Found" if failed else None,
        "width": None if failed else SIDE,
        "height": None if failed else SIDE,
        "original_width": None if failed else SIDE,
        "original_height": None if failed else SIDE,
        "exif": None if failed else "{}",
        "sha256": None if data is None else hashlib.sha256(data).hexdigest(),
        "similarity": round(float(rng.uniform(0.28, 0.42)), 6),
        "LICENSE": str(rng.choice(("?", "cc-by-2.0", "cc0"))),
        "NSFW": "UNLIKELY",
        "punsafe": round(float(rng.beta(1, 60)), 6),
        "pwatermark": round(float(rng.beta(1, 8)), 6),
    }
    return data, about


_POOL_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")]
    + [(n, pa.int32()) for n in ("width", "height", "original_width", "original_height")]
    + [("exif", pa.string()), ("sha256", pa.string()), ("similarity", pa.float64())]
    + [("LICENSE", pa.string()), ("NSFW", pa.string())]
    + [("punsafe", pa.float64()), ("pwatermark", pa.float64())]
)


def _write_pool(root: Path, config: WorldConfig, mapped: Mapped) -> None:
    samples = mapped(partial(_pool_sample, config=config), config.pool)
    for shard in range(-(-config.pool // config.pool_shard)):
        rows: list[dict[str, Any]] = []
        with places.atomic_write(str(root / f"{shard:05d}.tar")) as file:
            tar = _tar_writer(file)
            while len(rows) < min(config.pool_shard, config.pool - shard * config.pool_shard):
                data, about = next(samples)
                rows.append(about)
                if data is not None:
                    text = json.dumps(about, indent=4)
                    caption = str(about["caption"])
                    tar.write(
                        {"__key__": about["key"], "jpg": data, "json": text.encode()}
                        | {"txt": caption.encode()}
                    )
            tar.close()
        table = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=_POOL_SCHEMA), table)
        places.write_bytes(str(root / f"{shard:05d}.parquet"), table.getvalue())
        failed = sum(row["status"] != "success" for row in rows)
        stats = {
            "count": len(rows),
            "successes": len(rows) - failed,
            "failed_to_download": failed,
            "failed_to_resize": 0,
            "duration": 0.0,
            "start_time": 0.0,
            "end_time": 0.0,
            "status_dict": {"success": len(rows) - failed, "HTTP Error 404: Not Found": failed},
        }
        text = json.dumps(stats, indent=4)
        places.write_bytes(str(root / f"{shard:05d}_stats.json"), text.encode())
    for _ in samples:
        raise AssertionError("every sample has its shard")


def _evaluation_sample(index: int, number: int, config: WorldConfig) -> tuple[bytes, int]:
    one = EVAL_SETS[number]
    rng = _rng(config, _EVAL + number, index)
    scene = draw_scene(rng, classes=one.classes, domains=(one.domain,))
    if one.group == "id":
        scene = biased(scene, rng)
    return encode_jpeg(render(scene)), one.classes.index(scene.name)


def _write_evaluation(root: Path, number: int, config: WorldConfig, mapped: Mapped) -> None:
    one = EVAL_SETS[number]
    size = config.evaluation * (2 if one.group == "id" else 1)
    with places.atomic_write(str(root / "test" / "0.tar")) as file:
        tar = _tar_writer(file)
        samples = mapped(partial(_evaluation_sample, number=number, config=config), size)
        for index, (data, label) in enumerate(samples):
            tar.write({"__key__": f"s{index:07d}", "jpg": data, "cls": str(label).encode()})
        tar.close()
    (root / "test" / "nshards.txt").write_text("1", "utf-8")
    (root / "classnames.txt").write_text("\n".join(one.classes) + "\n", "utf-8")
    (root / TEMPLATES_NAME).write_text("\n".join(TEMPLATES) + "\n", "utf-8")


def _tar_writer(file: Any) -> Any:
    return webdataset.TarWriter(
        file, user="toyworld", group="toyworld", mode=0o444, mtime=0, encoder=False, compress=False
    )
