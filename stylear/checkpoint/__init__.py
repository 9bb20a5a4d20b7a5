"""Recognises every layout of weights on disk by its keys and shapes, and loads it; says what is missing."""

from .files import WeightFile, open_weights, weight_files
from .load import (
    find_tokenizer,
    is_merged,
    load_adapter,
    load_base,
    load_image_encoder,
    load_segmenter,
    load_vqgan,
    trained_size,
    trained_words,
)
from .parts import PARTS, Found, Place, find, holds, parts_in
from .save import save_weights

__all__ = [
    "PARTS",
    "Found",
    "Place",
    "WeightFile",
    "find",
    "find_tokenizer",
    "holds",
    "is_merged",
    "load_adapter",
    "load_base",
    "load_image_encoder",
    "load_segmenter",
    "load_vqgan",
    "open_weights",
    "parts_in",
    "save_weights",
    "trained_size",
    "trained_words",
    "weight_files",
]
