"""Progress while a build runs, its timings, and its report."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_builds import Built, build, contents, ended, start, without_progress
from tiny_data import image_folder, jpeg, pair, write_tar

from pipelines.parts import Part, part_place, write_part
from pipelines.watching.page import page
from pipelines.watching.progress import Progress, StageProgress, describe, duration
from pipelines.watching.report import draw_up, evenly
from pipelines.watching.worker_deaths import SENTENCE, worker_died
from schemas.manifest import Counts
from schemas.tables import CAPTIONS, REJECTED
from shards import places

Reference = tuple[Path, Built]
HOSTILE = "</td><script>alert(1)</script>"


def leave(work: str, number: int, read: int, stage: str = "caption", **more: Any) -> None:
    counts = Counts(read=read, kept=read - 1, dropped={"truncated_image": 1})
    part = Part(stage, number, f"{number}.tar", read - 1, f"made of {read}", "", counts, **more)
    write_part(work, part, pa.Table.from_pylist([], schema=CAPTIONS))


@pytest.fixture(params=["disk", "store"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}-progress"


def test_parts_of_an_earlier_run_are_counted_apart(work: str) -> None:
    leave(work, 0, 10)
    leave(work, 1, 10)
    out = io.StringIO()
    progress = Progress(work, {"caption": 4, "retrieve": 2, "screen": None}, out)
    with progress:
        leave(work, 1, 25)  # its input has changed, so that it is made again
        leave(work, 2, 35)
        leave(work, 9, 7)  # of another source
        leave(work, 5, 3, "screen")
    caption, retrieve, screen = progress.stages
    assert (caption.done, caption.reused, len(caption.made)) == (3, 1, 2)
    assert caption.counts == Counts(read=60, kept=58, dropped={"truncated_image": 2})
    assert (retrieve.done, screen.done) == (0, 1)
    line = out.getvalue()
    assert line.count("\n") == 1
    assert "caption 3/4 parts (1 of an earlier run), 60 read, 2 dropped, " in line
    assert "screen 1 parts, 3 read" in line
    assert "retrieve" not in line
    assert not without_progress(line)


def test_a_part_that_is_made_twice_counts_once(tmp_path: Path) -> None:
    progress = Progress(str(tmp_path), {"caption": 2}, io.StringIO())
    with progress:
        leave(str(tmp_path), 0, 10)
        progress.look()
        leave(str(tmp_path), 0, 10)
        progress.look()
    assert progress.stages[0].counts.read == 10


def test_rate_and_time_left_are_of_the_parts_that_were_made() -> None:
    stage = StageProgress("embed-pool", 10, began=100.0, latest=140.0, counts=Counts(read=4000))
    stage.before = {"0.parquet": "a", "1.parquet": "b"}
    stage.made = {f"{n}.parquet": "c" for n in range(2, 6)}
    assert stage.rate() == 100
    assert stage.seconds_left(140.0) == 40  # ten seconds for each of four
    assert stage.seconds_left(145.0) == 35
    assert "100/s, 35 s left" in describe(stage, 145.0)
    stage.units = None
    assert stage.seconds_left(145.0) is None
    assert describe(stage, 145.0).startswith("embed-pool 6 parts (2 of an earlier run), 4,000 read")


def test_a_terminal_has_a_line_a_stage(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    leave(str(tmp_path), 0, 10)
    leave(str(tmp_path), 0, 10, "screen")
    with Progress(str(tmp_path), {"caption": 2, "screen": 2}, out) as progress:
        progress._print()
        leave(str(tmp_path), 1, 10)
    first, _, second = out.getvalue().partition("\x1b[2A")  # drawn over the two lines
    assert first.count("\n") == second.count("\n") == 2
    assert "caption 2/2 parts (1 of an earlier run), 10 read" in second


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min"), (3600, "1 h 0 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_build_leaves_timings_and_a_report(reference: Reference) -> None:
    output, built = reference
    work = output.with_name("set.work")
    assert built.out.splitlines()[-1] == f"report {work / 'report.html'}"
    body = json.loads((work / "report.json").read_text())
    stages = {stage["stage"]: stage for stage in body["stages"]}
    assert body["ended"] == "complete"
    assert f"digest {body['digest']}" in built.out
    assert stages["embed-pool"]["counts"] == {"read": 24, "kept": 24, "dropped": {}}
    assert (stages["embed-pool"]["parts"], stages["embed-pool"]["timed"]) == (3, 3)
    slowest = stages["embed-pool"]["slowest"]
    assert {row["part"] for row in slowest} == {f"0000{n}.tar" for n in range(3)}
    assert [row["seconds"] for row in slowest] == sorted(r["seconds"] for r in slowest)[::-1]
    assert sum(row["seconds"] for row in slowest) == pytest.approx(
        stages["embed-pool"]["seconds"], abs=0.01
    )
    assert stages["caption"]["samples_per_worker_second"] > 0
    for name, stage in stages.items():
        assert stage["timed"] == stage["parts"] > 0, name
    assert {"retrieve-hits", "index-tuned", "judge", "assemble"} <= stages.keys()
    assert "index-trained" not in stages  # the search was exact
    spreads = {d["title"]: d["spread"] for d in body["distributions"]}
    assert spreads["Caption lengths"]["count"] == 12
    kept = stages["select"]["counts"]["kept"]
    assert spreads["Retrieval scores"]["count"] == kept
    text = (work / "report.html").read_text()
    assert "embed-pool" in text
    assert "<svg" in text
    assert not re.search(r"(src|href)=", text)
    assert "timings" not in {path.split("/")[0] for path in contents(output)}


def test_a_second_run_makes_nothing_again(
    reference: Reference, run: Callable[..., Built], tmp_path: Path
) -> None:
    assert run().code == 0
    timings = contents(tmp_path / "set.work" / "timings")
    assert len(timings) >= 10
    again = run()
    assert again.code == 0
    assert contents(tmp_path / "set.work" / "timings") == timings
    body = json.loads((tmp_path / "set.work" / "report.json").read_text())
    for stage in body["stages"]:
        if stage["stage"] in ("caption", "embed-finetune", "embed-pool", "screen", "retrieve"):
            assert stage["reused"] == stage["parts"], stage
    forced = run("--force")
    assert forced.code == 0, forced.err
    body = json.loads((tmp_path / "set.work" / "report.json").read_text())
    assert not any(stage["reused"] for stage in body["stages"])
    assert contents(tmp_path / "set") == contents(reference[0])


def test_a_build_that_fails_has_a_report_of_how_far_it_came(tmp_path: Path, pairs: Path) -> None:
    root = image_folder(tmp_path / "ft", per_class=2)
    (root / "circle" / "9.jpg").write_bytes(jpeg(1)[:300])
    built = build(root, pairs, tmp_path / "set")
    assert built.code == 2
    assert f"anchorft-build: report {tmp_path / 'set.work' / 'report.html'}" in built.err
    body = json.loads((tmp_path / "set.work" / "report.json").read_text())
    assert body["ended"] == built.sentence
    assert body["digest"] is None
    (example,) = next(s for s in body["stages"] if s["stage"] == "caption")["examples"]
    assert (example["key"], example["reason"]) == ("circle/9.jpg", "corrupt_image")
    assert "corrupt_image" in (tmp_path / "set.work" / "report.html").read_text()


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    work = str(tmp_path)
    rows = [
        {"stage": "screen", "source": "0.tar", "source_key": HOSTILE, "reason": "empty_text"}
        | {"detail": HOSTILE, "caption": HOSTILE}
        for _ in range(9)
    ]
    place = Path(places.join(work, "rejected", "screen-00000.parquet"))
    place.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTED), place)
    with Progress(work, {"caption": 1}, io.StringIO()) as progress:
        leave(work, 0, 3, examples=[(HOSTILE, "truncated_image", HOSTILE)])
    report = draw_up(work, progress, name=HOSTILE, ended=HOSTILE, digest=None, seconds=1.0)
    (group,) = report.rejected
    assert (group["reason"], group["samples"], len(group["examples"])) == ("empty_text", 9, 5)
    text = page(report).decode()

    class Tags(HTMLParser):
        found: set[str] = set()

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.found.add(tag)

    Tags().feed(text)
    assert "table" in Tags.found
    assert "script" not in Tags.found
    assert "&lt;script&gt;" in text


def test_a_broken_timing_is_no_timing(tmp_path: Path) -> None:
    with Progress(str(tmp_path), {"caption": 1}, io.StringIO()) as progress:
        leave(str(tmp_path), 0, 3)
    broken = Path(places.join(str(tmp_path), "timings", "caption", "00000.json"))
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b'{"seconds"')
    report = draw_up(str(tmp_path), progress, name="a", ended="b", digest=None, seconds=1.0)
    assert (report.stages[0].parts, report.stages[0].timed, report.stages[0].rate) == (1, 0, None)


def test_distributions_read_some_parts_of_many() -> None:
    parts = [Part("select", n, "", 1, "") for n in range(1000)]
    numbers = [part.number for part in evenly(parts, 200)]
    assert numbers == list(range(0, 1000, 5))
    assert evenly(parts[:3], 200) == parts[:3]


def test_how_beam_tells_of_a_dead_worker() -> None:
    assert worker_died(RuntimeError("Channel closed prematurely."))
    assert worker_died(RuntimeError("Worker subprocess exited with return code 137"))
    assert not worker_died(RuntimeError("something else"))
    assert not worker_died(None)
    assert SENTENCE.endswith("the same command goes on from here.")


def test_a_command_does_not_wait_for_the_dead() -> None:
    """Beam's thread has told of a worker's end, and the main thread goes on waiting for it."""
    code = """
import sys, threading, time
from pipelines.watching.worker_deaths import WorkerDeaths

def watch():
    raise RuntimeError("Worker subprocess exited with return code 137")

with WorkerDeaths(patience=0.2) as deaths:
    deaths.before_end = lambda: print("the report", file=sys.stderr)
    threading.Thread(target=watch).start()
    time.sleep(200)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == ["the report", f"anchorft-build: error: {SENTENCE}"]


def test_where_parts_lie(tmp_path: Path) -> None:
    """Progress takes part numbers from names; the names are those of parts.py."""
    for stage in ("caption", "embed-pool"):
        with Progress(str(tmp_path), {stage: 8}, io.StringIO()) as progress:
            leave(str(tmp_path), 7, 2, stage)
        assert list(progress.stages[0].made) == [Path(part_place("", stage, 7)).name]


def test_two_processes_in_one_work_folder_are_harmless(
    reference: Reference, finetune: Path, pairs: Path, tmp_path: Path
) -> None:
    """Both write the same bytes, each file whole."""
    both = [start(finetune, pairs, tmp_path / "set") for _ in range(2)]
    for process in both:
        built = ended(process)
        assert built.code == 0, built.err
    assert contents(tmp_path / "set") == contents(reference[0])


def test_a_pool_without_a_text_is_in_the_report(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    members = [m for n in range(4) for m in pair(str(n), jpeg(50 + n), "a text" if n else " ")]
    write_tar(tmp_path / "pool" / "0.tar", members)
    built = build(root, tmp_path / "pool", tmp_path / "set", "--k", "2")
    assert built.code == 0, built.err
    body = json.loads((tmp_path / "set.work" / "report.json").read_text())
    (group,) = [group for group in body["rejected"] if group["reason"] == "empty_text"]
    assert (group["stage"], group["samples"]) == ("screen", 1)
    assert [row["source_key"] for row in group["examples"]] == ["0"]
