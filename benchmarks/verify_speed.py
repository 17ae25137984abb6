"""``anchorft-shards verify`` against programs that only hash the same files.

    python -m benchmarks.verify_speed

Whole commands, from a warm page cache. ``sha256sum`` is what people would run; depending on how
it was built it may not use the processor's SHA instructions, so ``openssl`` is measured too where
it is there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.contest import FIGURES, conditions, contest, figures, parser, report
from benchmarks.made import make_set

HASHERS = {"sha256sum": ["sha256sum"], "openssl": ["openssl", "dgst", "-sha256"]}


def quiet(*command: str) -> None:
    """Run a command whose output does not matter, but its success does."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("verify against hashing alone", samples=20_000)
    arguments = options.parse_args(argv)
    results = {}
    with tempfile.TemporaryDirectory() as root:
        manifest = make_set(root, arguments.samples, shards=max(arguments.samples // 2000, 1))
        files = [f"{root}/{f.path}" for s in manifest.shards for f in (s, s.index)]
        verify = (sys.executable, "-m", "shards", "verify", root)
        for name, command in HASHERS.items():
            if shutil.which(command[0]) is None:
                continue
            for threads, more in (("all cores", ()), ("one thread", ("--threads", "1"))):
                results[f"{name}, {threads}"] = contest(
                    lambda more=more: quiet(*verify, *more),  # type: ignore[misc]
                    lambda command=command: quiet(*command, *files),  # type: ignore[misc]
                    arguments.rounds,
                )
        size = sum(file.bytes for s in manifest.shards for file in (s, s.index))
    body = {
        "conditions": conditions(samples=manifest.samples, bytes=size, rounds=arguments.rounds),
        "results": results,
    }
    report(body, ("hasher's time / verify's", *FIGURES), figures(results), arguments.output)


if __name__ == "__main__":
    main()
