"""A set that is being written: whose its folder is, which shards are done, what must be swept.

Until the manifest is there, the folder holds ``.unfinished/``: ``made.json`` says what is being
made, and a note a shard says that it is whole. The same command, run again, knows its own folder
by the first, and goes on where the notes end. Nothing is written into any other folder.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, Manifest, Provenance, ShardEntry
from schemas.record import KINDS, Kind, canonical_json
from shards import places

_FOLDER = ".unfinished"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_SHARD = re.compile(rf"(?:{'|'.join(KINDS)})/\d{{5,}}\.(?:tar|parquet)")


@dataclass(frozen=True)
class Note:
    """What is known of a shard that is whole.

    Attributes:
        entry: for the manifest.
        start: the first of the planned records that went into it.
        taken: how many of the planned records it used up, bad ones included.
        dropped: bad ones by reason.
        examples: some of them, as (key, reason, detail).
    """

    entry: ShardEntry
    start: int
    taken: int
    dropped: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Unfinished:
    """The folder that a set is written into.

    Attributes:
        output: the folder, local or remote.
        made: the canonical JSON that says what is being made; see ``identity``.
    """

    output: str
    made: str

    def check(self) -> Manifest | None:
        """Look whether the folder may be written to; writes nothing.

        Returns:
            The manifest, if the very set is there already, else None.

        Raises:
            UserError: another set, another unfinished one or something else is there.
        """
        other = "give another --output"
        place = places.join(self.output, MANIFEST_NAME)
        if places.exists(place):
            held = Manifest.from_json(places.read_bytes(place), place)
            if identity(held.name, held.classes, held.provenance) == self.made:
                return held
            raise UserError(f"{self.output!r} already holds another set; {other}.")
        if places.exists(self._place("made.json")):
            if places.read_bytes(self._place("made.json")).decode("utf-8", "replace") == self.made:
                return None
            raise UserError(
                f"{self.output!r} holds an unfinished set made of other sets or with other "
                f"options; remove it, or {other}."
            )
        if places.exists(self.output) and any(places.list_folder(self.output)):
            raise UserError(f"{self.output!r} is not empty; {other}.")
        return None

    def begin(self) -> None:
        """Mark the folder as this set's; call it before anything else is written."""
        places.write_bytes(self._place("made.json"), self.made.encode())

    def note(self, kind: Kind, number: int, start: int) -> Note | None:
        """What an earlier run left of the shard that begins at ``start``, if it is still whole."""
        place = self._place(f"{kind}-{number:05d}.json")
        if not places.exists(place):
            return None
        try:
            body = json.loads(places.read_bytes(place))
            body["entry"] = ShardEntry.model_validate(body["entry"])
            note = Note(**body)
        except (ValueError, KeyError, TypeError):
            return None  # broken: the shard will be written again
        if note.start != start:
            return None
        for file in (note.entry, note.entry.index):
            place = places.join(self.output, file.path)
            if not places.exists(place) or places.sha256_file(place)[0] != file.sha256:
                return None
        return note

    def keep(self, number: int, note: Note) -> None:
        """Remember that a shard is whole."""
        body = asdict(note) | {"entry": note.entry.model_dump()}
        name = f"{note.entry.kind}-{number:05d}.json"
        places.write_bytes(self._place(name), canonical_json(body).encode())

    def sweep(self, shards: Iterable[ShardEntry]) -> None:
        """Delete what interrupted runs left: temporary files, and shards that are not in use."""
        ours = {file.path for shard in shards for file in (shard, shard.index)}
        for path in self._files():
            name = path.rpartition("/")[2]
            if _TEMPORARY.fullmatch(name) or (_SHARD.fullmatch(path) and path not in ours):
                places.remove(places.join(self.output, path))

    def end(self) -> None:
        """Delete the notes; call it when the manifest is there."""
        for path in self._files():
            if path.startswith(f"{_FOLDER}/") or _TEMPORARY.fullmatch(path.rpartition("/")[2]):
                places.remove(places.join(self.output, path))
        fs, path = places.filesystem(places.join(self.output, _FOLDER))
        with contextlib.suppress(OSError, NotImplementedError):  # stores have no empty folders
            fs.rmdir(path)

    def _place(self, name: str) -> str:
        return places.join(self.output, _FOLDER, name)

    def _files(self) -> list[str]:
        """Every file of the folder, hidden ones too, as paths relative to it."""
        fs, path = places.filesystem(self.output)
        base = str(fs._strip_protocol(path)).rstrip("/") + "/"
        return sorted(str(name).removeprefix(base) for name in fs.find(path))


def identity(name: str, classes: list[str], made: Provenance) -> str:
    """What tells one derived set from another before it is made: parents, inputs and options."""
    body: dict[str, Any] = {
        "name": name,
        "classes": classes,
        "parents": made.parents,
        "inputs": [given.model_dump() for given in made.inputs],
        "config": made.config,
    }
    return canonical_json(body)
