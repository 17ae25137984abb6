"""Texts for finetune images: decoding, captioners, and the stage that runs them."""
