"""What every verb promises: one way to run it, help for every flag, one line for a mistake."""

import re

import pytest

from jobs import VERBS
from jobs.driver.command import JobConfig, config_of
from jobs.driver.encoder_training import EncoderConfig
from jobs.driver.ranker_training import RankerConfig
from tests.fixtures.runs import command
from tests.fixtures.verbs import call, config_class, flags_in


@pytest.mark.parametrize(
    ("config", "args"),
    [
        *((config_class(verb), [verb]) for verb in VERBS),
        (RankerConfig, ["train", "--method", "ranker"]),
        (EncoderConfig, ["train", "--method", "ranker-encoder"]),
    ],
    ids=[*VERBS, "ranker", "ranker-encoder"],
)
def test_every_flag_has_help(config, args, capsys):
    assert issubclass(config, JobConfig)
    assert [name for name, field in config.model_fields.items() if not field.description] == []
    assert call(*args, "--help") == 0
    shown = capsys.readouterr().out
    assert set(re.findall(r"^[│ ] (--[a-z0-9-]+)", shown, re.MULTILINE)) == flags_in(config)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("make_corpus --rows ten --output x", "Error parsing --rows: invalid literal for int() with base 10: 'ten'"),
        ("refine --input x --output y --t3 0", "Unrecognized options: --t3, 0"),
        ("export", "missing RUN, --output"),
        ("demos --demos x", "missing --calibration, --output"),
        ("sample --input", "Missing value for argument '--input'. Expected 1 values."),
        ("grade", "missing --input, --output"),
        ("train", "missing --method, --data, --output"),
        ("report", "missing RUN"),
    ],
)
def test_a_wrong_command_line_is_one_short_line_and_exit_status_2(line, complaint, capsys):
    verb, *args = line.split()
    assert call(verb, *args) == 2
    assert capsys.readouterr() == ("", f"{verb}: error: {complaint}; --help lists all flags\n")


def test_a_config_file_holds_flags_and_the_command_line_wins(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "input: in.jsonl\noutput: out\nnum-actors: 1:4\nmax_quarantined: 20\nt1: 1.02\ncolumns: {question: q}\n"
    )
    config = config_of("refine", ["--config", str(file), "--t1", "1.05"])
    assert (config.num_actors, config.max_quarantined, config.t1, config.columns) == (
        "1:4",
        "20",
        1.05,
        {"question": "q"},
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("t3: 1", "has unknown key 't3'; known are input, output, format"),
        ("t1: -1", "--t1 -1: Input should be greater than 0"),
        ("t1: [", "is not YAML"),
        ("- t1", "must hold a mapping of flags to values"),
    ],
)
def test_a_wrong_config_file_is_one_line(text, complaint, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert call("refine", "--config", file, "--input", "x", "--output", "y") == 2
    _, error = capsys.readouterr()
    assert error.startswith(f"refine: error: --config {file}")
    assert complaint in error
    assert len(error.splitlines()) == 1


def test_sluice_lists_the_verbs_in_the_order_of_the_work():
    done = command("jobs")
    assert done.returncode == 0
    listed = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [verb for verb, _ in listed] == list(VERBS)
    assert all(summary.endswith(".") for _, summary in listed)


def test_an_unknown_verb_names_the_verbs():
    done = command("jobs", "improve")
    assert done.returncode == 2
    assert done.stderr == f"sluice: unknown verb 'improve'; the verbs are {', '.join(VERBS)}\n"


def test_both_ways_to_run_a_verb_show_the_same_help():
    module, sluice = command("jobs.report", "--help"), command("jobs", "report", "--help")
    assert module.returncode == sluice.returncode == 0
    assert module.stdout.replace("python -m jobs.report", "sluice report", 1) == sluice.stdout
