"""Push to and pull from the Hugging Face Hub, against a stand-in.

The stand-in (tests/hub_standin.py) speaks the Hub's HTTP API over a real socket to
huggingface_hub's own client: repositories, branches, preupload, the LFS batch and upload,
commits, tree, paths-info, and downloads by range. Out of its reach, and so not tested, is Xet,
the transfer that the client prefers to LFS where hf_xet is installed; it is switched off here.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_standin import Hub, hub_standin
from tiny_builds import contents
from tiny_sets import pair_record, small_set, text_record

from schemas.manifest import MANIFEST_NAME, Manifest
from shards.completion import complete_set

REPO = "team/anchors"
URL = f"hf://datasets/{REPO}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_standin() as served:
        yield served


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    root = tmp_path / "whole"
    complete_set(str(root), small_set(str(root)))
    return root


def start(hub: Hub, *arguments: str) -> subprocess.Popen[str]:
    """The command line in a process, since the client reads its endpoint when it is imported."""
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "shards", *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | own | {"HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(hub: Hub, *arguments: str, code: int = 0) -> str:
    """What it printed; its one sentence, if it is to fail."""
    process = start(hub, *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out if code == 0 else err


def on_the_hub(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    files = dict(hub.files(REPO, revision))
    del files[".gitattributes"]
    return files


def in_folder(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in contents(folder)}


def assert_whole_or_none(files: dict[str, bytes]) -> bool:
    if MANIFEST_NAME not in files:
        return False
    for entry in Manifest.from_json(files[MANIFEST_NAME], MANIFEST_NAME).entries():
        assert len(files[entry.path]) == entry.bytes
    return True


def test_there_and_back_and_again(hub: Hub, whole: Path, tmp_path: Path) -> None:
    told = json.loads(run(hub, "push", str(whole), URL, "--json"))
    manifest = Manifest.from_json((whole / MANIFEST_NAME).read_bytes(), "")
    assert (told["digest"], told["kept"]) == (manifest.digest, 0)
    assert on_the_hub(hub) == in_folder(whole)
    assert hub.private[REPO]
    assert hub.asked["commit"] == 1  # nobody can have seen a part of it
    back, part = tmp_path / "back", tmp_path / "part"
    assert manifest.digest in run(hub, "pull", URL, str(back))
    assert contents(back) == contents(whole)
    run(hub, "pull", URL, str(part), "--kind", "image-text-pair")
    assert (part / "image-text-pair" / "00000.tar").exists()
    assert not (part / "text-compensated").exists()
    assert "sent 0 files" in run(hub, "push", str(whole), URL)
    assert hub.asked["commit"] == 1


def test_a_push_that_broke_sends_only_the_rest(hub: Hub, whole: Path) -> None:
    uploads: list[str] = []

    def break_the_fourth(oid: str) -> None:
        uploads.append(oid)
        if len(uploads) == 4:
            raise KeyError("the power went")

    hub.broken = break_the_fourth
    assert "nothing is lost" in run(hub, "push", str(whole), URL, "--threads", "1", code=2)
    assert hub.asked["commit"] == 0
    assert on_the_hub(hub) == {}
    before, tried = set(hub.large), len(uploads)
    assert 3 <= len(before) < 6
    run(hub, "push", str(whole), URL)
    assert before.isdisjoint(uploads[tried:])
    assert on_the_hub(hub) == in_folder(whole)


def test_another_set_needs_force_and_revisions_stay(hub: Hub, whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    manifest = small_set(str(other), [text_record(9)], [pair_record(i) for i in range(3)])
    complete_set(str(other), manifest)
    run(hub, "push", str(whole), URL)
    first = hub.branches[REPO]["main"]
    assert "holds another anchor set" in run(hub, "push", str(other), URL, code=2)
    run(hub, "push", str(other), f"{URL}@v2")
    assert on_the_hub(hub) == in_folder(whole)
    assert on_the_hub(hub, "v2") == in_folder(other)
    run(hub, "push", str(other), URL, "--force")
    assert on_the_hub(hub) == in_folder(other)
    run(hub, "pull", f"{URL}@{first}", str(tmp_path / "old"))
    assert contents(tmp_path / "old") == contents(whole)


def test_what_cannot_be_done_is_a_sentence(hub: Hub, whole: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "back")
    assert "hf://datasets/no/such" in run(hub, "pull", "hf://datasets/no/such", folder, code=2)
    hub.create(REPO, True)
    assert f"holds no {MANIFEST_NAME}" in run(hub, "pull", URL, folder, code=2)
    (whole / "README.md").write_bytes(b"---\n---\n")
    assert "README.md' is not the file" in run(hub, "push", str(whole), URL, code=1)
    assert hub.asked["commit"] == 0
    assert not Path(folder).exists()


def test_killed_pushes_and_pulls(hub: Hub, whole: Path, tmp_path: Path) -> None:
    """Three of each, at random moments once Python has started."""
    dice = random.Random(5)
    back = tmp_path / "back"
    for number, arguments in enumerate([("push", str(whole), URL), ("pull", URL, str(back))] * 3):
        process = start(hub, *arguments)
        time.sleep(dice.uniform(0.7, 2.0))
        process.kill()
        process.communicate()
        if REPO in hub.commits:
            for files in hub.commits[REPO].values():
                assert_whole_or_none(files)
        if back.exists():
            assert_whole_or_none(in_folder(back))
        if number == 2:
            run(hub, "push", str(whole), URL)
    run(hub, "pull", URL, str(back))
    assert on_the_hub(hub) == in_folder(whole) == in_folder(back)
