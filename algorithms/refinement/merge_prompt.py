"""The prompt for a merge of two steps, and what a model's reply to it says."""

import re
from typing import Final

from algorithms.refinement.requests import MergeRequest
from algorithms.sampling import Prompt

# The first example is the paper's (arXiv 2502.13260).
TASK: Final = """\
Two neighbouring steps of a worked solution are to become one step. Write one coherent step that keeps every fact, \
number and calculation of the two and is shorter than both together. Reply with the merged step alone, in the language \
of the steps.

Question: 4 of 40 children play chess. 3/4 of the others play football. How many play football?
Step 1: 40-4=36 children do not play chess.
Step 2: 36*3/4=27 of them play football.
Merged step: (40-4)*3/4=27 children play football.

Question: Mia is 8. Her brother is twice as old. How old is he in 5 years?
Step 1: We first need the age of Mia's brother now.
Step 2: Mia's brother is now 2*8=16 years old.
Merged step: Mia's brother is now 2*8=16 years old.

Question: {question}
Step 1: {first}
Step 2: {second}
Merged step:"""
LABEL: Final = re.compile(r"(?:\*\*)?(?:the )?merged step(?: is)?\s*:\s*(?:\*\*)?\s*", re.IGNORECASE)
FENCED: Final = re.compile(r"```\w*\n(.*?)\n?```", re.DOTALL)
QUOTES: Final = (("\"", "\""), ("“", "”"), ("'", "'"), ("`", "`"))  # fmt: skip


def merge_prompt(request: MergeRequest, *, is_chat: bool) -> Prompt:
    """A user's message for a chat model, or a text for a base model to continue."""
    text = TASK.format(question=request.question.strip(), first=request.first.strip(), second=request.second.strip())
    return (("user", text),) if is_chat else text


def line_end(request: MergeRequest) -> str:
    """What ends the merged step that a base model writes; it would go on with another example."""
    return "\n\n" if "\n" in request.first.strip() + request.second.strip() else "\n"


def merged_step(reply: str) -> str:
    """The merged step in a reply, without the label, the fence or the quotes that models put around it."""
    text = reply.strip()
    if fenced := FENCED.fullmatch(text):
        text = fenced[1].strip()
    text = LABEL.sub("", text, count=1) if LABEL.match(text) else text
    for opening, closing in QUOTES:
        if len(text) > 1 and text.startswith(opening) and text.endswith(closing) and opening not in text[1:-1]:
            text = text[1:-1].strip()
    return text
