"""What tests of rankers share."""

import pytest

from tests.fixtures.tiny_bert import write_tiny_bert


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A folder with a tiny encoder."""
    return write_tiny_bert(tmp_path_factory.mktemp("tiny_bert"))
