"""``anchorft-shards diff``: how two sets differ; exit status 1 if they do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from shards.deriving.diff import Changed, Difference, diff

_WIDTH = 60


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("diff", help="how two sets differ; exit status 1 if they do")
    parser.add_argument("a", metavar="A", help="folder of a set, local or remote")
    parser.add_argument("b", metavar="B", help="folder of another")
    parser.add_argument(
        "--records-only",
        action="store_true",
        help="sets with the same records are equal, whatever their manifests say",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=5,
        metavar="N",
        help="records shown of each kind of difference (default: %(default)s); --json has all",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, all lists complete")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the differences; 1 if there are any.

    Raises:
        UserError: see shards.deriving.diff.diff.
    """
    found = diff(arguments.a, arguments.b)
    same = found.same_records and (arguments.records_only or not found.manifest)
    if arguments.json:
        body = {"same": same} | found.as_json()
        print(json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        for line in _lines(found, arguments.show, records_only=arguments.records_only):
            print(line)
    return 0 if same else 1


def _lines(found: Difference, show: int, *, records_only: bool) -> Iterator[str]:
    yield f"equal records: {found.equal:,}"
    sides: tuple[tuple[str, str, Sequence[str | Changed]], ...] = (
        ("only_a", "only in A", found.only_a),
        ("only_b", "only in B", found.only_b),
        ("changed", "changed", found.changed),
    )
    for side, title, items in sides:
        if not items:
            continue
        yield f"{title}: {len(items):,}"
        for kind, number in found.kinds[side].items():
            classes = sorted(found.classes[side].get(kind, {}).items(), key=lambda c: (-c[1], c[0]))
            named = ", ".join(f"{name} {count:,}" for name, count in classes[:show])
            more = f", and {len(classes) - show:,} classes more" if len(classes) > show else ""
            yield f"  {kind}: {number:,}" + (f" ({named}{more})" if named else "")
        for item in items[:show]:
            yield f"  {item}" if isinstance(item, str) else f"  {item.key}: {_fields(item)}"
        if len(items) > show:
            yield f"  and {len(items) - show:,} more"
    if not records_only:
        for name, (a, b) in found.manifest.items():
            yield f"manifest, {name}: {_short(a)} -> {_short(b)}"


def _fields(changed: Changed) -> str:
    return "; ".join(
        f"{name} {_short(a)} -> {_short(b)}" for name, (a, b) in changed.fields.items()
    )


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
