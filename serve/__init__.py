"""The graph that runs in Ray Serve replicas: a student, a ranker, and an ingress that votes.

    app           builds the graph: `serve run serve.app:build KEY=VALUE ...`
    settings      what it can be told
    adaptive      the ingress: a replica that answers HTTP
    student       a replica of a student: one engine
    ranker        a replica of the ranker
    protocol      what the ingress asks of students and rankers
    handles       students and the ranker behind Ray Serve's handles
    routing       which replica of a student draws a sample
    scaling       how many replicas a student needs
    service       from a request to what it is answered with
    solver        adaptive self-consistency on one question
    reading       reads and compares answers in processes that can be killed
    policies      which vote and stopping rule a request gets
    telemetry     metrics
    metrics_page  the metrics of all nodes as one page
    logs          where logs go
    api/          the OpenAI-compatible interface
    page/         the page at /

`python -m serve` builds and runs it, and tells a mistake in one line. config.yaml is a config for clusters, and
dashboard.json a dashboard for Grafana. What is decided is `algorithms.voting.online`; what draws is `actors.engines`.
"""
