"""A claim of a solution's text, and the counts of all its claims."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KINDS: Final = (
    "equality",  # numbers joined by =
    "approximation",  # numbers joined by a sign such as ≈
    "inequality",  # numbers joined by <, ≤, ≠ and the like
    "quantity",  # an equality with units, percents or degrees
    "vector",  # an equality of tuples or column vectors
    "identity",  # one expression with variables rewritten as another
    "substitution",  # an expression whose variables or functions have known values
    "equation",  # an equation that follows from the last one by algebra
    "root",  # a value that solves an equation stated before
    "congruence",  # residues and remainders
    "divisibility",  # divisors, multiples, greatest common divisors, primes
    "answer",  # the final answer is what the question asks to compute
    "words",  # sums, products, percents and the like stated in words
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What text[start:end] claims, and whether it holds.

    `kind` is one of KINDS. `verdict` is None if the claim cannot be checked, or if it may mean something else.
    """

    start: int
    end: int
    kind: str
    verdict: bool | None


def summary(claims: Sequence[Claim]) -> dict[str, int]:
    """Counts of true, false and unchecked claims: over all kinds, then for each kind. The keys are always the same."""
    counts = {f"{name}_{word}": 0 for name in ("claims", *KINDS) for word in ("true", "false", "unchecked")}
    for claim in claims:
        word = "unchecked" if claim.verdict is None else "true" if claim.verdict else "false"
        counts[f"claims_{word}"] += 1
        counts[f"{claim.kind}_{word}"] += 1
    return counts
