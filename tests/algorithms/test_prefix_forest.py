import numpy as np
import pytest

from algorithms.prefix_forest import build_forest, match_nodes


def test_the_whole_forest_of_three_sequences():
    # 1-2-3, 1-2-4 and 1-5 share the root 1; the first two share 2.
    forest = build_forest([[1, 2, 4], [1, 5], [1, 2, 3]])
    assert forest.tokens.tolist() == [1, 2, 3, 4, 5]
    assert forest.parents.tolist() == [-1, 0, 1, 1, 0]
    assert forest.depths.tolist() == [0, 1, 2, 2, 1]
    assert forest.subtree_end.tolist() == [5, 4, 3, 4, 5]
    assert [path.tolist() for path in forest.paths] == [[0, 1, 3], [0, 4], [0, 1, 2]]


def test_equal_sequences_share_every_node_and_prefixes_are_no_leaves():
    forest = build_forest([[7, 8], [7, 8], [7], []])
    assert forest.tokens.tolist() == [7, 8]
    assert [path.tolist() for path in forest.paths] == [[0, 1], [0, 1], [0], []]


def test_roots_do_not_see_each_other():
    forest = build_forest([[3, 4], [1, 2]])
    assert forest.parents.tolist() == [-1, 0, -1, 2]
    assert forest.subtree_end.tolist() == [2, 2, 4, 4]


def test_nothing_makes_an_empty_forest():
    forest = build_forest([[], []])
    assert len(forest) == 0
    assert [len(path) for path in forest.paths] == [0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_random_forests_keep_what_they_promise(seed):
    chance = np.random.default_rng(seed)
    sequences = [chance.integers(0, 3, chance.integers(0, 9)).tolist() for _ in range(12)]
    forest = build_forest(sequences)
    prefixes = {tuple(sequence[: i + 1]) for sequence in sequences for i in range(len(sequence))}
    assert len(forest) == len(prefixes)
    own_path = {}
    for sequence, path in zip(sequences, forest.paths, strict=True):
        assert forest.tokens[path].tolist() == sequence
        assert forest.depths[path].tolist() == list(range(len(sequence)))
        assert forest.parents[path].tolist() == [-1, *path.tolist()][: len(path)]
        own_path.update({int(node): set(path[: i + 1].tolist()) for i, node in enumerate(path)})
    for query in range(len(forest)):
        seen = {key for key in range(len(forest)) if key <= query < forest.subtree_end[key]}
        assert seen == own_path[query]  # the mask lets a token see its own prefix and nothing else


@pytest.mark.parametrize("seed", range(20))
def test_matched_nodes_have_the_same_prefix(seed):
    chance = np.random.default_rng(seed)
    old, new = (
        build_forest([chance.integers(0, 2, chance.integers(1, 7)).tolist() for _ in range(5)]) for _ in range(2)
    )

    def prefixes(forest):
        found = {}
        for path in forest.paths:
            found.update({int(node): tuple(forest.tokens[path[: i + 1]].tolist()) for i, node in enumerate(path)})
        return found

    old_prefixes, new_prefixes = prefixes(old), prefixes(new)
    node_of = {prefix: node for node, prefix in old_prefixes.items()}
    expected = [node_of.get(new_prefixes[node], -1) for node in range(len(new))]
    assert match_nodes(new, old).tolist() == expected
