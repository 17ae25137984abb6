"""Sets on the Hugging Face Hub: a set is a dataset repository, sent through its own client.

A set is pushed as one commit. The Hub shows a revision whole or not at all, so that this is the
strongest form of "the manifest goes last", and commits of parts would only fill the history.
The large files are uploaded ahead of the commit (``preupload_lfs_files``): the Hub keeps them by
their SHA-256, so that a push that was broken off does not send them again. Pulling needs nothing
but fsspec: huggingface_hub brings a filesystem for ``hf://``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, FileEntry, Manifest
from schemas.record import KINDS
from shards import places
from shards.guards import MAX_MANIFEST_BYTES
from shards.sharing.stores import DamagedFile, OnBytes, damaged

_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^@\s]+))?/?", re.ASCII)
_BATCH = 50  # files uploaded between two looks at the progress
_PATHS = 500  # of one question to the Hub
_IN_COMMIT = 20_000  # files; the Hub takes some 25,000


def is_hub(url: str) -> bool:
    """True for a place on the Hugging Face Hub."""
    return url.startswith("hf://")


def parse(url: str) -> tuple[str, str | None]:
    """``hf://datasets/ORG/NAME[@revision]`` as repository and revision.

    Raises:
        UserError: it is something else.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise UserError(f"{url!r} is not of the form hf://datasets/ORG/NAME[@revision].")
    return found[1], found[2]


def pinned(url: str) -> str:
    """The URL at the commit that its revision is now, so that a push does not change it midway.

    Raises:
        UserError: no such repository or revision, or the Hub does not answer.
    """
    repo, revision = parse(url)
    try:
        info = _api().repo_info(repo, repo_type="dataset", revision=revision)
    except Exception as error:
        raise failed(url, error) from error
    return f"hf://datasets/{repo}@{info.sha}"


def failed(url: str, error: Exception) -> UserError:
    """What the Hub's client raised, as a sentence."""
    text = " ".join(str(error).split())
    return UserError(
        f"{url!r} could not be reached as it should ({type(error).__name__}: {text}); nothing is "
        f"lost: run the same again to go on."
    )


def push(
    root: str,
    url: str,
    manifest: Manifest,
    text: bytes,
    *,
    force: bool,
    public: bool,
    threads: int,
    on_bytes: OnBytes,
) -> list[FileEntry]:
    """Send a local set as one commit; returns the files that the commit changed.

    Raises:
        UserError: another set is there, or the Hub refuses.
        DamagedFile: a file of the set is not the one that the manifest names.
    """
    try:
        return _Push(root, url, manifest, text, threads, on_bytes).run(force, public)
    except UserError:
        raise
    except Exception as error:
        raise failed(url, error) from error


class _Push:
    def __init__(
        self,
        root: str,
        url: str,
        manifest: Manifest,
        text: bytes,
        threads: int,
        on_bytes: OnBytes,
    ) -> None:
        self._root, self._url, self._text = root, url, text
        self._manifest, self._threads, self._on_bytes = manifest, threads, on_bytes
        self._repo, revision = parse(url)
        self._revision = revision or "main"
        self._api = _api()

    def run(self, force: bool, public: bool) -> list[FileEntry]:
        self._api.create_repo(self._repo, repo_type="dataset", private=not public, exist_ok=True)
        self._make_branch()
        head = str(
            self._api.repo_info(self._repo, repo_type="dataset", revision=self._revision).sha
        )
        entries = self._manifest.entries()
        there = self._infos([entry.path for entry in entries] + [MANIFEST_NAME], head)
        strays = self._make_way(there, {entry.path for entry in entries}, head, force)
        missing = [e for e in entries if not self._is_right(there.get(e.path), e)]
        self._on_bytes(sum(e.bytes for e in entries) - sum(e.bytes for e in missing))
        own = _entry(MANIFEST_NAME, self._text)
        if not missing and not strays and self._is_right(there.get(MANIFEST_NAME), own):
            return []
        commit = self._commit(missing, strays, head, MANIFEST_NAME in there)
        arrived = self._infos([entry.path for entry in missing] + [MANIFEST_NAME], commit)
        for entry in [*missing, own]:
            if not self._is_right(arrived.get(entry.path), entry):
                raise DamagedFile(
                    f"{entry.path!r} at {self._url!r} did not arrive as it was sent; was it "
                    f"changed meanwhile? Run the same again."
                )
        return missing

    def _make_branch(self) -> None:
        """Make the branch if there is none; it starts empty, not with what ``main`` holds."""
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            self._api.repo_info(self._repo, repo_type="dataset", revision=self._revision)
        except RevisionNotFoundError:
            first = self._api.list_repo_commits(self._repo, repo_type="dataset")[-1].commit_id
            self._api.create_branch(
                self._repo,
                repo_type="dataset",
                branch=self._revision,
                revision=first,
                exist_ok=True,
            )

    def _infos(self, paths: Sequence[str], revision: str) -> dict[str, Any]:
        """What the Hub holds of some paths."""
        found: dict[str, Any] = {}
        for start in range(0, len(paths), _PATHS):
            some = list(paths[start : start + _PATHS])
            infos = self._api.get_paths_info(
                self._repo, some, repo_type="dataset", revision=revision
            )
            found.update((info.path, info) for info in infos)
        return found

    def _is_right(self, info: Any, entry: FileEntry) -> bool:
        """True if the Hub holds the file: by SHA-256 if it is large, by git's digest if small."""
        if getattr(info, "size", None) != entry.bytes:
            return False
        if info.lfs is not None:
            return bool(info.lfs.sha256 == entry.sha256)
        data = self._text
        if entry.path != MANIFEST_NAME:
            data = Path(places.local_path(places.join(self._root, entry.path))).read_bytes()
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                return False
        return bool(info.blob_id == _git_digest(data))

    def _make_way(
        self, there: dict[str, Any], wanted: set[str], head: str, force: bool
    ) -> list[str]:
        """Shards of another set, which this push is to delete.

        Raises:
            UserError: there are some, or another manifest, and no ``force``.
        """
        if MANIFEST_NAME in there and not force:
            place = f"hf://datasets/{self._repo}@{head}/{MANIFEST_NAME}"
            old = places.read_limited(place, MAX_MANIFEST_BYTES)
            if old != self._text and not _same_data(old, self._manifest):
                raise UserError(
                    f"{self._url!r} holds another anchor set; give another target, or --force to "
                    f"replace it."
                )
        files = self._api.list_repo_files(self._repo, repo_type="dataset", revision=head)
        folders = tuple(f"{kind}/" for kind in KINDS)
        strays = [path for path in files if path.startswith(folders) and path not in wanted]
        if strays and not force:
            raise UserError(
                f"{self._url!r} holds {strays[0]!r}, which is not of this set; give another "
                f"target, or --force to delete it."
            )
        return strays

    def _commit(
        self, missing: list[FileEntry], strays: list[str], head: str, replaces: bool
    ) -> str:
        """Upload, then commit; returns the commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        added: list[Any] = []
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            for entry in batch:
                place = places.join(self._root, entry.path)
                if places.sha256_file(place) != (entry.sha256, entry.bytes):
                    raise damaged(place, entry)
            adds = [
                CommitOperationAdd(e.path, places.local_path(places.join(self._root, e.path)))
                for e in batch
            ]
            self._api.preupload_lfs_files(
                self._repo,
                adds,
                repo_type="dataset",
                revision=self._revision,
                num_threads=self._threads,
                free_memory=False,
            )
            added += adds
            self._on_bytes(sum(entry.bytes for entry in batch))
        last: list[Any] = [CommitOperationAdd(MANIFEST_NAME, self._text)]
        operations = [*added, *(CommitOperationDelete(path) for path in strays)]
        while len(operations) > _IN_COMMIT:  # then in several, and no manifest until the last
            some, operations = operations[:_IN_COMMIT], operations[_IN_COMMIT:]
            if replaces:
                some.append(CommitOperationDelete(MANIFEST_NAME))
                replaces = False
            head = self._send_commit(some, head)
        return self._send_commit([*operations, *last], head)

    def _send_commit(self, operations: list[Any], head: str) -> str:
        made = self._api.create_commit(
            self._repo,
            operations,
            commit_message=f"Anchor set {self._manifest.digest[:12]}",
            repo_type="dataset",
            revision=self._revision,
            parent_commit=head,  # refused if somebody else has pushed meanwhile
            num_threads=self._threads,
        )
        return str(made.oid)


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise UserError(
            "the Hugging Face Hub needs the package huggingface_hub; pip install 'anchorft[hub]'."
        ) from None
    disable_progress_bars()  # ours shows the bytes of the whole set
    return HfApi(library_name="anchorft")


def _same_data(text: bytes, manifest: Manifest) -> bool:
    try:
        return Manifest.from_json(text, MANIFEST_NAME).digest == manifest.digest
    except UserError:
        return False


def _entry(path: str, data: bytes) -> FileEntry:
    return FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _git_digest(data: bytes) -> str:
    header = f"blob {len(data)}\0".encode()
    return hashlib.sha1(header + data, usedforsecurity=False).hexdigest()
