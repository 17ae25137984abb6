"""docs/format.md: golden files follow from its text alone, and it names all that there is.

The first half uses nothing of ours: it is what another team would write from the document.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from golden_sets import GOLDEN

from schemas.json_schema import json_schema
from schemas.tables import RECORDS

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "format.md").read_text("utf-8")
PREFIX = {"text-compensated": "tc", "image-text-pair": "itp"}


def canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(n)}:{canonical(value[n])}" for n in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, str):
        short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
        escaped = {n: f"\\u{n:04x}" for n in range(32)} | short
        return '"' + value.translate(escaped) + '"'
    if isinstance(value, float):
        return positional_or_not(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def positional_or_not(value: float) -> str:
    digits = next(f"{value:.{n}e}" for n in range(17) if float(f"{value:.{n}e}") == value)
    mantissa, _, exponent = digits.partition("e")
    power = int(exponent)
    if value and not -4 <= power < 16:
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    places = max(1, len(mantissa.partition(".")[2]) - power)
    return f"{value:.{places}f}"


def header(name: str, size: int) -> bytes:
    def field(text: str, length: int) -> bytes:
        return text.encode().ljust(length, b"\0")

    before = field(name, 100) + b"0000444\0" + b"0000000\0" * 2 + b"%011o\0" % size
    before += b"00000000000\0"
    after = b"0" + bytes(100) + b"ustar\0" + b"00" + field("anchorft", 32) * 2
    after = after.ljust(512 - 156, b"\0")
    return before + b"%06o\0 " % (sum(before) + sum(after) + 8 * 0x20) + after


def tar(samples: list[tuple[dict[str, Any], bytes | None]]) -> bytes:
    out = b""
    for record, image in samples:
        members = [(record["image_ext"], image), ("txt", record["text"].encode())]
        for ext, data in [*members, ("json", canonical(record).encode())]:
            if data is not None:
                out += header(f"{record['key']}.{ext}", len(data)) + data
                out += bytes(-len(data) % 512)
    out += bytes(1024)
    return out + bytes(-len(out) % 10240)


TARS = sorted(GOLDEN.rglob("*.tar"))


@pytest.mark.parametrize("place", TARS, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_a_tar_follows_from_the_document(place: Path) -> None:
    images = {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in GOLDEN.glob("images/*")}
    names = subprocess.check_output(["tar", "tf", place], text=True).split()
    samples = []
    for name in names:
        if name.endswith(".json"):
            record = json.loads(subprocess.check_output(["tar", "xOf", place, name]))
            image = images[record["image_sha256"]].read_bytes()
            samples.append((record, image if "tiny" in place.parts else None))
            parts = (record["image_sha256"], record["source"], record["source_key"])
            key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
            assert record["key"] == f"{PREFIX[record['kind']]}-{key}"
    assert samples
    assert tar(samples) == place.read_bytes()


@pytest.mark.parametrize("name", ["tiny", "captions-only"])
def test_digest_and_seal_follow_from_the_document(name: str) -> None:
    (command,) = re.findall(r"^    cd NAME && (.*)$", DOCUMENT, re.MULTILINE)
    if name == "captions-only":
        command = command.replace("image-text-pair/*.tar ", "")
    said = subprocess.check_output(command, shell=True, cwd=GOLDEN / name, text=True)
    body = json.loads((GOLDEN / name / "anchor_set.json").read_text("utf-8"))
    assert said.split()[0] == body["digest"]
    seal = body.pop("seal")
    assert hashlib.sha256(canonical(body).encode()).hexdigest() == seal


def test_canonical_numbers_are_pythons() -> None:
    for value in (0.0, -0.0, 1.0, 0.1, 1e-4, 1e-5, 1.5e-7, 1e15, 1e16, 1.5e16, 1e22, 123456.789):
        assert canonical(value) == json.dumps(value)
    for text in ('"\\/\x00\x1f\x7f\u2028😀\t', "é"):
        assert canonical(text).lower() == json.dumps(text, ensure_ascii=False)


def test_the_document_names_every_field() -> None:
    named = set(re.findall(r"`(?:\{)?([a-z_0-9]+)", DOCUMENT))
    named |= {
        word for group in re.findall(r"`\{([^}]*)\}`", DOCUMENT) for word in group.split(", ")
    }
    fields = set(json_schema("record")["properties"]) | set(RECORDS.names)
    for part in [json_schema("manifest"), *json_schema("manifest")["$defs"].values()]:
        fields |= set(part["properties"])
    assert fields - named == set()


def test_the_document_names_every_reason() -> None:
    told: set[str] = set()
    for name in ("verify", "verify_shard", "verify_manifest", "strict_tar"):
        source = (ROOT / "shards" / "checking" / f"{name}.py").read_text("utf-8")
        told |= set(re.findall(r'tell\([^"()]*(?:"",)?\s*(?:f?"[^"]*",\s*)?"([a-z_0-9]+)"', source))
        told |= set(re.findall(r'\)\(\s*"?[a-z]*"?, "([a-z_0-9]+)"', source))
    told |= set(re.findall(r'BadSample\(\s*"([a-z_]+)"', (ROOT / "shards/images.py").read_text()))
    section = DOCUMENT.partition("## What verify reports")[2].partition("## Older")[0]
    named = set(re.findall(r"`([a-z_0-9]+)`", section))
    assert len(told) > 30
    assert told - named == set()
