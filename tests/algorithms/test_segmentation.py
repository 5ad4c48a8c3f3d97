"""Splitting texts into whole steps. Every case also checks that joining gives the text back."""

import json
import time

import pytest

from algorithms.markup import is_balanced, parse_markup
from algorithms.segmentation import SPLITS, split_steps
from tests.fixtures.runs import EXAMPLES

ALIGN = "\\begin{align*}\nx &= 3. \\\\\ny &= 4.\n\\end{align*}"
FENCE = "```python\ndef f():\n\n    return 1. \n```"
TABLE = "| n | n^2 |\n|---|-----|\n| 1 | 1 |"

CASES = {
    "newline": [
        ("a\nb\n\n c ", ["a", "b", "c"]),
        (f"We get\n{ALIGN}\nSo $x = 3$.", ["We get", ALIGN, "So $x = 3$."]),
        ("Since \\[\nx = 3\n\\]\nwe stop.", ["Since \\[\nx = 3\n\\]", "we stop."]),
        ("A $a\n+ b$ line.\nEnd.", ["A $a\n+ b$ line.", "End."]),
        (f"Code:\n{FENCE}\nDone.", ["Code:", FENCE, "Done."]),
        (f"A table:\n{TABLE}\nDone.", ["A table:", TABLE, "Done."]),
        ("[asy]\ndraw(A);\n\ndraw(B);\n[/asy]\nEnd.", ["[asy]\ndraw(A);\n\ndraw(B);\n[/asy]", "End."]),
        (
            "He buys:\n- 3 pens,\n- 4 pads and\n- 1 bag.\nThen he pays.",
            ["He buys:\n- 3 pens,\n- 4 pads and\n- 1 bag.", "Then he pays."],
        ),
        ("- Add 3 and 4.\n- Take 2.", ["- Add 3 and 4.", "- Take 2."]),
        ("1. It costs $5.\n2. He pays $3 more.", ["1. It costs $5.", "2. He pays $3 more."]),
    ],
    "paragraph": [
        ("a\nb\n \nc", ["a\nb", "c"]),
        (f"Code:\n\n{FENCE}\n\nDone.", ["Code:", FENCE, "Done."]),
        ("a $x$\n\nb $y$", ["a $x$", "b $y$"]),
        ("## An end\n\na\n\n**The end**\n\nb\n\n**c.**\n\nd", ["## An end\n\na", "**The end**\n\nb", "**c.**", "d"]),
    ],
    "sentence": [
        ("It is 3.5 m. So 2 rest! Is it? Yes.", ["It is 3.5 m. So 2 rest!", "Is it?", "Yes."]),
        ("Thus $x=1$. $y=2$ follows.", ["Thus $x=1$.", "$y=2$ follows."]),
        ("Let $f(x) = 2. Then 3$ be. Stop.", ["Let $f(x) = 2. Then 3$ be.", "Stop."]),
        ("We have \\[x = 3.\\]Then we stop.", ["We have \\[x = 3.\\]", "Then we stop."]),
        ("We have \\[x = 3,\\]so we stop.", ["We have \\[x = 3,\\]so we stop."]),
        ("We have \\[x = 3.\\] Then we stop.", ["We have \\[x = 3.\\]", "Then we stop."]),
        ("We have \\[x = 3\\] so that $y = 2$. End.", ["We have \\[x = 3\\] so that $y = 2$.", "End."]),
        ("St. James St. near Dr. Smith is old. He left.", ["St. James St. near Dr. Smith is old.", "He left."]),
        ("Take a few, e.g. 5 of them. Stop.", ["Take a few, e.g. 5 of them.", "Stop."]),
        (
            "J. R. Smith has $5. Then he pays $3. So $2 rest.",
            ["J. R. Smith has $5.", "Then he pays $3.", "So $2 rest."],
        ),
        ("1. Add 3 and 4. 2. Take 2.", ["1. Add 3 and 4.", "2. Take 2."]),
        ("Step 1. Add them. Step 2. Stop.", ["Step 1. Add them.", "Step 2. Stop."]),
        ("So x = 3. 5 are left. Done.", ["So x = 3.", "5 are left.", "Done."]),
        ("As 3! = 6 and 3! * 2! = 12, stop.", ["As 3! = 6 and 3! * 2! = 12, stop."]),
        ("They are 4, 8, 16. They double.", ["They are 4, 8, 16.", "They double."]),
        ("So 4 = 4. ✓ Thus 5 = 5. ✓\nDone.", ["So 4 = 4. ✓", "Thus 5 = 5. ✓", "Done."]),
        ("Is it? No. Let me see, cf. No. 5 here.", ["Is it?", "No.", "Let me see, cf. No. 5 here."]),
        ("1. Do it.\n   a. Add.\n   b. Take.", ["1. Do it.", "a. Add.", "b. Take."]),
        ("- $x = 1$\n- $y = 2$\n\nSo we stop.", ["- $x = 1$\n- $y = 2$", "So we stop."]),
        ("We get\n\n$x = 1$\n\nfor this:\n\n1 and 2", ["We get\n\n$x = 1$\n\nfor this:\n\n1 and 2"]),
        ("### An end\n\nWe stop.\n\n**All of it**\n\nStop.", ["### An end\n\nWe stop.", "**All of it**\n\nStop."]),
        ("It is `d['a. B']` here. Stop.", ["It is `d['a. B']` here.", "Stop."]),
        ("It pays \\textbf{well. Very well} here. End.", ["It pays \\textbf{well. Very well} here.", "End."]),
    ],
    "regex:;": [
        ("one;two; three;", ["one", "two", "three;"]),
        ("$a;b$;c", ["$a;b$", "c"]),
    ],
    "regex:(\n)": [("a\nb", ["a", "b"])],
}


@pytest.mark.parametrize(
    ("split", "text", "steps"), [(split, *case) for split, cases in CASES.items() for case in cases]
)
def test_steps_are_whole_and_give_the_text_back(split, text, steps):
    found = split_steps(text, split)
    assert list(found.steps) == steps
    assert rejoined(found) == text.strip()


def rejoined(found):
    return (
        "".join(step + gap for step, gap in zip(found.steps, (*found.separators, ""), strict=True))
        if found.steps
        else ""
    )


@pytest.mark.parametrize("text", ["", " \n "])
@pytest.mark.parametrize("split", SPLITS)
def test_nothing_has_no_steps(text, split):
    assert split_steps(text, split) == ((), ())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["math.jsonl", "chat.jsonl"])
def test_the_examples_are_cut_into_balanced_steps(name, split):
    texts = 0
    for line in (EXAMPLES / name).read_text().splitlines():
        for text in texts_in(json.loads(line)):
            found = split_steps(text, split)
            assert rejoined(found) == text.strip()
            assert not is_balanced(text) or all(map(is_balanced, found.steps))
            texts += 1
    assert texts > 10


def texts_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_in(part)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$x$ costs $5", True),
        ("$5 and $3, so $8", True),
        (r"\$5 and $x$", True),
        ("$5 + 3$", True),
        ("$a$$b$", True),
        ("$$a$$ and $b$", True),
        (r"\[ \text{if $x$} \]", True),
        (r"a \\[2pt] b", True),
        (r"\{1, 2", True),
        ("`{` opens", True),
        ("$x", False),
        (r"\[x", False),
        (r"x\]", False),
        ("{a", False),
        ("a}", False),
        (r"\begin{align} x", False),
        (r"\begin{align} x \end{array}", False),
        ("```\ncode", False),
        ("[asy] draw(A);", False),
        ("$a\n\nb$", False),
    ],
)
def test_what_opens_must_close(text, expected):
    assert is_balanced(text) is expected


@pytest.mark.parametrize("mark", ["$", "$5 {", "{", "\\[", "\\begin{align}", "[asy]", "\n```python\n", "|", "`"])
def test_the_time_to_parse_grows_with_the_length_only(mark):
    began = time.process_time()
    parse_markup(f"{mark} word " * 20_000)
    assert time.process_time() - began < 2


def test_spans_are_the_outermost_and_in_order():
    text = r"Let $x$ be \textbf{so $y$} and \[ \begin{array}{c} 1 \end{array} \]"
    spans = [text[span.start : span.end] for span in parse_markup(text).spans]
    assert spans == ["$x$", "{so $y$}", r"\[ \begin{array}{c} 1 \end{array} \]"]


@pytest.mark.parametrize(("split", "message"), [
    ("words", "unknown split 'words': use one of newline, paragraph, sentence or regex:PATTERN"),
    ("regex:(", "not a regular expression"),
])  # fmt: skip
def test_an_unknown_split_is_refused(split, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        split_steps("text", split)
