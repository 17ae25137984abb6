"""Arrow schemas of every parquet that passes from one stage to the next, or leaves in a set."""

from __future__ import annotations

import pyarrow as pa

# Where a sample's image lies: a file below the root of its source and, in a tar, the byte range.
_WHERE = [
    pa.field("source", pa.string(), nullable=False),
    pa.field("source_key", pa.string(), nullable=False),
    pa.field("offset", pa.int64()),  # null: the whole file is the image
    pa.field("size", pa.int64(), nullable=False),
    pa.field("image_sha256", pa.string(), nullable=False),
    pa.field("image_ext", pa.string(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
]
_CLASS = [pa.field("class_index", pa.int32()), pa.field("class_name", pa.string())]
# What a web source says of a pair; None where the release has no such column.
WEB_FIELDS = [
    pa.field("url", pa.string()),
    pa.field("license", pa.string()),
    pa.field("nsfw", pa.string()),
    pa.field("punsafe", pa.float64()),
    pa.field("pwatermark", pa.float64()),
    pa.field("similarity", pa.float64()),
    pa.field("language", pa.string()),
]

UNITS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("tar", pa.string()),  # below the source's root
        pa.field("slice", pa.int32()),  # of a list of files: which of its slices
    ]
)
"""What a source holds: one row per unit of work, in order."""

UNIT_ITEMS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # below the source's root
        pa.field("class_index", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("beside", pa.bool_(), nullable=False),  # text and metadata lie beside the image
        *WEB_FIELDS,
    ]
)
"""Slices of a list of image files, one row group each."""

CAPTIONS = pa.schema([*_WHERE, *_CLASS, pa.field("texts", pa.list_(pa.string()))])
"""Caption stage: one row per finetune image, captions in the order they were generated."""

SCORED_CAPTIONS = pa.schema([*CAPTIONS, pa.field("clip_scores", pa.list_(pa.float64()))])
"""The same with the cosine of each caption and the image; null where that was not embedded."""

SELECTED_CAPTIONS = pa.schema([*CAPTIONS, pa.field("clip_score", pa.float64(), nullable=False)])
"""The captions that stay, best first, with the cosine of the first."""

EMBEDDING_METADATA = pa.schema(
    [
        # The two columns that clip-retrieval writes, so that its tools read ours.
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        *_WHERE,
        *_CLASS,
        *WEB_FIELDS,
    ]
)
"""Embed stage: row i describes row i of the .npy beside it (clip-retrieval's layout)."""

EXISTING_METADATA = pa.schema(
    [
        field.with_nullable(field.name not in ("image_path", "source_key"))
        for field in EMBEDDING_METADATA
    ]
)
"""The same of embeddings that existed already: where an image lies is found after retrieval."""

POOL_ROWS = pa.schema([pa.field("row", pa.int32(), nullable=False), *EMBEDDING_METADATA])
"""Some rows of a pool part, by their number: what the select stage looks up."""

SCREENED = pa.schema([pa.field("row", pa.int32(), nullable=False)])
"""Screen stage: the rows of a pool part that are searched, ascending."""

REJECTED = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("source_key", pa.string()),
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),  # what was found, for people
        pa.field("score", pa.float64()),  # best cosine similarity to a finetune image, if known
    ]
)
"""Pool pairs that screen and select left out, for people to look at."""

HITS = pa.schema(
    [
        pa.field("query", pa.int32(), nullable=False),  # number in the group of queries
        pa.field("pool_part", pa.int32(), nullable=False),
        pa.field("pool_row", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)
"""Search of one partition of the pool for one group of queries: by query, best first."""

TRIALS = pa.schema([pa.field("level", pa.int32(), nullable=False), *HITS])
"""The same for a sample of the queries, at rising levels of effort; level -1 is exact."""

NEIGHBOURS = pa.schema(
    [
        pa.field("query", pa.int32(), nullable=False),  # row in the query's embedding file
        pa.field("query_class", pa.string()),
        pa.field("pool_part", pa.int32(), nullable=False),  # number of the pool's embedding file
        pa.field("pool_row", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # cosine similarity
        pa.field("rank", pa.int32(), nullable=False),  # 0 is the nearest
    ]
)
"""Retrieve stage: k rows per query (an approximate index may find fewer), by query, then rank."""

CANDIDATES = pa.schema(
    [
        *_WHERE,
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        *_CLASS,
        *WEB_FIELDS,
        pa.field("score", pa.float64()),
        pa.field("rank", pa.int32()),
        pa.field("query_count", pa.int32()),
        pa.field("query_classes", pa.list_(pa.string())),
        pa.field("clip_score", pa.float64()),  # of the image and the first text
    ]
)
"""Select stage: what will become anchors, with the place to fetch each image from."""

JUDGED = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),  # in the pool part
        *CANDIDATES,
        pa.field("class_scores", pa.list_(pa.float64())),  # best score by query_classes
        pa.field("reason", pa.string()),  # null: it is a candidate still
        pa.field("detail", pa.string()),
    ]
)
"""Judge step of the select stage: all retrieved rows of a pool part, and why some are dropped."""

MEMBERS = ("image", "text", "record")
"""Members of a sample, in tar order; the parquet holds an offset and a size for each."""

RECORDS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("image_ext", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("texts", pa.list_(pa.string())),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        *_CLASS,
        pa.field("score", pa.float64()),
        pa.field("rank", pa.int32()),
        pa.field("query_count", pa.int32()),
        pa.field("query_classes", pa.list_(pa.string())),
        pa.field("clip_score", pa.float64()),
        *WEB_FIELDS,
        pa.field("extra", pa.string()),  # fields that 1.0 does not know, as canonical JSON
        *[
            pa.field(f"{member}_{what}", pa.int64())
            for member in MEMBERS
            for what in ("offset", "size")
        ],
    ]
)
"""The parquet beside a shard: its records in tar order, and where each member's bytes lie."""
