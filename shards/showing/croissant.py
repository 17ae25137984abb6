"""Croissant metadata: ``croissant.json``, which hubs and loaders of data sets understand.

It repeats, in the vocabulary of Croissant 1.0 (mlcommons.org/croissant), what the manifest says:
every tar and parquet with its SHA-256, and one record set per kind. The fields of a record set
come from the parquets, which any loader can read; the images lie in the tars.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from schemas.manifest import FileEntry, Manifest
from schemas.record import IMAGE_EXTENSIONS, AnchorRecord, Kind
from schemas.tables import RECORDS

CROISSANT_NAME = "croissant.json"
_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_TAR, _PARQUET = "application/x-tar", "application/x-parquet"
_IMAGE_TYPES = ["image/jpeg", "image/png", "image/webp"]
# Loaders that know no Croissant take these for schema.org; the rest are Croissant's own terms.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(manifest: Manifest) -> str:
    """The text of ``croissant.json``; a function of the manifest's shards, name and kinds."""
    distribution: list[dict[str, Any]] = []
    for shard in manifest.shards:
        distribution.append(_file_object(shard, _TAR))
        distribution.append(_file_object(shard.index, _PARQUET))
    record_sets: list[dict[str, Any]] = []
    for kind in manifest.kinds:
        shards = [shard for shard in manifest.shards if shard.kind == kind]
        tars = [{"@id": shard.path} for shard in shards if shard.images != 0]
        if shards:
            distribution.append(_records(kind))
            record_sets.append(_record_set(kind))
        if tars:
            distribution.append(_images(kind, tars))
            record_sets.append(_image_set(kind))
    body = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": manifest.name,
        "description": f"Anchor set ({manifest.format} {manifest.format_version}): images with "
        f"rich texts for anchor-based robust finetuning of CLIP, {manifest.samples:,} anchors of "
        f"{' and '.join(manifest.kinds)}. See README.md.",
        # A release of other data has another digest, so it is no release of this version.
        "version": f"{manifest.format_version}.0+{manifest.digest[:16]}",
        "license": "Images and texts keep the licences of their sources; see README.md.",
        "keywords": ["anchor-set", "clip", "webdataset"],
        "distribution": distribution,
        "recordSet": record_sets,
    }
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _file_object(file: FileEntry, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "contentUrl": file.path,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": encoding,
        "sha256": file.sha256,
    }


def _records(kind: Kind) -> dict[str, Any]:
    """The parquets of a kind, as a set of files below the folder of croissant.json."""
    return {
        "@type": "cr:FileSet",
        "@id": f"{kind}-records",
        "description": "Records in tar order, with the byte range of every member.",
        "encodingFormat": _PARQUET,
        "includes": f"{kind}/*.parquet",
    }


def _images(kind: Kind, tars: list[dict[str, Any]]) -> dict[str, Any]:
    """The images in the tars of a kind."""
    return {
        "@type": "cr:FileSet",
        "@id": f"{kind}-images",
        "description": "Original image files.",
        "containedIn": tars,
        "encodingFormat": _IMAGE_TYPES,
        "includes": [f"*.{ext}" for ext in IMAGE_EXTENSIONS],
    }


def _record_set(kind: Kind) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": kind,
        "description": f"The {kind} anchors: everything but the image.",
        "key": {"@id": f"{kind}/key"},
        "field": [_column(kind, column) for column in RECORDS],
    }


def _image_set(kind: Kind) -> dict[str, Any]:
    image = f"{kind}-image"
    files = {"fileSet": {"@id": f"{kind}-images"}}
    return {
        "@type": "cr:RecordSet",
        "@id": image,
        "description": f"The images of the {kind} anchors, by key.",
        "key": {"@id": f"{image}/key"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{image}/key",
                "description": "Key of the anchor that the image belongs to.",
                "dataType": "sc:Text",
                "source": {
                    **files,
                    "extract": {"fileProperty": "filename"},
                    "transform": {"regex": r"^(?:.*/)?([^/.]+)\.[a-z]+$"},
                },
            },
            {
                "@type": "cr:Field",
                "@id": f"{image}/image",
                "description": "The image.",
                "dataType": "sc:ImageObject",
                "source": {**files, "extract": {"fileProperty": "content"}},
            },
        ],
    }


def _column(kind: Kind, column: pa.Field) -> dict[str, Any]:
    known = AnchorRecord.model_fields.get(column.name)
    repeated = pa.types.is_list(column.type)
    description = known.description if known else "Where the member lies in the tar, in bytes."
    if column.name == "extra":
        description = "Fields that version 1.0 of the format does not know, as JSON."
    return {
        "@type": "cr:Field",
        "@id": f"{kind}/{column.name}",
        "description": description,
        "dataType": _data_type(column.type.value_type if repeated else column.type),
        **({"repeated": True} if repeated else {}),
        "source": {
            "fileSet": {"@id": f"{kind}-records"},
            "extract": {"column": column.name},
        },
    }


def _data_type(arrow: pa.DataType) -> str:
    if pa.types.is_integer(arrow):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(arrow) else "sc:Text"
