"""How many stages the cluster has room for: what a stage asks for at least, and what there is."""

from collections.abc import Mapping, Sequence
from typing import Final

from jobs.driver.cluster import READER_CPUS, Ask
from jobs.driver.command import JobConfig
from jobs.driver.corpus_run import range_of

NO_RAY: Final = ("make_corpus", "export")  # verbs that compute in their own process
READ_SLOTS: Final = 3  # of a local Ray, for the tasks of each stage


def ask_of(config: JobConfig, cores: int | None) -> Ask:
    """What a stage asks for at least. `cores` are those of this machine for a local Ray, None on a cluster."""
    for each in ("actor", "worker"):
        number = getattr(config, f"num_{each}s", None)
        if number is None:
            continue
        least, most = range_of(str(number))
        cpus = getattr(config, f"cpus_per_{each}") or (1 if cores is None else max(1, cores // most))
        reading = READER_CPUS if cores is None else 0
        return Ask(least * cpus + reading, least * getattr(config, f"gpus_per_{each}", 0.0))
    return Ask(1, 0.0)


def gpus_of(config: JobConfig) -> float:
    """The GPUs of a stage with all its actors."""
    for each in ("actor", "worker"):
        if (number := getattr(config, f"num_{each}s", None)) is not None:
            return range_of(str(number))[1] * getattr(config, f"gpus_per_{each}", 0.0)
    return 0.0


def has_room(ask: Ask, running: Sequence[Ask], resources: Mapping[str, float]) -> bool:
    """Whether a stage may start beside those that run. Alone it always may: its verb says what it waits for."""
    if not running:
        return True
    return all(
        getattr(ask, kind) + sum(getattr(each, kind) for each in running) <= resources.get(name, 0.0) + 1e-6
        for kind, name in (("cpus", "CPU"), ("gpus", "GPU"))
    )


def slots_for(asks: Sequence[Ask], cores: int, parallel: int | None) -> int:
    """CPU slots of a local Ray on which as many stages run at once as there is room for."""
    together, taken = 0, 0.0
    for cpus in sorted(ask.cpus for ask in asks):
        taken += cpus
        together += taken <= cores
    together = max(1, min(together, parallel or together))
    return together * (max(cores, int(max((ask.cpus for ask in asks), default=1) + 0.999)) + READ_SLOTS)
