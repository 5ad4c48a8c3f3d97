"""An encoder ranker: windows, pairs, batches, scores, and what it learns."""

import io

import numpy as np
import pytest
import torch

from actors.errors import UserError
from actors.models.source import ModelSource
from actors.ranking.encoder import EncoderRanker, raw_scores
from actors.ranking.encoder_files import load_network, save_network
from actors.ranking.encoder_trainer import EncoderPlan, EncoderTrainer, rate_at
from actors.ranking.folder import RankerFolder, open_ranker
from actors.ranking.pairs import cut_batches, draw_pairs, pair_batches
from actors.ranking.peers import Peers
from actors.ranking.token_store import GradedTokens, TokenStore
from actors.ranking.tokens import Marks, SolutionTokenizer, Tokens, fit_window, marks_of
from actors.runs.storage import open_storage
from algorithms.ranking.calibration import Calibration
from algorithms.ranking.metrics import count_pairs
from algorithms.ranking.solutions import Solution

MARKS = Marks((101,), (102,), (102,))


@pytest.mark.parametrize(
    ("question", "solution", "window", "expected"),
    [
        # Everything fits: 2 + 3 tokens and 3 marks.
        ([1, 2], [5, 6, 7], 8, Tokens([101, 1, 2, 102, 5, 6, 7, 102], 4, 7, False)),
        # A window of 9 has room for 6. The question keeps half of it, and the solution its end.
        ([1, 2, 3, 4], [5, 6, 7, 8], 9, Tokens([101, 2, 3, 4, 102, 6, 7, 8, 102], 5, 8, True)),
        # A short question stays whole.
        ([1], [5, 6, 7, 8, 9, 10], 9, Tokens([101, 1, 102, 6, 7, 8, 9, 10, 102], 3, 8, True)),
        # A short solution leaves room for more of the question than half.
        ([1, 2, 3, 4, 5, 6], [9], 9, Tokens([101, 2, 3, 4, 5, 6, 102, 9, 102], 7, 8, True)),
        ([], [], 9, Tokens([101, 102, 102], 2, 2, False)),
    ],
)
def test_what_does_not_fit_loses_its_beginning(question, solution, window, expected):
    assert fit_window(question, solution, MARKS, window) == expected


def test_pairs_depend_on_seed_epoch_and_problem_alone():
    right = np.array([True, False, True, False, False, True, True])
    problems = np.array([7, 7, 7, 7, 3, 3, 9], np.uint64)  # 2 x 2 pairs, 1 x 1, and a problem without a wrong sample
    every = draw_pairs(right, problems, None, 0, 1)
    assert sorted(map(tuple, every.tolist())) == [(0, 1), (0, 3), (2, 1), (2, 3), (5, 4)]
    one = draw_pairs(right, problems, 1, 0, 1)
    assert len(one) == 2
    assert {tuple(pair) for pair in one.tolist()} <= {tuple(pair) for pair in every.tolist()}
    assert draw_pairs(right, problems, 1, 0, 1).tolist() == one.tolist()
    assert len({str(draw_pairs(right, problems, 1, 0, epoch).tolist()) for epoch in range(20)}) > 1
    alone = draw_pairs(right[:4], problems[:4], 1, 0, 1)  # as a worker that has this problem alone
    assert alone.tolist() in [[pair] for pair in one.tolist()]
    assert len(draw_pairs(right, problems, 3, 0, 1)) == 4
    assert draw_pairs(right[6:], problems[6:], 1, 0, 1).shape == (0, 2)


def test_batches_hold_each_item_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(5, 60, 500)
    batches = cut_batches(lengths, 200)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(batch) * lengths[batch].max() <= 200 for batch in batches)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.05 * lengths.sum()
    assert [batch.tolist() for batch in cut_batches(np.array([900, 3]), 200)] == [[1], [0]]  # longer than a batch
    pairs = np.arange(500).reshape(250, 2)
    made = pair_batches(pairs, lengths, 400, np.random.default_rng(1))
    assert sorted(np.concatenate(made).tolist()) == pairs.tolist()
    assert all(2 * len(batch) * lengths[batch].max() <= 400 for batch in made)


def test_a_batch_knows_padding_and_the_tokens_of_each_solution():
    store = TokenStore.of([Tokens([9, 1, 9, 4, 5, 9], 3, 5, False), Tokens([9, 9, 6, 9], 2, 3, False)])
    batch = store.batch([1, 0])
    assert batch.tokens_BT.tolist() == [[9, 9, 6, 9, 0, 0], [9, 1, 9, 4, 5, 9]]
    assert batch.attention_BT.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert batch.solution_BT.int().tolist() == [[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]]


def test_the_learning_rate_rises_and_falls():
    assert [rate_at(progress, 0.2) for progress in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 1.0, 0.5, 0.0])
    assert rate_at(0.25, 0.0) == 0.75


def plan(model, **settings):
    usual = {
        "source": ModelSource(model),
        "window": 64,
        "loss": "power",
        "power": 3.0,
        "pairs_per_problem": 2,
        "epochs": 4,
        "patience": 4,
        "learning_rate": 3e-3,
        "head_learning_rate": 3e-3,
        "warmup": 0.1,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "dropout": True,
        "tokens_per_batch": 512,
        "seed": 0,
        "log_every": 5,
    }
    return EncoderPlan(**usual | settings)


def samples(model, count, first=0):
    """Problems with two right and two wrong solutions. A right one has the word `so` where a wrong one has `um`."""
    chance = np.random.default_rng(first)
    solutions, right, problems = [], [], []
    for number in range(first, first + count):
        for is_right in (True, False, True, False):
            words = chance.choice(list("abcdef"), chance.integers(3, 9)).tolist()
            words.insert(int(chance.integers(len(words))), "so" if is_right else "um")
            solutions.append(Solution(f"q {number}", " ".join(words), None))
            right.append(is_right)
            problems.append(number)
    store = TokenStore.of(SolutionTokenizer(ModelSource(model).tokenizer, 64)(solutions))
    return solutions, GradedTokens(store, np.array(right), np.array(problems, np.uint64))


def accuracy(scores, graded):
    return count_pairs(np.array(scores), graded.right, graded.problems).accuracy


@pytest.fixture(scope="module")
def trained(tiny_bert):
    """A network that has learned the planted word, and what was logged."""
    torch.manual_seed(0)
    network, logs, states = load_network(ModelSource(tiny_bert)), [], []
    parts = samples(tiny_bert, 60)[1], samples(tiny_bert, 20, first=100)[1]
    trainer = EncoderTrainer(
        plan(tiny_bert),
        network,
        *parts,
        Peers(),
        lambda *log: logs.append(log),
        lambda each: states.append(copied(each)),
    )
    best = trainer.fit()
    return network.eval(), best, logs, states, parts


def copied(state):
    """As a checkpoint keeps it: training changes the tensors in place."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def test_it_learns_a_planted_word(trained, tiny_bert):
    network, best, logs, _, _ = trained
    unseen = samples(tiny_bert, 30, first=500)[1]
    assert accuracy(raw_scores(network, unseen.store, 1024, torch.device("cpu")), unseen) > 0.95
    measured = [each["validation_pair_accuracy"] for _, each in logs if "validation_pair_accuracy" in each]
    assert len(measured) == 4
    assert measured[best - 1] == max(measured)
    losses = [each["loss"] for _, each in logs if "loss" in each]
    assert losses[-1] < losses[0] / 2


def test_training_that_resumes_ends_as_one_that_never_stopped(trained, tiny_bert):
    network, best, _, states, parts = trained
    torch.manual_seed(99)
    other = load_network(ModelSource(tiny_bert))
    assert EncoderTrainer(plan(tiny_bert), other, *parts, Peers()).fit(states[1]) == best
    expected = network.state_dict()
    for name, each in other.state_dict().items():
        assert torch.equal(each.cpu(), expected[name]), name


def test_training_stops_when_validation_no_longer_improves(trained, tiny_bert):
    *_, parts = trained
    logs = []
    network = load_network(ModelSource(tiny_bert))
    still = plan(tiny_bert, learning_rate=1e-12, head_learning_rate=1e-12, patience=1, epochs=9)
    assert EncoderTrainer(still, network, *parts, Peers(), lambda *log: logs.append(log)).fit() == 1
    assert sum("validation_pair_accuracy" in each for _, each in logs) == 2


def test_weights_that_are_not_finite_end_training_in_one_line(trained, tiny_bert):
    *_, parts = trained
    network = load_network(ModelSource(tiny_bert))
    with torch.no_grad():
        network.head.logit.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="is not finite: lower --learning-rate"):
        EncoderTrainer(plan(tiny_bert), network, *parts, Peers()).fit()


@pytest.fixture
def saved(trained, tiny_bert, tmp_path):
    """The folder of the trained ranker."""
    storage = open_storage(str(tmp_path / "ranker"))
    storage.make_folder()
    files = save_network(trained[0], ModelSource(tiny_bert).tokenizer, storage)
    RankerFolder(storage, "encoder", Calibration(a=0.5), {"window": 64, "files": files}).save()
    return tmp_path / "ranker"


def test_a_loaded_ranker_scores_as_the_trained_one_in_any_grouping(trained, saved, tiny_bert):
    solutions, graded = samples(tiny_bert, 20, first=900)
    ranker = open_ranker("--ranker", str(saved)).load()
    assert isinstance(ranker, EncoderRanker)
    scores = ranker.score(solutions)
    raw = raw_scores(trained[0], graded.store, 1024, torch.device("cpu"))
    assert scores == pytest.approx(Calibration(a=0.5)(raw).tolist(), abs=1e-5)
    assert scores == pytest.approx([ranker.score([each])[0] for each in solutions], abs=1e-5)
    assert ranker.score([]) == []
    assert all(0 < score < 1 for score in ranker.score([Solution("q", "", None), Solution("", "so " * 500, None)]))


def test_a_long_solution_is_judged_by_its_end(saved):
    ranker = open_ranker("--ranker", str(saved)).load()
    right, wrong = ranker.score([Solution("q", "a b c " * 100 + word, None) for word in ("so", "um")])
    assert right > wrong
    one, other = ranker.score([Solution("q", word + " a b c" * 100, None) for word in ("so", "um")])
    assert one == pytest.approx(other, abs=1e-6)


def test_a_ranker_that_has_lost_a_file_is_told_in_one_line(saved):
    (saved / "weights.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"cannot be loaded: .*train it again"):
        open_ranker("--ranker", str(saved)).load()
    (saved / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"has lost weights\.safetensors: copy the whole folder, or train it again"):
        open_ranker("--ranker", str(saved))


def test_a_decoder_can_be_the_trunk(byte_model):
    source = ModelSource(byte_model)
    marks = marks_of(source.tokenizer)
    assert (len(marks.start), len(marks.separator), len(marks.stop)) == (0, 1, 0)  # its end-of-text token separates
    torch.manual_seed(0)
    network = load_network(source).eval()
    solutions = [Solution("What is 1 + 1?", text, None) for text in ("2", "It is three, I think.")]
    ranker = EncoderRanker(network, SolutionTokenizer(source.tokenizer, 128), Calibration())
    assert ranker.score(solutions) == pytest.approx([ranker.score([each])[0] for each in solutions], abs=1e-5)
