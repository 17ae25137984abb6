"""What a larger pool costs: peak memory and time per pool image of whole builds.

    python -m benchmarks.pool_growth

Each build is an ``anchorft-build`` of its own, of image-text pairs with the toy world's CLIP, over
tars of small JPEGs. The number of finetune images and k stay the same, so that the pool alone
grows. The JPEGs are a few hundred distinct ones with distinct keys and texts: no filter of
duplicates is on, and a tar of few pictures costs as much to read and embed as any other. Every
query finds the copies of its nearest picture, at equal scores, which is the search's worst case.

Peak memory is the largest resident set that the process ever had (VmHWM, so Linux only). The time
per image leaves out what a build of the same finetune images over the smallest possible pool costs:
starting Python, Beam and the model.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.contest import conditions, parser, report
from benchmarks.memory import peak

CLIP = Path(__file__).parent.parent / "toyworld" / "models" / "clip"
DISTINCT, SIDE, PER_TAR, QUERIES, K = 300, 48, 1000, 200, 10
_BUILD = """
import contextlib, io, sys
from pipelines.__main__ import main
with contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
assert code == 0, code
"""


def pictures(seed: int, number: int) -> list[bytes]:
    """JPEGs of smooth noise, no two the same."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        out = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


def write_pool(root: Path, number: int) -> Path:
    """Tars of image, text and json, as img2dataset writes them; the last may hold fewer."""
    images = pictures(1, DISTINCT)
    root.mkdir(parents=True)
    for first in range(0, number, PER_TAR):
        with tarfile.open(root / f"{first // PER_TAR:05d}.tar", "w") as tar:
            for i in range(first, min(first + PER_TAR, number)):
                key, text = f"{first // PER_TAR:05d}{i % PER_TAR:04d}", f"picture number {i}"
                about = json.dumps({"caption": text, "key": key, "status": "success"})
                for extension, data in (
                    ("jpg", images[i * 7919 % DISTINCT]),
                    ("txt", text.encode()),
                    ("json", about.encode()),
                ):
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root


def write_finetune(root: Path) -> Path:
    """An image folder of two classes."""
    for i, data in enumerate(pictures(2, QUERIES)):
        folder = root / ("even", "odd")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(data)
    return root


def build(finetune: Path, pool: Path, output: Path) -> tuple[float, float]:
    """Peak memory in MB and seconds of one build."""
    words = ["--finetune", finetune, "--pool", pool, "--output", output, "--encoder", CLIP]
    words += ["--kinds", "image-text-pair", "--k", K]
    began = time.perf_counter()
    mb = peak(_BUILD, *map(str, words))
    return mb, time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("builds over growing pools", samples=20_000, rounds=None)
    options.add_argument("--times", type=int, default=10, help="the larger pool (%(default)s)")
    arguments = options.parse_args(argv)
    sizes = [K + 1, arguments.samples // 2, arguments.samples, arguments.samples * arguments.times]
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        finetune = write_finetune(Path(folder, "finetune"))
        idle = 0.0
        build(finetune, write_pool(Path(folder, "first"), sizes[0]), Path(folder, "warm"))
        for number in sizes:
            place = Path(folder, str(number))
            pool = write_pool(place / "pool", number)
            mb, seconds = build(finetune, pool, place / "set")
            idle = idle or seconds  # the first pool is next to none
            results[str(number)] = {
                "peak_mb": mb,
                "seconds": round(seconds, 2),
                "ms_per_image": round((seconds - idle) / number * 1000, 3),
            }
            shutil.rmtree(place)
    small, middle, large = (results[str(number)] for number in sizes[1:])
    growth = {
        "memory": round(large["peak_mb"] / middle["peak_mb"], 3),
        "time_per_image": round(large["ms_per_image"] / max(small["ms_per_image"], 1e-6), 3),
    }
    body = {
        "conditions": conditions(
            pools=sizes, per_tar=PER_TAR, distinct_images=DISTINCT, queries=QUERIES, k=K
        ),
        "results": results,
        "growth": growth,
    }
    rows = [
        (f"{number:,}", f"{f['peak_mb']:.0f}", f"{f['seconds']:.1f}", f"{f['ms_per_image']:.2f}")
        for number, f in zip(sizes, results.values(), strict=True)
    ]
    head = ("pool images", "peak MB", "seconds", "ms an image")
    report(body, head, rows, arguments.output)
    print(f"peak memory, largest over {sizes[2]:,}: {growth['memory']:.2f}")
    print(f"time an image, largest over {sizes[1]:,}: {growth['time_per_image']:.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
