"""The config of the small world that the tests of this room share."""

from toyworld.world import WorldConfig

SMALL = WorldConfig(finetune=96, pool=300, pool_shard=120, evaluation=40)
