"""The resolved options of a build: plain data, which workers get as it is."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.captioner import Decoding
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, canonical_json
from shards.sources import Source


@dataclass(frozen=True)
class BuildConfig:
    """The resolved options; picklable, so that workers get exactly this."""

    finetune: str
    pool: str | None
    output: str
    work: str
    name: str
    stages: tuple[str, ...]
    kinds: tuple[str, ...]
    classnames: str | None
    captioner: str
    encoder: str
    k: int
    min_score: float
    decoding: Decoding
    caption_batch: int
    embed_batch: int
    device: str
    model_threads: int
    decode_threads: int
    shard_size: int
    max_bad_fraction: float
    force: bool = False

    def recorded(self) -> dict[str, Any]:
        """What the manifest keeps: all that can change the result, and no path or machine."""
        kept = {
            "kinds": list(self.kinds),
            "caption_batch": self.caption_batch,
            "embed_batch": self.embed_batch,
            "shard_size": self.shard_size,
            "max_bad_fraction": self.max_bad_fraction,
        }
        if TEXT_COMPENSATED in self.kinds:
            kept["decoding"] = asdict(self.decoding)
        if IMAGE_TEXT_PAIR in self.kinds:
            kept |= {"k": self.k, "min_score": self.min_score}
        return kept

    def build_id(self, *sources: Source | None) -> str:
        """Digest of what defines the set; builds with equal ones continue each other's work."""
        units = [[unit.root, unit.name] for source in sources if source for unit in source.units]
        models = [self.captioner, self.encoder, self.classnames]
        text = canonical_json([self.name, units, models, self.recorded()])
        return hashlib.sha256(text.encode()).hexdigest()
