"""Each stopping rule against a direct formula, its limits, and its invariances."""

import math
import pickle
import random

import numpy as np
import pytest
from scipy import stats

from algorithms.voting.gain import GainModel, num_basis, state_names
from algorithms.voting.stopping import (
    RULES,
    Beta,
    BetaWeighted,
    Cges,
    Fixed,
    Gain,
    Window,
    confidence_posterior,
    leads_with_probability,
)
from algorithms.voting.tally import Candidates, Count, tally_of

NUM_FEATURES = len(state_names(has_scores=False, has_posterior=False))
# Gain 0.1 in every state.
CONSTANT_GAIN = GainModel(
    "sc",
    16,
    has_scores=False,
    has_posterior=False,
    means=(0.0,) * NUM_FEATURES,
    scales=(1.0,) * NUM_FEATURES,
    weights=(0.1,) + (0.0,) * (num_basis(NUM_FEATURES) - 1),
)
ONE_OF_EACH = {
    "fixed": Fixed(5),
    "beta": Beta(),
    "window": Window(3),
    "cges": Cges(),
    "beta-weighted": BetaWeighted(),
    "gain": Gain(model=CONSTANT_GAIN),
}
each_rule = pytest.mark.parametrize("name", RULES)


def test_the_table_has_one_of_each():
    assert {name: type(rule) for name, rule in ONE_OF_EACH.items()} == RULES


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (4, 0), (3, 1), (5, 5), (2.7, 0.4), (12.25, 7.5)])
def test_beta_is_the_integral_over_the_upper_half(first, second):
    # P(x > 1/2) for x ~ Beta(v1 + 1, v2 + 1): an independent implementation, and numerical integration.
    found = float(leads_with_probability(np.array([0.0, second, first])))
    assert found == pytest.approx(stats.beta.sf(0.5, first + 1, second + 1))
    x = np.linspace(0, 1, 200_001)
    density = x**first * (1 - x) ** second
    assert found == pytest.approx(np.trapezoid(density * (x >= 0.5)) / np.trapezoid(density), abs=1e-4)


def test_beta_by_hand():
    # Beta(v + 1, 1) has P(x > 1/2) = 1 - 2 ** -(v + 1): 0.9375 for 3 equal answers, 0.96875 for 4.
    assert [Beta(0.95)(tally_of(Candidates([0] * count))) for count in (1, 2, 3, 4)] == [False, False, False, True]
    # 3 against 1: P(Binomial(5, 1/2) <= 3) = 26/32. Voteless samples and third classes do not matter.
    assert float(Beta().statistic(tally_of(Candidates([0, 0, 1, 0, None])))) == pytest.approx(26 / 32)
    assert float(Beta().statistic(tally_of(Candidates([0, 0, 1, 0, None, 2])))) == pytest.approx(26 / 32)
    assert float(Beta().statistic(tally_of(Candidates([0, 0, 1, 1])))) == pytest.approx(0.5)


def test_beta_weighted_counts_scores():
    tally = tally_of(Candidates([0, 1, 0, 2], [0.9, 0.6, 0.8, 0.1]))
    assert float(BetaWeighted().statistic(tally)) == pytest.approx(stats.beta.sf(0.5, 2.7, 1.6))
    # With all scores 1, it is beta.
    equal = tally_of(Candidates([0, 1, 0], [1.0, 1.0, 1.0]))
    assert float(BetaWeighted().statistic(equal)) == pytest.approx(float(Beta().statistic(equal)))


def test_window_stops_when_a_whole_window_agrees():
    classes = [0, 1, 1, 1, 1, 1, None, 1, 1]
    decisions = [Window(3)(tally_of(Candidates(classes[: index + 1]))) for index in range(len(classes))]
    # Windows: 0 1 1, then 1 1 1. Samples 2 to 4 agree as well, but they are no window.
    assert decisions == [False, False, False, False, False, True, False, False, False]
    assert Window(3)(tally_of(Candidates([None, None, None]))) is False


def cges_by_product(classes, scores):
    """The posterior over the classes and one answer not seen, as a product over samples."""
    answers = [*dict.fromkeys(classes), "not seen"]
    masses = [
        math.prod(
            score if stated == answer else (1 - score) / (len(answers) - 1)
            for stated, score in zip(classes, scores, strict=True)
        )
        for answer in answers
    ]
    return [mass / sum(masses) for mass in masses][:-1]


@pytest.mark.parametrize("seed", range(10))
def test_cges_is_the_normalised_product_of_confidences(seed):
    draw = random.Random(seed)
    classes = [draw.randrange(3) for _ in range(7)]
    scores = [draw.uniform(0.05, 0.95) for _ in classes]
    tally = tally_of(Candidates(classes, scores))
    assert confidence_posterior(tally) == pytest.approx(cges_by_product(classes, scores))
    assert float(Cges().statistic(tally)) == pytest.approx(max(cges_by_product(classes, scores)))


def test_cges_gives_a_single_answer_its_own_score():
    assert float(Cges().statistic(tally_of(Candidates([0], [0.97])))) == pytest.approx(0.97)
    assert Cges(0.95)(tally_of(Candidates([0], [0.97]))) is True


def test_gain_compares_with_the_price_of_the_remaining_samples():
    tally = tally_of(Candidates([0, 1, 0]))  # 13 samples remain
    # A gain of 0.1 pays for 13 samples at 0.0076, not at 0.0078: 0.1 / 13 = 0.00769.
    assert [Gain(price, exponent=1, model=CONSTANT_GAIN)(tally) for price in (0.0076, 0.0078)] == [False, True]
    # Or 13 ** 0.5 times the price: 0.1 / 3.606 = 0.0277.
    assert [Gain(price, model=CONSTANT_GAIN)(tally) for price in (0.027, 0.028)] == [False, True]


def test_gain_names_what_is_missing():
    with pytest.raises(ValueError, match="needs a model"):
        Gain()
    with pytest.raises(ValueError, match="learned for a budget of 16 samples, but maximum is 8"):
        Gain(model=CONSTANT_GAIN, maximum=8)
    with pytest.raises(ValueError, match="exponent=2 must be from 0 to 1"):
        Gain(model=CONSTANT_GAIN, exponent=2)


@each_rule
def test_it_never_stops_below_the_minimum_and_always_at_the_maximum(name):
    kind, keep = RULES[name], {"model": CONSTANT_GAIN, "threshold": 1.0} if name == "gain" else {"threshold": 1}
    rule = kind(minimum=6, maximum=16, **keep)
    agreeing, count = [], Count()
    for _ in range(16):
        count.add(0, 0.999)
        agreeing.append(rule(count.tally()))
    assert agreeing[:5] == [False] * 5
    assert agreeing[15] is True
    never = kind(**keep | {"threshold": {"fixed": 16, "window": 16, "gain": -1.0}.get(name, 1.0)})
    count = Count()
    decisions = []
    for index in range(16):
        count.add(index % 2, 0.5)
        decisions.append(never(count.tally()))
    assert decisions == [False] * 15 + [True]


def test_it_is_asked_only_after_each_wave():
    rule = Beta(0.8, minimum=4, maximum=10, wave=3)
    count, stops = Count(), []
    for number in range(1, 11):
        count.add(0)
        if rule(count.tally()):
            stops.append(number)
    assert stops == [6, 9, 10]  # waves end at 3, 6, 9; the minimum is 4, the maximum 10
    assert [rule.num_to_draw(seen) for seen in (0, 2, 3, 6, 8, 9, 10)] == [6, 4, 3, 3, 1, 1, 0]
    assert [Window(4).num_to_draw(seen) for seen in (0, 4, 14)] == [4, 4, 2]


@each_rule
@pytest.mark.parametrize("classes", [[], [None], [None] * 5])
def test_without_an_answer_only_fixed_and_gain_may_stop(name, classes):
    # `fixed` counts samples; this `gain` model expects 0.1, which pays for the rest. The others have no leader.
    assert ONE_OF_EACH[name](tally_of(Candidates(classes))) is (name == "fixed" and len(classes) == 5)


@each_rule
def test_the_numbering_of_the_classes_does_not_matter(name):
    classes, scores = [0, 1, 2, 1, None, 1, 1, 1, 1], [0.5, 0.9, 0.2, 0.8, None, 0.9, 0.6, 0.7, 0.9]
    renamed = [None if number is None else 10 - number for number in classes]
    rule = ONE_OF_EACH[name]
    assert float(rule.statistic(tally_of(Candidates(classes, scores)))) == float(
        rule.statistic(tally_of(Candidates(renamed, scores)))
    )


@pytest.mark.parametrize("name", [name for name in RULES if name != "window"])
def test_the_order_of_the_samples_does_not_matter(name):
    classes, scores = [0, 1, 2, 1, None, 1], [0.5, 0.9, 0.2, 0.8, None, 0.9]
    rule = ONE_OF_EACH[name]
    expected = float(rule.statistic(tally_of(Candidates(classes, scores))))
    draw = random.Random(0)
    for _ in range(20):
        order = draw.sample(range(6), 6)
        shuffled = Candidates([classes[i] for i in order], [scores[i] for i in order])
        assert float(rule.statistic(tally_of(shuffled))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rule", [Cges(), BetaWeighted()])
def test_a_rule_that_reads_scores_names_the_candidate_without_one(rule):
    with pytest.raises(ValueError, match="candidate 1 has no score"):
        rule(tally_of(Candidates([0, 1], [0.5, None])))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Beta(1.5), "threshold=1.5 must be a probability"),
        (lambda: Fixed(0), "threshold=0 must be a whole number"),
        (lambda: Window(2.5), "threshold=2.5 must be a whole number"),
        (lambda: Gain(math.nan, model=CONSTANT_GAIN), "threshold=nan must be a finite price"),
        (lambda: Beta(minimum=5, maximum=4), "1 <= minimum <= maximum is needed, got 5 and 4"),
        (lambda: Beta(wave=0), "wave=0 must be at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@each_rule
def test_it_survives_pickle(name):
    assert pickle.loads(pickle.dumps(ONE_OF_EACH[name])) == ONE_OF_EACH[name]
