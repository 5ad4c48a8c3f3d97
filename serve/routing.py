"""Which replica of a student draws a sample: the one that holds the prompt's keys and values, by consistent hashing.

Ray Serve's `ConsistentHashRouter` does that. In Ray 2.60 it loses calls when one request makes several: it looks up a
waiting call by the id of the request that made it, which all samples of a vote share, so all but one wait for ever.
"""

from ray.serve._private.common import RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter


class PromptRouter(ConsistentHashRouter):
    """Consistent hashing by `session_id`, for any number of calls of one request."""

    def _get_pending_request_matching_internal_request_id(
        self, request_metadata: RequestMetadata | None = None
    ) -> PendingRequest | None:
        """The waiting call of exactly this metadata: every call has an object of its own."""
        waiting = (each for each in self._pending_requests_to_fulfill if each.metadata is request_metadata)
        return next((each for each in waiting if not each.future.done()), None)
