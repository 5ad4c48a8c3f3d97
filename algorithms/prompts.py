"""What a model is asked: a question in a template or in a conversation, with worked examples before it."""

from dataclasses import dataclass
from typing import Final

from algorithms.sampling import Message, Prompt

INSTRUCTION: Final = "Solve the problem step by step, and put the final answer within \\boxed{}."
QUESTION: Final = "{question}"


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a question becomes a prompt.

    With a `template` the prompt is a text: for each of `shots` (question, solution) the filled template with
    the solution behind it, a blank line, and at last the question's own. Without one it is a conversation in
    the model's chat template, `instruction` below every question.
    """

    template: str | None = None
    instruction: str = INSTRUCTION
    shots: tuple[tuple[str, str], ...] = ()

    def prompt(self, question: str) -> Prompt:
        """The prompt of one question."""
        if self.template is not None:
            worked = [self._filled(each) + solution + "\n\n" for each, solution in self.shots]
            return "".join(worked) + self._filled(question)
        messages: list[Message] = []
        for each, solution in self.shots:
            messages += [("user", self._asked(each)), ("assistant", solution)]
        return (*messages, ("user", self._asked(question)))

    def _filled(self, question: str) -> str:
        assert self.template is not None
        return self.template.replace(QUESTION, question)  # not str.format: LaTeX is full of braces

    def _asked(self, question: str) -> str:
        return f"{question}\n\n{self.instruction}" if self.instruction else question
