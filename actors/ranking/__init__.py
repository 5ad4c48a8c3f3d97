"""Rankers: how likely each of some solutions is right.

    protocol  what every ranker offers
    folder    a ranker's folder: what is in it, and loading it
    boosted   LightGBM over facts of a solution (`algorithms.ranking.features`)
    fitting   the Ray Train worker that fits a boosted ranker

To add a ranker: a module with its class and, in `folder`, an entry for its kind.
"""
