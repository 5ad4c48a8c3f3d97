r"""Read numbers from tokens: 1,000 and 3.5, mixed numbers, repeating decimals, numbers in a base (1011_2)."""

from dataclasses import dataclass, field
from fractions import Fraction

from algorithms.step_checks.expressions import Operation, Unparsable
from algorithms.step_checks.numbers import Value
from algorithms.step_checks.tokens import Token


@dataclass(slots=True)
class NumeralReader:
    """A place in a row of tokens, and the program compiled so far."""

    tokens: list[Token]
    place: int = 0
    depth: int = 0
    absolute: int = 0
    program: list[Operation] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    has_decimals: bool = False

    def kind(self) -> str:
        """The kind of the next token; "" at the end."""
        return self.tokens[self.place].kind if self.place < len(self.tokens) else ""

    def before(self) -> str:
        """The kind of the last token taken."""
        return self.tokens[self.place - 1].kind

    def take(self) -> Token:
        """Take the next token."""
        self.place += 1
        return self.tokens[self.place - 1]

    def expect(self, kind: str, text: str = "") -> None:
        """Take a token that must be there."""
        if self.kind() != kind or (text and self.tokens[self.place].text != text):
            raise Unparsable
        self.place += 1

    def number(self) -> None:
        """A number in any notation."""
        text = self.take().text
        digits = "".join([character for character in text if character.isdigit() or character == "."])
        following = self.tokens[self.place : self.place + 5]
        if following and following[0].kind == "_":
            self._based(digits)
        elif following and following[0].text == "overline" and "." in digits:
            self._repeating(digits)
        elif following and following[0].kind == "n":
            self._beside_a_number(digits)
        elif "." in digits:
            self.has_decimals = True
            self.program.append(("n", _reduced(Fraction(digits))))
        else:
            self.program.append(("n", int(digits)))

    def _based(self, digits: str) -> None:
        """1011_2 and 1011_{2}."""
        self.place += 1
        braces = self.kind() == "(" and self.tokens[self.place].text == "{"
        self.place += braces
        if self.kind() != "n":
            raise Unparsable
        base = self.take().text
        if braces:
            self.expect(")", "}")
        if (
            not digits.isdigit()
            or not base.isdigit()
            or not 2 <= int(base) <= 10
            or max(digits) >= str(int(base)) != "10"
        ):
            raise Unparsable
        self.program += [("n", int(digits, int(base))), ("label", "")]

    def _repeating(self, digits: str) -> None:
        r"""0.1\overline{6}."""
        self.place += 1
        self.expect("(", "{")
        if self.kind() != "n":
            raise Unparsable
        cycle = self.take().text
        self.expect(")", "}")
        if not cycle.isdigit() or len(cycle) > 20:
            raise Unparsable
        start, _, shown = digits.partition(".")
        scale = 10 ** len(shown)
        value = Fraction(int(start + shown), scale) + Fraction(int(cycle), (10 ** len(cycle) - 1) * scale)
        self.program += [("n", value), ("n", 1), ("*", "")]

    def _beside_a_number(self, digits: str) -> None:
        """2 3/4 is a mixed number; other numbers side by side are none."""
        kinds = [token.kind for token in self.tokens[self.place : self.place + 4]]
        if kinds[:3] != ["n", "/", "n"] or kinds[3:] in (["*"], ["/"], ["^"], ["("]) or not digits.isdigit():
            raise Unparsable
        top, bottom = self.tokens[self.place].text, self.tokens[self.place + 2].text
        if not (top.isdigit() and bottom.isdigit() and int(top) < int(bottom)):
            raise Unparsable
        self.place += 3
        self.program += [("n", int(digits)), ("n", int(top)), ("n", int(bottom)), ("/", ""), ("mixed", "sum")]


def _reduced(value: Fraction) -> Value:
    return value.numerator if value.denominator == 1 else value
