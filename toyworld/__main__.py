"""``python -m toyworld``: render the world, run the demo, or pretrain the committed models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from schemas.errors import UserError
from toyworld.world import WorldConfig, ensure_world


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 when it is done, 2 when something must be mended first."""
    options = vars(_parser().parse_args(argv))
    command, output = options.pop("command"), options.pop("output")
    try:
        if command == "pretrain":
            from toyworld.pretrain import pretrain

            pretrain(output, **options)
        elif command == "demo":
            from toyworld.demo import demo

            demo(output, WorldConfig(**options))
        else:
            ensure_world(output, WorldConfig(**options))
    except UserError as error:
        print(f"toyworld: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="toyworld", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text, output in (
        ("render", "write the world's data sets", "runs/world"),
        ("demo", "build anchors, finetune, evaluate", "runs/demo"),
    ):
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        command.add_argument("--output", type=Path, default=Path(output))
        for field in fields(WorldConfig):
            flag = "--" + field.name.replace("_", "-")
            command.add_argument(flag, dest=field.name, type=int, default=field.default)
    command = commands.add_parser("pretrain", help="pretrain the models", allow_abbrev=False)
    command.add_argument("--output", type=Path, required=True)
    command.add_argument("--images", type=int, default=80_000, help="pictures rendered")
    command.add_argument("--checks", type=int, default=4000, help="pictures to measure on")
    command.add_argument("--clip-epochs", type=float, default=5)
    command.add_argument("--blip-epochs", type=float, default=12)
    command.add_argument("--only", choices=("clip", "blip"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
