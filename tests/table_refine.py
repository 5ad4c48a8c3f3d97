"""`jobs.refine` with a table scorer, for tests that kill it: python -m tests.table_refine LOG SECONDS FLAGS..."""

import functools
import sys

from jobs import refine
from jobs.driver import command
from tests.table_scorer import TableScorer


def main():
    log, seconds = sys.argv[1], float(sys.argv[2])
    del sys.argv[1:3]
    make_scorer = functools.partial(TableScorer, seconds, token_budget=512, log=log)
    command.main(refine.RefineConfig, lambda config: refine.run(config, make_scorer), "", refine.recipe_defaults)


if __name__ == "__main__":
    main()
