"""``anchorft-shards``: look at anchor sets, check them, make others of them, share them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from schemas.errors import UserError
from shards.commands import COMMANDS
from shards.terminal import plain, plain_output


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it is done, 1 when it found something bad, 2 when it could not run."""
    parser = argparse.ArgumentParser(
        prog="anchorft-shards", description=__doc__.partition(": ")[2], allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        with plain_output():
            return int(arguments.run(arguments))
    except UserError as error:
        print(f"anchorft-shards: error: {plain(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("anchorft-shards: stopped; the same command goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
