"""The wheel holds what workers import and read; a build from it is in docs/engines.md."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "pipelines", "schemas", "shards", "toyworld", "trainer")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Files of the wheel, built from a copy: setuptools leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*ROOMS, "benchmarks", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copyfile(ROOT / name, folder / "source" / name)
    # The installed setuptools serves: nothing is fetched.
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder / "source",
        check=True,
        capture_output=True,
        text=True,
    )
    with zipfile.ZipFile(folder / done.stdout.splitlines()[-1]) as wheel:
        return set(wheel.namelist())


def test_every_module_is_in_the_wheel(names: set[str]) -> None:
    for room in ROOMS:
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / room).rglob("*.py")}
        assert modules
        assert modules <= names


def test_what_code_reads_is_in_the_wheel(names: set[str]) -> None:
    for place in (
        "pipelines/watching/report.html",
        "shards/showing/gallery.html",
        "shards/showing/style.css",
        "toyworld/models/clip/open_clip_config.json",
        "toyworld/models/blip/config.json",
        "trainer/card.md",
    ):
        assert place in names
    for room, pattern in (("schemas", "json/*.json"), ("toyworld", "models/*/*")):
        files = {str(p.relative_to(ROOT)) for p in (ROOT / room).glob(pattern) if p.is_file()}
        assert files
        assert files <= names


def test_nothing_else_is(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("anchorft-")} == set(ROOMS)
