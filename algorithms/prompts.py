"""Prompts: a question in a text template or a conversation, after optional worked examples."""

from dataclasses import dataclass
from typing import Final

from algorithms.sampling import Message, Prompt

INSTRUCTION: Final = "Solve the problem step by step, and put the final answer within \\boxed{}."
QUESTION: Final = "{question}"


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How to turn a question into a prompt.

    With a `template`, the prompt is a text. Each (question, solution) in `shots` adds the filled template, the
    solution and a blank line; the filled template of the question comes last. Without a `template`, the prompt is
    a conversation for the model's chat template, and `instruction` follows every question.
    """

    template: str | None = None
    instruction: str = INSTRUCTION
    shots: tuple[tuple[str, str], ...] = ()

    def prompt(self, question: str) -> Prompt:
        """The prompt of one question."""
        if self.template is not None:
            return self.worked_examples + self._fill_template(question)
        messages: list[Message] = []
        for each, solution in self.shots:
            messages += [("user", self._with_instruction(each)), ("assistant", solution)]
        return (*messages, ("user", self._with_instruction(question)))

    @property
    def worked_examples(self) -> str:
        """What precedes the question in a prompt with a template."""
        return "".join(self._fill_template(each) + solution + "\n\n" for each, solution in self.shots)

    def _fill_template(self, question: str) -> str:
        assert self.template is not None
        return self.template.replace(QUESTION, question)  # str.format would fail on the braces of LaTeX

    def _with_instruction(self, question: str) -> str:
        return f"{question}\n\n{self.instruction}" if self.instruction else question
