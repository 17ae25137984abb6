"""Our streaming reader against plain webdataset over the same tars.

    python -m benchmarks.reader_speed

Both read all samples, one after the other, from a warm page cache. webdataset hands out the bytes
of every member; ours parses every record and checks every image against its hash besides. Then
both decode the images as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import webdataset

from benchmarks.contest import FIGURES, conditions, contest, figures, parser, report
from benchmarks.made import make_set
from shards.images import decode_image
from shards.stream import AnchorStream


def stream(*places: str, decode: bool) -> int:
    """Read with ours; returns the number of samples."""
    number = 0
    for _, image in AnchorStream.open(*places).read():
        if decode and image is not None:
            decode_image(image)
        number += 1
    return number


def plain(tars: list[str], *, decode: bool) -> int:
    """Read with webdataset; returns the number of samples."""
    data = webdataset.WebDataset(tars, shardshuffle=False)
    return sum(1 for _ in (data.decode("pil") if decode else data))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("streaming reader against webdataset", samples=8000)
    arguments = options.parse_args(argv)
    results = {}
    with tempfile.TemporaryDirectory() as root:
        manifest = make_set(root, arguments.samples, shards=max(arguments.samples // 2000, 1))
        tars = [f"{root}/{shard.path}" for shard in manifest.shards]
        for decode in (False, True):
            for name, places in (("set", [root]), ("bare tars", tars)):
                ours, theirs = stream(*places, decode=decode), plain(tars, decode=decode)
                assert ours == theirs == manifest.samples
                results[f"{name}, {'decoded' if decode else 'bytes'}"] = contest(
                    lambda places=places, decode=decode: stream(*places, decode=decode),  # type: ignore[misc]
                    lambda decode=decode: plain(tars, decode=decode),  # type: ignore[misc]
                    arguments.rounds,
                )
        size = sum(shard.bytes for shard in manifest.shards)
    body = {
        "conditions": conditions(samples=manifest.samples, bytes=size, rounds=arguments.rounds),
        "results": results,
    }
    report(body, ("webdataset's time / ours", *FIGURES), figures(results), arguments.output)


if __name__ == "__main__":
    main()
