"""Small image folders, pools and a folder as people have them, all a function of a seed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "bar")
COLOURS = ((200, 40, 40), (40, 160, 60), (50, 80, 200), (220, 190, 40))


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """A shape on a noisy ground: no two seeds give the same picture."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(120, 255, 3) + rng.integers(-20, 20, (size[1], size[0], 3))
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    left, top = rng.integers(2, 12, 2).tolist()
    box = (left, top, left + 18, top + 14)
    colour = COLOURS[seed % len(COLOURS)]
    shape = seed % len(CLASSES)
    if shape == 0:
        draw.ellipse(box, fill=colour)
    elif shape == 1:
        draw.rectangle(box, fill=colour)
    else:
        draw.rectangle((left, top, left + 4, size[1] - 2), fill=colour)
    return image


def encoded(image: Image.Image, format: str = "JPEG", **settings: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **settings)
    return out.getvalue()


def jpeg(seed: int) -> bytes:
    return encoded(picture(seed), quality=90)


def image_folder(root: Path, per_class: int = 4, classes: Iterable[str] = CLASSES) -> Path:
    """``ROOT/CLASS/N.jpg``."""
    names = tuple(classes)
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for n in range(per_class):
            (root / name / f"{n}.jpg").write_bytes(jpeg(n * len(names) + index))
    return root


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A plain tar of members in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pair(key: str, image: bytes, text: str | None, **web: object) -> list[tuple[str, bytes]]:
    """The members of one sample as img2dataset writes them."""
    about = {"key": key, "caption": text, "status": "success", "error_message": None} | web
    members = [(f"{key}.jpg", image), (f"{key}.json", json.dumps(about).encode())]
    return members if text is None else [*members, (f"{key}.txt", text.encode())]


def pool(root: Path, tars: int = 3, per_tar: int = 8, seed: int = 1000) -> Path:
    """``NNNNN.tar``, ``.parquet`` and ``_stats.json``, as img2dataset leaves them."""
    for number in range(tars):
        members: list[tuple[str, bytes]] = []
        rows: list[dict[str, object]] = []
        for n in range(per_tar):
            key = f"{number:05d}{n:04d}"
            i = number * per_tar + n
            web = {"url": f"https://example.org/{i}.jpg", "LICENSE": "?", "punsafe": 0.25}
            text = f"a {CLASSES[i % 3]} number {i}"
            members += pair(key, jpeg(seed + i), text, **web)
            rows.append({"key": key, "caption": text, "status": "success"} | web)
        rows.append({"key": f"{number:05d}9999", "caption": "gone", "status": "failed_to_download"})
        write_tar(root / f"{number:05d}.tar", members)
        pq.write_table(pa.Table.from_pylist(rows), root / f"{number:05d}.parquet")
        (root / f"{number:05d}_stats.json").write_text(json.dumps({"count": per_tar + 1}))
    return root


def labelled_tars(root: Path, tars: int = 2, per_tar: int = 6) -> Path:
    """CLIP_benchmark's layout, with a test split that must not be taken for training data."""
    for split, shift in (("train", 0), ("test", 500)):
        for number in range(tars):
            members: list[tuple[str, bytes]] = []
            for n in range(per_tar):
                i = number * per_tar + n
                label = str(i % len(CLASSES)).encode()
                members += [(f"s{i:04d}.jpg", jpeg(i + shift)), (f"s{i:04d}.cls", label)]
            write_tar(root / split / f"{number}.tar", members)
        (root / split / "nshards.txt").write_text(f"{tars}\n")
    (root / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    return root


def photographs(root: Path) -> Mapping[str, int]:
    """An image folder as people have it; returns how many are bad, by reason."""
    first, second = root / "Golden Retriever", root / "tabby_cat"
    first.mkdir(parents=True)
    (second / "indoors").mkdir(parents=True)
    (first / "big.jpg").write_bytes(encoded(picture(0, (640, 480))))
    (first / "SHOUTING.JPG").write_bytes(encoded(picture(3, (60, 200))))
    (first / "grey.jpeg").write_bytes(encoded(picture(6).convert("L")))
    (first / "print #1 (ü).jpg").write_bytes(encoded(picture(9).convert("CMYK")))
    (second / "palette.v2.png").write_bytes(encoded(picture(1).convert("P"), "PNG"))
    turned = Image.Exif()
    turned[0x0112] = 6
    (second / "indoors" / "turned.jpg").write_bytes(encoded(picture(4), exif=turned))
    (second / "small.webp").write_bytes(encoded(picture(7), "WEBP", lossless=True))
    (second / "cut.jpg").write_bytes(encoded(picture(10, (200, 200)))[:2000])
    (second / "notes.jpg").write_bytes(b"this is not an image")
    (second / ".DS_Store").write_bytes(b"\0" * 10)
    (first / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return {"truncated_image": 1, "not_an_image": 1}
