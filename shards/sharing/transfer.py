"""Push and pull: a set goes to another place whole, or is not there.

Both ends are checked by digest, files that are at the target already are not sent again, and the
manifest goes last. Paths come from the manifest alone, whose schema has refused every path that
is not plain; what else lies in the source is never looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, FileEntry, Manifest
from schemas.record import Kind
from shards import places
from shards.completion import complete_set
from shards.guards import MAX_MANIFEST_BYTES, check_inside
from shards.reader import AnchorSet
from shards.sharing import hub
from shards.sharing.part import choose, subset_manifest
from shards.sharing.stores import Folder, OnBytes, Store

THREADS = 4
"""Files under way at once: a store answers one request slower than it answers four."""

# What a set holds beside its shards. A file that some tool would run or obey, such as a
# Makefile, a .py or a .git/config, is not among them.
_ENDINGS = (".md", ".json", ".html", ".txt", ".csv", ".pdf", ".png", ".svg")
_NAMES = ("LICENSE", "NOTICE")


class Target(Protocol):
    """Where a set is sent, file by file; see shards.sharing.stores."""

    place: str

    def manifest(self) -> bytes | None:
        """The text of the manifest that is there."""

    def check(self, entries: list[FileEntry]) -> None:
        """Refuse where these files could not be put."""

    def put(self, source: str, entry: FileEntry, on_bytes: OnBytes) -> bool:
        """Put a file there, checked at both ends; False if it was there already."""
        ...

    def strays(self, wanted: set[str]) -> list[str]:
        """Files where shards lie that are none of these."""
        ...

    def remove(self, path: str) -> None:
        """Delete a file."""

    def finish(self, manifest: bytes) -> None:
        """Write the manifest."""

    def sweep(self) -> None:
        """Delete what earlier runs left half done."""


@dataclass(frozen=True)
class Moved:
    """What a push or a pull did.

    Attributes:
        name: of the set at the target.
        digest: of the set at the target.
        samples: anchors in it.
        place: the target.
        sent: files that were sent.
        kept: files that were at the target already.
        bytes_sent: of the files that were sent.
    """

    name: str
    digest: str
    samples: int
    place: str
    sent: int
    kept: int
    bytes_sent: int


def push(
    root: str, url: str, *, force: bool = False, public: bool = False, threads: int = THREADS
) -> Moved:
    """Send a local set to an fsspec URL, or to the Hub as a dataset repository.

    Args:
        root: the set's folder, on this machine.
        url: of the folder that it will be, or ``hf://datasets/ORG/NAME[@revision]``.
        force: replace another set that is there.
        public: make a new Hub repository public; it is private otherwise.
        threads: files under way at once.

    Raises:
        UserError: no set, another set at the target, or a store that fails.
        DamagedFile: a file of the set is not the one that the manifest names.
    """
    if not places.is_local(root):
        raise UserError(f"{root!r} is not on this machine; pull it first, then push it.")
    manifest, text = read_manifest(root)
    _not_the_same(root, url)
    if hub.is_hub(url):
        entries = manifest.entries()
        with _progress("push", sum(entry.bytes for entry in entries)) as on_bytes:
            sent = hub.push(
                root,
                url,
                manifest,
                text,
                force=force,
                public=public,
                threads=threads,
                on_bytes=on_bytes,
            )
        return _moved(manifest, url, entries, sent)
    target = Folder(url) if places.is_local(url) else Store(url)
    return _send(root, manifest, text, target, force, threads, "push")


def pull(
    url: str,
    folder: str,
    *,
    kinds: Sequence[Kind] = (),
    shards: Sequence[str] = (),
    force: bool = False,
    threads: int = THREADS,
) -> Moved:
    """Fetch a set, or some of its shards as a set of their own, into a local folder.

    Args:
        url: of the set's folder, or ``hf://datasets/ORG/NAME[@revision]``.
        folder: where it goes; made if it is not there.
        kinds: only these kinds.
        shards: only these shards; see ``choose``.
        force: replace another set that is there.
        threads: files under way at once.

    Raises:
        UserError: no set, another set in the folder, no such shard, or a store that fails.
        DamagedFile: what was fetched is not what the manifest names.
    """
    if not places.is_local(folder):
        raise UserError(f"{folder!r} is not a folder of this machine; pull into one, then push.")
    _not_the_same(url, folder)
    source = hub.pinned(url) if hub.is_hub(url) else url
    manifest, text = read_manifest(source)
    chosen = choose(manifest, kinds, shards)
    if len(chosen) == len(manifest.shards):
        return _send(source, manifest, text, Folder(folder), force, threads, "pull")
    part = subset_manifest(AnchorSet(source, manifest), chosen)
    return _send(source, part, None, Folder(folder), force, threads, "pull")


def read_manifest(root: str) -> tuple[Manifest, bytes]:
    """The manifest of a set, checked, and its text as it is.

    Raises:
        UserError: there is none, it is broken, or it lists what no set holds.
    """
    place = places.join(root, MANIFEST_NAME)
    with _of_a_store(root, "read"):
        if not places.exists(place):
            raise UserError(f"{root!r} is not an anchor set: it holds no {MANIFEST_NAME}.")
        text = places.read_limited(place, MAX_MANIFEST_BYTES)
    manifest = Manifest.from_json(text, place)
    for entry in manifest.files:
        name = entry.path.rpartition("/")[2]
        if not (name.lower().endswith(_ENDINGS) or name in _NAMES):
            raise UserError(
                f"{place!r} lists {entry.path!r}, which is neither a shard nor a file to read; "
                f"such a set is not moved."
            )
    if places.is_local(root):
        check_inside(places.local_path(root), [entry.path for entry in manifest.entries()])
    return manifest, text


def _send(
    source: str,
    manifest: Manifest,
    text: bytes | None,
    target: Target,
    force: bool,
    threads: int,
    label: str,
) -> Moved:
    """Send the files, then the manifest ``text``; None: the target gets its own (pull)."""
    entries = manifest.entries()
    target.check(entries)
    _make_way(target, manifest, text, force)
    sent: list[FileEntry] = []

    def one(entry: FileEntry, on_bytes: OnBytes) -> None:
        place = places.join(source, entry.path)
        with _of_a_store(place, "moved"):
            if target.put(place, entry, on_bytes):
                sent.append(entry)

    with _progress(label, sum(entry.bytes for entry in entries)) as on_bytes:
        pool = ThreadPoolExecutor(threads)
        try:
            under_way = [pool.submit(one, entry, on_bytes) for entry in entries]
            done, _ = wait(under_way, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    with _of_a_store(target.place, "finished"):
        if text is None:
            manifest = complete_set(target.place, manifest)
        elif target.manifest() != text:
            target.finish(text)
        target.sweep()
    return _moved(manifest, target.place, entries, sent)


def _make_way(target: Target, manifest: Manifest, text: bytes | None, force: bool) -> None:
    """See what is at the target; what would not belong to the set there is removed first.

    Raises:
        UserError: another set, or shards of one, and no ``force``.
    """
    with _of_a_store(target.place, "looked at"):
        there = target.manifest()
        if there is not None and there == text:
            return  # the very set; what is damaged or missing is mended in its place
        if there is not None and not force and not _same_data(there, manifest):
            raise UserError(
                f"{target.place!r} holds another anchor set; give another target, or --force to "
                f"replace it."
            )
        strays = target.strays({entry.path for entry in manifest.entries()})
        if strays and not force:
            raise UserError(
                f"{target.place!r} holds {strays[0]!r}, which is not of this set; give another "
                f"target, or --force to delete it."
            )
        # From here to the end there is no set at the target: the manifest goes first.
        if there is not None:
            target.remove(MANIFEST_NAME)
        for path in strays:
            target.remove(path)


def _same_data(there: bytes, manifest: Manifest) -> bool:
    try:
        return Manifest.from_json(there, MANIFEST_NAME).digest == manifest.digest
    except UserError:
        return False


def _not_the_same(source: str, target: str) -> None:
    if source.rstrip("/") == target.rstrip("/"):
        raise UserError(f"{source!r} is both source and target; give another target.")


def _moved(
    manifest: Manifest, place: str, entries: list[FileEntry], sent: list[FileEntry]
) -> Moved:
    return Moved(
        name=manifest.name,
        digest=manifest.digest,
        samples=manifest.samples,
        place=place,
        sent=len(sent),
        kept=len(entries) - len(sent),
        bytes_sent=sum(entry.bytes for entry in sent),
    )


@contextmanager
def _of_a_store(place: str, what: str) -> Iterator[None]:
    """Turn what a store's client raises into a sentence: each has exceptions of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{place!r} could not be {what} ({text}); nothing is lost: run the same again to go on."
        ) from error


@contextmanager
def _progress(label: str, total: int) -> Iterator[OnBytes]:
    """A line with bytes and rate, on a terminal only."""
    with tqdm(
        total=total,
        desc=label,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        yield bar.update
