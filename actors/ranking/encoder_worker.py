"""The loop of a Ray Train worker that trains an encoder ranker: its samples, checkpoints, and the finished ranker.

A checkpoint holds the weights, those of the best epoch, and the optimizer's state.
"""

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint

from actors.ranking.encoder_files import load_network, save_network
from actors.ranking.encoder_trainer import EncoderPlan, EncoderTrainer
from actors.ranking.folder import RankerFolder
from actors.ranking.measuring import calibrated, measured
from actors.ranking.peers import Peers
from actors.ranking.token_store import GradedTokens, read_split
from actors.runs.folder import RunFolder
from actors.runs.metrics import MetricsLog
from actors.runs.session import check_session
from algorithms.ranking.encoder_head import EncoderNetwork
from algorithms.ranking.metrics import Bools, Floats, Ints

STATE: Final = "state.pt"
MEASURED: Final = ("validation", "held_out")


def train_encoder(config: dict[str, Any]) -> None:
    """Train on this worker's samples, from the last checkpoint on. `config` holds the plan, the run and the session.

    The first worker writes the ranker, once all of them have scored their samples of the other splits.
    """
    plan: EncoderPlan = config["plan"]
    run: RunFolder = config["run"]
    session: str = config["session"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device() if plan.device == "cuda" else torch.device("cpu")
    peers = Peers(context.get_world_rank(), context.get_world_size(), device)
    log = MetricsLog(run.metrics)
    latest: dict[str, float] = {}

    def on_log(step: int, metrics: dict[str, float]) -> None:
        latest.update(metrics)
        if peers.rank == 0:
            log.add(step, metrics)

    def on_epoch(state: dict[str, Any]) -> None:
        check_session(run, session)
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if peers.rank == 0:
                log.flush()  # before the checkpoint: what comes after it is logged again
                torch.save(state, Path(folder) / STATE)
                saved = Checkpoint.from_directory(folder)
            ray.train.report({"step": state["step"], **latest}, checkpoint=saved)

    train, *others = (
        read_split(run.examples, split, peers.rank, peers.size, only_pairs=split == "train")
        for split in ("train", *MEASURED)
    )
    torch.manual_seed(plan.seed)  # of the head's first weights
    network = load_network(plan.source)
    trainer = EncoderTrainer(plan, network, train, others[0], peers, on_log, on_epoch)
    state = _last_state()
    if peers.rank == 0:
        log.resume_at(state["step"] if state else 0)
    best_epoch = trainer.fit(state)
    scored = [_together(peers, trainer.scores(samples), samples) for samples in others]
    if peers.rank == 0:
        log.flush()
        check_session(run, session)
        _write(run, plan, network, best_epoch, dict(zip(MEASURED, scored, strict=True)))


def _last_state() -> dict[str, Any] | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
        return state


def _together(peers: Peers, scores: Floats, samples: GradedTokens) -> tuple[Floats, Bools, Ints]:
    """Scores, grades and problems of the samples of all workers."""
    parts = peers.gathered((scores, samples.right, samples.problems))
    scores, right, problems = (np.concatenate(each) for each in zip(*parts, strict=True))
    return scores, right, problems


def _write(
    run: RunFolder,
    plan: EncoderPlan,
    network: EncoderNetwork,
    best_epoch: int,
    scored: dict[str, tuple[Floats, Bools, Ints]],
) -> None:
    """Calibrate, measure and save."""
    calibration = calibrated(*scored["validation"][:2])
    facts = {
        split: measured(calibration(scores), right, problems)
        for split, (scores, right, problems) in scored.items()
        if len(scores)
    }
    run.ranker.make_folder()
    settings = {
        "model": plan.source.name,
        "loss": plan.loss,
        "window": plan.window,
        "width": network.head.logit.in_features,
        "best_epoch": best_epoch,
        "measured": facts,
        "files": save_network(network, plan.source.tokenizer, run.ranker),
    }
    RankerFolder(run.ranker, "encoder", calibration, settings).save()
