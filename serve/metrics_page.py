"""/metrics: Sluice's metrics of every node, as Ray's agents export them, merged into one page for Prometheus."""

import asyncio
import re
import urllib.request
from collections.abc import Iterable
from typing import Final

import ray

PREFIX: Final = "ray_sluice_"
SECONDS: Final = 3.0
NAME: Final = re.compile(r"(?:# (?:HELP|TYPE) )?(\w+)")
SUFFIXES: Final = re.compile(r"_(?:bucket|count|sum|total|created)$")


async def metrics_text() -> str:
    """The metrics of all nodes that answer. A replica's numbers appear here within Ray's export interval (10 s)."""
    nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"] and node["MetricsExportPort"] > 0]
    urls = [f"http://{_host(node['NodeManagerAddress'])}:{node['MetricsExportPort']}/metrics" for node in nodes]
    pages = await asyncio.gather(*(asyncio.to_thread(_fetch, url) for url in urls))
    return merged(pages)


def merged(pages: Iterable[str]) -> str:
    """The lines of our metrics on several pages, each family together and described once, as Prometheus wants it."""
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for page in pages:
        for line in page.splitlines():
            found = NAME.match(line)
            if found is None or not found[1].startswith(PREFIX):
                continue
            if line.startswith("#"):
                heads.setdefault(found[1], {}).setdefault(line.split()[1], line)
            else:
                samples.setdefault(_family(found[1], heads), []).append(line)
    lines = [line for name in samples for line in (*heads.get(name, {}).values(), *samples[name])]
    return "".join(f"{line}\n" for line in lines)


def _family(name: str, heads: dict[str, dict[str, str]]) -> str:
    return name if name in heads else SUFFIXES.sub("", name)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as reply:
            return str(reply.read().decode())
    except OSError:  # a node that is going away
        return ""
