"""``anchorft-build``: build an anchor set. See pipelines.options for what it takes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from pipelines.options import parse
from pipelines.watching.sentences import user_sentence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a build; 0 when the set is complete, 2 when something must be mended first."""
    # Beam logs an error several times over, tracebacks and all, before it raises it.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_not_of_beam)  # a remote job's messages go to the root logger
    try:
        config, options = parse(sys.argv[1:] if argv is None else argv)
        # Takes seconds, for which --help and a misspelt option need not wait.
        from pipelines.job import run_job

        run_job(config, options)
    except KeyboardInterrupt:
        print("anchorft-build: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            raise
        print(f"anchorft-build: error: {sentence}", file=sys.stderr)
        return 2
    return 0


def _not_of_beam(record: logging.LogRecord) -> bool:
    return "/apache_beam/" not in record.pathname


if __name__ == "__main__":
    sys.exit(main())
