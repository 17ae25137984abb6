"""``anchorft-shards push``: a set goes to a store or to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from shards.sharing.stores import DamagedFile
from shards.sharing.transfer import THREADS, Moved, push
from shards.terminal import plain


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("push", help="send a set to a store or to the Hugging Face Hub")
    parser.add_argument("set", metavar="SET", help="folder of the set, on this machine")
    parser.add_argument(
        "url", metavar="URL", help="s3://..., gs://..., a folder, or hf://datasets/ORG/NAME"
    )
    parser.add_argument(
        "--public", action="store_true", help="make a new Hub repository public (default: private)"
    )
    add_common(parser)
    parser.set_defaults(run=run)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that push and pull share."""
    parser.add_argument(
        "--force", action="store_true", help="replace another set that is at the target"
    )
    parser.add_argument(
        "--threads", type=threads, default=THREADS, help="files at once (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def threads(text: str) -> int:
    """A number of threads, from 1 to 64."""
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 64")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Push; 1 if a file of the set is damaged.

    Raises:
        UserError: no set, another set at the target, or a store that fails.
    """
    try:
        moved = push(
            arguments.set,
            arguments.url,
            force=arguments.force,
            public=arguments.public,
            threads=arguments.threads,
        )
    except DamagedFile as error:
        return report_damage(error, arguments.json)
    report(moved, arguments.json)
    return 0


def report(moved: Moved, as_json: bool) -> None:
    """Print what was done."""
    if as_json:
        print(json.dumps(asdict(moved), indent=2, sort_keys=True, ensure_ascii=False))
        return
    print(
        f"{moved.place}: {moved.samples:,} anchors; sent {moved.sent:,} files "
        f"({moved.bytes_sent / 1e6:,.1f} MB), {moved.kept:,} were there"
    )
    print(f"digest {moved.digest}")


def report_damage(error: DamagedFile, as_json: bool) -> int:
    """Print what is wrong; the exit status."""
    if as_json:
        print(json.dumps({"error": str(error)}, indent=2, ensure_ascii=False))
    else:
        print(f"anchorft-shards: {plain(str(error))}", file=sys.stderr)
    return 1
