"""A ranker's folder, OUTPUT/ranker of `jobs.train --method ranker`: what is in it, and loading it.

`ranker.json` says what kind of ranker it is, how its scores are calibrated, and with which version of Sluice's features
it was trained. The other files are the kind's own.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from actors.errors import UserError
from actors.ranking.boosted import BoostedRanker
from actors.ranking.protocol import Ranker
from actors.runs.folder import RANKER
from actors.runs.storage import Storage, open_storage
from algorithms.ranking.calibration import Calibration

FORMAT: Final = 1
DESCRIPTION: Final = "ranker.json"


def _load_encoder(folder: "RankerFolder", device: str, num_threads: int | None) -> Ranker:
    from actors.ranking.encoder import EncoderRanker  # torch and transformers, which the other kinds do without

    return EncoderRanker.load(folder, device, num_threads)


KINDS: Final[dict[str, Callable[["RankerFolder", str, int | None], Ranker]]] = {
    "boosted": BoostedRanker.load,
    "encoder": _load_encoder,
}
ON_GPU: Final = ("encoder",)  # kinds that can use one


@dataclass(frozen=True)
class RankerFolder:
    """A ranker on some storage. Picklable, so that it can travel to actors. `settings` are the kind's own."""

    storage: Storage
    kind: str
    calibration: Calibration
    settings: dict[str, Any]

    def save(self) -> None:
        """Write the description. It comes last: with it, the ranker is whole."""
        described = {"format": FORMAT, "kind": self.kind, "calibration": asdict(self.calibration), **self.settings}
        (self.storage / DESCRIPTION).write_bytes(json.dumps(described, indent=2).encode())

    def load(self, device: str = "cpu", num_threads: int | None = None) -> Ranker:
        """The ranker on a device. Raises UserError if it cannot score with this version of Sluice."""
        return KINDS[self.kind](self, device, num_threads)


def open_ranker(flag: str, uri: str) -> RankerFolder:
    """The ranker behind a flag: a run of `jobs.train --method ranker`, or its folder `ranker`. Raises UserError."""
    root = open_storage(uri)
    for storage in (root / RANKER, root):
        try:
            described = json.loads((storage / DESCRIPTION).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"{flag} {uri}: {DESCRIPTION} cannot be read: {error}") from None
        version, kind = described.pop("format", None), described.pop("kind", None)
        if version != FORMAT or kind not in KINDS:
            raise UserError(
                f"{flag} {uri} is a ranker of format {version} and kind {kind}; this version reads format {FORMAT} and "
                f"{', '.join(KINDS)}: train it again"
            )
        if missing := sorted(set(described.get("files", ())) - set(storage.names())):
            raise UserError(f"{flag} {uri} has lost {', '.join(missing)}: copy the whole folder, or train it again")
        return RankerFolder(storage, kind, Calibration(**described.pop("calibration")), described)
    raise UserError(f"{flag} {uri} holds no ranker: train one first, python -m jobs.train --method ranker")
