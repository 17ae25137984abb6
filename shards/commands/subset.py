"""``anchorft-shards subset``: those anchors of a set that pass a selection."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from schemas.errors import UserError
from schemas.record import KINDS
from shards.commands.derived import add_output, positive, report, share
from shards.deriving.subset import MISSING, UNKNOWN, Selection, subset
from shards.sources.tar_sets import class_lines


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser(
        "subset",
        help="select anchors by kind, class, score, licence, safety, chance",
        description="Options that may be repeated name alternatives; an anchor must pass all "
        "kinds of options given.",
    )
    parser.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    add = parser.add_argument
    add("--kind", action="append", choices=KINDS, help="kind of anchor; may be repeated")
    add("--class", action="append", dest="classes", metavar="NAME", help="may be repeated")
    add("--class-file", metavar="FILE", help="classes, one a line")
    add("--min-score", type=_number, metavar="S", help="of image-text pairs, inclusive")
    add("--max-score", type=_number, metavar="S", help="of image-text pairs, inclusive")
    add(
        "--license",
        action="append",
        metavar="NAME",
        help=f"as the source states it; {UNKNOWN!r} where it does not; may be repeated",
    )
    add("--max-punsafe", type=_number, metavar="P", help="inclusive")
    add("--max-pwatermark", type=_number, metavar="P", help="inclusive")
    add("--nsfw", action="append", metavar="VALUE", help="e.g. UNLIKELY; may be repeated")
    add(
        "--missing",
        choices=MISSING,
        help="what becomes of anchors without a safety column that is asked for; drop-pairs "
        "keeps text-compensated ones, whose images are finetune images (default: an error)",
    )
    add("--fraction", type=share, metavar="F", help="about this share, drawn by key")
    add("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    add("--limit-per-class", type=positive, metavar="N", help="of each kind, drawn by key")
    add_output(parser)
    parser.set_defaults(run=run)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Write the set.

    Raises:
        UserError: nothing is selected by; or see shards.deriving.subset.subset.
    """
    a = arguments
    classes = [*(a.classes or []), *(class_lines(a.class_file) if a.class_file else [])]
    selection = Selection(
        kinds=_once(a.kind),
        classes=_once(classes or None),
        min_score=a.min_score,
        max_score=a.max_score,
        licenses=_once(a.license),
        max_punsafe=a.max_punsafe,
        max_pwatermark=a.max_pwatermark,
        nsfw=_once(a.nsfw),
        missing=a.missing,
        fraction=a.fraction,
        limit_per_class=a.limit_per_class,
        seed=a.seed,
    )
    if not selection.options().keys() - {"missing"}:
        raise UserError("subset needs something to select by, such as --kind or --fraction.")
    made = subset(
        a.set,
        a.output,
        selection,
        shard_size=a.shard_size,
        name=a.name,
        max_bad=a.max_bad_fraction,
    )
    return report(a, made)


def _once(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    """Each value once and sorted, so that the order of the options changes nothing."""
    return None if values is None else tuple(sorted(set(values)))
