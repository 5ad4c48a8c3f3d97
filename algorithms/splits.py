"""Splits by problem: all samples of a question are in the same split, in every corpus and every run."""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

SPLITS: Final = ("train", "validation", "held_out")


def split_of(question: str, fractions: Sequence[float], seed: int) -> str:
    """The split of a question. The `fractions` of train, validation and held out sum to 1.

    The split depends only on the seed and the text of the question, ignoring case and spacing. So two corpora
    put a shared question in the same split.
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
    """A question in lower case with normalised spacing, because case and spacing vary between corpora."""
    return re.sub(r"\s+", " ", question).strip().lower()
