"""How well a text fits an image: the cosine of what the encoder's two towers make of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.embedding.encoder import TextEncoder
from schemas.errors import UserError


def text_scores(
    encoder: TextEncoder, texts: Sequence[str], images: NDArray[np.float32]
) -> list[float]:
    """The cosine of each text and its image.

    Args:
        encoder: the text tower of the CLIP that embedded the images.
        texts: N of them, at least one; texts longer than the tower takes are cut.
        images: embeddings of unit length, [N, D]: line i is the image of text i.

    Returns:
        N cosines of four decimals, which batches of other texts, and other machines, agree on.

    Raises:
        UserError: text and image embeddings differ in their dimension.
    """
    rows = encoder.embed(list(texts)).astype(np.float64)
    if rows.shape[1] != images.shape[1]:
        raise UserError(
            f"texts by --encoder {encoder.info.name} have {rows.shape[1]} dimensions, the images' "
            f"embeddings {images.shape[1]}; name the encoder that made them."
        )
    cosines = np.einsum("nd,nd->n", rows, images.astype(np.float64))
    return [round(cosine, 4) for cosine in cosines.tolist()]
