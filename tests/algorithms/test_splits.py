"""The split of a problem: a hash of its question and the seed."""

from algorithms.splits import SPLITS, split_of


def test_splits_depend_on_the_question_and_the_seed_alone():
    names = [split_of(f"question {number}", (0.6, 0.3, 0.1), 1) for number in range(4000)]
    for name, fraction in zip(SPLITS, (0.6, 0.3, 0.1), strict=True):
        assert abs(names.count(name) / 4000 - fraction) < 0.03
    assert split_of("What  is\n2?", (0.8, 0.1, 0.1), 0) == split_of(" what is 2?", (0.8, 0.1, 0.1), 0)
    assert [split_of(f"question {number}", (0.6, 0.3, 0.1), 2) for number in range(4000)] != names
    assert {split_of(f"{number}", (0.0, 0.0, 1.0), 0) for number in range(50)} == {"held_out"}
