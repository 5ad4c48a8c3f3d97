"""What workers on other nodes need from the driver's environment: credentials, proxies, caches, endpoints.

Ray starts them with their node's environment. A hook sets the variables in each worker process when it starts. Its
values are in the cluster's own store, and not in the job's runtime environment, which Ray prints and its dashboard
shows. A variable that a node sets itself stays as it is: its caches may lie elsewhere.
"""

import os
from collections.abc import Callable
from typing import Final

CARRIED: Final = (
    "HF_TOKEN", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "SLUICE_CACHE", "SLUICE_STORAGE_PATIENCE",
    "GOOGLE_APPLICATION_CREDENTIALS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE",
)  # fmt: skip
CARRIED_PREFIXES: Final = ("AWS_", "AZURE_STORAGE_")
PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")  # in either case


def carried() -> dict[str, str]:
    """The variables of this process that workers need."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in CARRIED or name.startswith(CARRIED_PREFIXES) or name.upper() in PROXIES
    }


def setup_hook() -> Callable[[], None]:
    """A function that sets the variables in a worker process. It is pickled by value."""
    values = carried()

    def set_carried_variables() -> None:
        import os

        for name, value in values.items():
            os.environ.setdefault(name, value)

    return set_carried_variables
