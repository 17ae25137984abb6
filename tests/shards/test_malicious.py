"""The malicious corpus (tests/malicious.py), each attack in processes of its own.

Nothing runs, nothing is written outside, no process takes a gigabyte, and what is refused is
refused in a sentence that a terminal can show.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import resource
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import FORKS
from malicious import ATTACKS, BIDI, ESCAPE, EVIL

from schemas.errors import BadSample, UserError
from schemas.manifest import MANIFEST_NAME
from shards import places
from shards.__main__ import main
from shards.images import decode_image
from shards.reader import AnchorSet
from shards.sources import open_image_folder, open_pool, open_table

GIB = 1 << 30
ADDRESS_SPACE = 6 * GIB  # the machine's guard, should an attack succeed


@dataclass(frozen=True)
class Ran:
    """How a run ended: exit status, output, errors, and its largest resident memory in bytes."""

    code: int
    out: str
    err: str
    memory: int


def read(way: str, place: str) -> int:
    """Read something as the pipeline and the trainer do; print what is bad, 1 if anything is."""
    bad: list[str] = []

    def on_bad(key: str, problem: BadSample) -> None:
        bad.append(problem.reason)
        print(f"bad {key}: {problem.reason}")

    if way == "set":
        for record, _ in AnchorSet.open(place).samples(on_bad):
            print(f"read {record.key}")
        return int(bool(bad))
    source = {"pool": open_pool, "images": open_image_folder, "list": open_table}[way](place)
    for unit in source.units:
        for sample in source.read(unit, on_bad):
            try:
                decode_image(sample.image)
                print(f"read {sample.source_key}")
            except BadSample as problem:
                on_bad(sample.source_key, problem)
    return int(bool(bad))


def child(arguments: list[str], output: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    code = 99
    with (
        Path(f"{output}.out").open("w") as out,
        Path(f"{output}.err").open("w") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            if arguments[0].startswith("read:"):
                code = read(arguments[0].removeprefix("read:"), arguments[1])
            else:
                code = main(arguments)
        except UserError as error:
            print(error, file=err)
            code = 2
        except BaseException:
            traceback.print_exc(file=err)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(output).write_text(json.dumps([code, memory]))


def run(arguments: list[str], output: Path) -> Ran:
    """Run in a process; one that does not end, or ends by a signal, fails the test."""
    process = FORKS.Process(target=child, args=(arguments, str(output)))
    process.start()
    process.join(240)
    process.kill()
    process.join()
    assert process.exitcode == 0, (arguments, process.exitcode)
    code, memory = json.loads(output.read_text())
    texts = [Path(f"{output}.{end}").read_text() for end in ("out", "err")]
    return Ran(code, *texts, memory)


def test_there_are_many() -> None:
    assert len(ATTACKS) >= 25
    assert all(write.__doc__ for write in ATTACKS.values())


@pytest.mark.parametrize("name", list(ATTACKS))
def test_attack(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, outputs = tmp_path / name, tmp_path / "outputs"
    folder.mkdir()
    outputs.mkdir()
    attack = ATTACKS[name](folder)
    for number, arguments in enumerate(attack.commands):
        ran = run(arguments, outputs / str(number))
        said = ran.out + ran.err
        assert "Traceback" not in said, said
        assert ran.memory < GIB, (arguments, ran.memory)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said)
        reads = arguments[0].startswith("read:")
        if attack.says is None:
            assert ran.code == 0, said
            continue
        assert ran.code in (1, 2), (arguments, said)
        assert attack.says in said, (arguments, said)
        assert ran.code == 1 or ran.err.count("\n") == 1, ran.err
        if arguments[0] == "read:pool" and ran.code == 1:
            assert "read sound" in said
        assert reads or not ran.out
        if arguments[0] == "pull":
            assert not (Path(arguments[2]) / MANIFEST_NAME).exists()
    assert {path.name for path in tmp_path.iterdir()} <= {name, "outputs"}
    assert not [path for path in tmp_path.rglob("OWNED*") if path.name == "OWNED"]
    assert not (folder / "elsewhere").is_dir() or not list((folder / "elsewhere").iterdir())


def test_nothing_of_the_data_acts_in_the_gallery(tmp_path: Path) -> None:
    attack = ATTACKS["script_in_texts"](
        tmp_path / "a" if (tmp_path / "a").mkdir() is None else tmp_path
    )
    assert main(attack.commands[0]) == 0
    page = (tmp_path / "a" / "page.html").read_text()
    assert EVIL not in page
    assert "onerror=alert(2)>" not in page
    assert not re.search(r"""(href|src|action)\s*=\s*["']?\s*javascript:""", page, re.IGNORECASE)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe-inline" not in policy[1].partition("script-src")[2]
    # Scripts are ours: data lies in elements of type application/json, or there is the one script.
    running = [tag for tag in re.findall(r"<script[^>]*>", page) if "application/json" not in tag]
    assert len(running) == 1


def test_nothing_of_the_data_acts_in_the_card(tmp_path: Path) -> None:
    attack = ATTACKS["script_in_a_card"](tmp_path)
    assert main(attack.commands[0]) == 0
    card = (tmp_path / "part" / "README.md").read_text()
    bare = re.sub(r"\\.", "", card)  # what a backslash takes the meaning of
    outside = re.sub(r"```.*?```", "", bare, flags=re.DOTALL)
    assert "<script" not in re.sub(r"`[^`]*`", "", outside)
    assert "<" not in "".join(re.findall(r"`[^`]*`", outside))


def test_what_a_terminal_shows_can_be_read_back(tmp_path: Path) -> None:
    attack = ATTACKS["escapes_in_names"](tmp_path)
    ran = run(attack.commands[1], tmp_path / "output")
    told = json.loads(ran.out)
    assert told["name"] == ESCAPE + BIDI  # nothing is lost, it is only written so that it is seen


def test_webdataset_opens_nothing_here() -> None:
    """Its switch against pipes and pickles forbids local files too; our code does without it."""
    root = Path(places.__file__).parents[1]
    for room in ("schemas", "shards", "pipelines", "trainer", "models"):
        for path in (root / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    assert node.module != "webdataset", path
                elif isinstance(node, ast.Import):
                    assert "webdataset" not in [alias.name for alias in node.names], path
