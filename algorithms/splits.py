"""Splits by problem: every sample of a question falls on the same side, in every corpus and every run."""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

SPLITS: Final = ("train", "validation", "held_out")


def split_of(question: str, fractions: Sequence[float], seed: int) -> str:
    """The split of a question; `fractions` of train, validation and held out sum to 1.

    It depends on the question's text alone (not on case or spacing) and the seed, so that two corpora that
    share a question agree about it.
    """
    digest = hashlib.blake2b(
        f"{seed}\0{plain_question(question)}".encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    place = int.from_bytes(digest, "little") / 2**64
    for name, fraction in zip(SPLITS, fractions, strict=True):
        if place < fraction:
            return name
        place -= fraction
    return SPLITS[0]


def plain_question(question: str) -> str:
    """What is left of a question without case and spacing, which corpora that share it may not agree on."""
    return re.sub(r"\s+", " ", question).strip().lower()
