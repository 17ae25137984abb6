"""``anchorft-shards schema``: the format as JSON Schema."""

from __future__ import annotations

import argparse
from typing import Any

from schemas.json_schema import SCHEMA_NAMES, schema_text


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("schema", help="print the format as JSON Schema")
    parser.add_argument("name", choices=SCHEMA_NAMES, help="of what")
    parser.add_argument("--json", action="store_true", help="changes nothing: it is JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the schema; the package carries the same text as schemas/json/NAME.schema.json."""
    print(schema_text(arguments.name), end="")
    return 0
