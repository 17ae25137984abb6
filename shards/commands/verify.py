"""``anchorft-shards verify``: whether a set is whole, and if not, all that is wrong."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tqdm import tqdm

from shards.checking.verify import Report, verify


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("verify", help="check that a set is whole and as the format says")
    parser.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    parser.add_argument(
        "--images",
        choices=("all", "sampled", "none"),
        default="sampled",
        help="images to hash and decode one by one (default: %(default)s, 8 of each shard); the "
        "tars' digests cover all of them in any case",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="chooses the sampled images (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=_threads, help="files read at once (default: one per processor, up to 8)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Check and print; 1 if something is wrong.

    Raises:
        UserError: there is no such folder, or the set is of another major version.
    """
    # disable=None: only on a terminal
    with tqdm(unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def on_bytes(read: int, total: int) -> None:
            bar.total = total
            bar.update(read)

        report = verify(
            arguments.set,
            images=arguments.images,
            seed=arguments.seed,
            threads=arguments.threads,
            on_bytes=on_bytes,
        )
    if arguments.json:
        print(json.dumps(report.as_json(), indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print("\n".join(_lines(report)))
    return 0 if report.ok else 1


def _lines(report: Report) -> list[str]:
    lines = [str(finding) for finding in report.findings]
    lines += [f"{path}: note: {why}" for path, why in sorted(report.notes.items())]
    looked = (
        f"{report.files:,} files, {report.bytes / 1e6:,.1f} MB, {report.samples:,} samples, "
        f"{report.images:,} images decoded"
    )
    if report.ok:
        return [*lines, f"whole: {looked}", f"digest {report.digest}"]
    files = len({finding.file for finding in report.findings})
    return [*lines, f"BAD: {len(report.findings):,} faults in {files:,} files; {looked}"]
