"""The OpenAI-compatible HTTP interface, on any service that answers.

    requests    what clients send: fields of OpenAI's interface, and the block `adaptive`
    replies     what they get
    errors      errors in OpenAI's shape, with their status
    protection  API keys, limits of size and concurrency, headers
    exchange    one request on its way to its reply
    routes      the FastAPI application

Nothing here knows Ray: `routes.create_api` takes a `serve.service.Service`.
"""
