import math

import pytest

from algorithms.perplexity import perplexity, scored_tokens


def test_perplexity_is_the_exponential_of_the_mean():
    assert perplexity([math.log(2), math.log(8)]) == pytest.approx(4.0)  # sqrt(2 * 8)


@pytest.mark.parametrize(("losses", "expected"), [([], math.inf), ([800.0], math.inf), ([0.0], 1.0)])
def test_edge_cases(losses, expected):
    assert perplexity(losses) == expected


def test_nan_stays_nan():
    assert math.isnan(perplexity([0.5, math.nan]))


def test_a_token_counts_when_it_holds_any_character_of_the_span():
    offsets = [(0, 3), (3, 5), (5, 9), (9, 9)]
    assert scored_tokens(offsets, (4, 6)).tolist() == [False, True, True, False]
    assert scored_tokens(offsets, (5, 5)).tolist() == [False, False, False, False]


def test_special_tokens_count_only_without_a_span_and_the_first_token_never():
    offsets = [(0, 0), (0, 2), (2, 4), (0, 0)]
    assert scored_tokens(offsets, (0, 4)).tolist() == [False, True, True, False]
    assert scored_tokens(offsets, None).tolist() == [False, True, True, True]
    assert scored_tokens([(0, 2), (2, 4)], (0, 4)).tolist() == [False, True]
    assert scored_tokens([], None).tolist() == []
