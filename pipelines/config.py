"""The resolved options of a build: plain data, which workers get as it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pipelines.captioning.options import CaptionConfig
from pipelines.embedding.options import EmbedConfig
from pipelines.retrieval.options import RetrieveConfig
from pipelines.selection.caption_options import CaptionScoreConfig
from pipelines.selection.options import ScreenConfig, SelectConfig
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, canonical_json
from shards.sources import Source


@dataclass(frozen=True)
class Machine:
    """Where and how wide the work runs; nothing here changes what comes out.

    Attributes:
        device: torch device, or ``auto``.
        model_threads: torch threads per process; 0 leaves it to torch.
        decode_threads: threads that decode images, beside the model where it leaves them cores.
    """

    device: str
    model_threads: int
    decode_threads: int


@dataclass(frozen=True)
class BuildConfig:
    """The resolved options; picklable, so that workers get exactly this."""

    finetune: str
    pool: tuple[str, ...]
    output: str
    work: str
    name: str
    stages: tuple[str, ...]
    kinds: tuple[str, ...]
    classnames: str | None
    captioning: CaptionConfig
    caption_scores: CaptionScoreConfig
    embedding: EmbedConfig
    screen: ScreenConfig
    retrieval: RetrieveConfig
    select: SelectConfig
    machine: Machine
    shard_size: int
    max_bad_fraction: float
    force: bool = False

    @property
    def embeds_finetune(self) -> bool:
        """True where somebody asks what the encoder makes of the finetune images."""
        return IMAGE_TEXT_PAIR in self.kinds or self.caption_scores.scores

    def recorded(self) -> dict[str, Any]:
        """What the manifest keeps: all that can change the result, and no path or machine."""
        kept: dict[str, Any] = {
            "kinds": list(self.kinds),
            "shard_size": self.shard_size,
            "max_bad_fraction": self.max_bad_fraction,
        }
        if TEXT_COMPENSATED in self.kinds:
            kept |= self.captioning.recorded() | self.caption_scores.recorded()
        if self.embeds_finetune:
            kept |= self.embedding.recorded()
        if IMAGE_TEXT_PAIR in self.kinds:
            for step in (self.screen, self.retrieval, self.select):
                kept |= step.recorded()
            if self.embedding.existing:
                kept["pool_embeddings"] = "existing"
        return kept

    def build_id(self, *sources: Source | None) -> str:
        """Digest of what defines the set; builds with equal ones continue each other's work."""
        units = [[unit.root, unit.name] for source in sources if source for unit in source.units]
        models = [self.captioning.captioner, self.embedding.encoder, self.classnames]
        text = canonical_json([self.name, units, models, self.recorded()])
        return hashlib.sha256(text.encode()).hexdigest()
