"""Every command in docs/sharing.md, run in the order of the page on small sets."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hub_standin import hub_standin
from old_sets import set_0_9
from s3_server import s3_server
from tiny_data import CLASSES, jpeg
from tiny_sets import pair_record, small_set, text_record

from schemas.manifest import MANIFEST_NAME, Manifest
from shards import places
from shards.__main__ import main
from shards.commands import COMMANDS
from shards.completion import complete_set

PAGE = Path(__file__).parents[1] / "docs" / "sharing.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
LINES = [shlex.split(line) for block in BLOCKS for line in block.splitlines() if line]


def digest(folder: str) -> str:
    return Manifest.from_json(Path(folder, MANIFEST_NAME).read_bytes(), folder).digest


def test_the_page_names_all_commands() -> None:
    names = {command.__name__.rpartition(".")[2] for command in COMMANDS}
    assert names - {"schema"} == {line[1] for line in LINES}


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = [text_record(i) for i in range(6)]
    complete_set("anchors", small_set("anchors", own, [pair_record(i) for i in range(6)]))
    for i in range(6):
        path = Path("finetune") / CLASSES[0] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    set_0_9(Path("old"), [own])
    with s3_server() as bucket, hub_standin() as hub:
        places.filesystem(bucket)[0].mkdir("team")
        own_hub = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment = os.environ | own_hub | {"PYTHONPATH": str(PAGE.parents[1])}
        for line in LINES:
            assert line[0] == "anchorft-shards"
            if not any(word.startswith("hf://") for word in line):
                assert main(line[1:]) == 0, line
                continue
            # The Hub's client reads its endpoint once, when it is imported.
            command = [sys.executable, "-m", "shards", *line[1:]]
            subprocess.run(command, env=environment, check=True, timeout=200)
    assert digest("theirs") == digest("anchors")
    assert digest("their-captions") == digest("captions")
    assert Path("look.html").stat().st_size > 10_000
