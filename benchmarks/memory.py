"""Peak memory of reading, verifying and deriving N, 4 N and 16 N samples: it must not grow.

    python -m benchmarks.memory

Every task runs in a process of its own, which says at its end how large it ever was (VmHWM, so
Linux only). Shards have the same size throughout.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.contest import conditions, parser, report
from benchmarks.made import make_set

SIDE = 64
PER_SHARD = 500
GROWTH = (1, 4, 16)

_PEAK = """
import pathlib, re
print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""
_READ = """
import sys
from shards.stream import AnchorStream
assert sum(1 for _ in AnchorStream.open(sys.argv[1]).read()) == int(sys.argv[3])
"""
_COMMAND = """
import contextlib, io, sys
from shards.__main__ import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main({words}) == 0
"""
TASKS = {
    "read": _READ,
    "inspect": _COMMAND.format(words='["inspect", sys.argv[1]]'),
    "verify": _COMMAND.format(words='["verify", sys.argv[1]]'),
    "subset": _COMMAND.format(
        words='["subset", sys.argv[1], "--fraction", "0.5", "--output", sys.argv[2]]'
    ),
    "reshard": _COMMAND.format(
        words='["reshard", sys.argv[1], "--shard-size", "400", "--output", sys.argv[2]]'
    ),
}


def peak(code: str, *words: str) -> float:
    """Peak resident memory of a Python process in MB."""
    done = subprocess.run(
        [sys.executable, "-c", code + _PEAK, *words], check=True, capture_output=True, text=True
    )
    return round(int(done.stdout.split()[-1]) / 1024, 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser("peak memory", samples=2000, rounds=None).parse_args(argv)
    results: dict[str, list[float]] = {name: [] for name in TASKS}
    sizes = [arguments.samples * times for times in GROWTH]
    for number in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root = f"{folder}/set"
            shards = max(number // 2 // PER_SHARD, 1)
            made = make_set(root, number, shards=shards, side=SIDE)
            for name, code in TASKS.items():
                words = (root, f"{folder}/{name}", str(made.samples))
                results[name].append(peak(code, *words))
    idle = peak("")
    body = {
        "conditions": conditions(samples=sizes, per_shard=PER_SHARD),
        "results": {
            name: {"peak_mb": found, "growth": round(found[-1] / found[0], 3)}
            for name, found in results.items()
        }
        | {"idle": {"peak_mb": [idle], "growth": 1.0}},
    }
    rows = [
        (name, *(f"{mb:.0f}" for mb in found), f"{found[-1] / found[0]:.2f}")
        for name, found in results.items()
    ]
    head = ("peak MB at samples:", *(f"{number:,}" for number in sizes), "growth")
    report(body, head, rows, arguments.output)


if __name__ == "__main__":
    main()
