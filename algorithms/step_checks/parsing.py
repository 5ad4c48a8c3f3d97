r"""Compile one side of a statement, in tokens, to a program for a stack machine.

The notation is that of solutions: LaTeX and plain arithmetic, with implied products (2x, 3(4)), mixed numbers,
numbers in a base (1011_2), percents, degrees and units. Whatever has two meanings that differ raises Unparsable,
unless `evaluation` can try both.
"""

from collections.abc import Sequence
from typing import Final

from algorithms.step_checks.commands import CommandReader
from algorithms.step_checks.expressions import READ_TWICE, Expression, Unparsable
from algorithms.step_checks.tokens import Token

MAX_DEPTH: Final = 30
MAX_TOKENS: Final = 400
FUNCTIONS: Final = frozenset("fghFGHPQpq")  # letters that are functions before a bracket

STARTS: Final = frozenset("v(fc")  # kinds of tokens that may follow a factor without a sign


def parse(tokens: Sequence[Token]) -> Expression:
    """The expression that the tokens spell. Raises Unparsable."""
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise Unparsable
    parser = _Parser(list(tokens))
    parser.sum()
    if parser.place != len(tokens):
        raise Unparsable
    program = parser.program
    numbers = [operation for operation in program if operation[0] == "n"]
    plain = len(numbers) == 1 and all(name in ("n", "neg", "unit", "%", "deg") for name, _ in program)
    first = next((token.text for token in tokens if token.kind == "n"), "")
    return Expression(
        program=tuple(program),
        names=frozenset(parser.names),
        units=frozenset(parser.units),
        special=frozenset(name for name, _ in program if name in READ_TWICE),
        decimals=len(first.partition(".")[2]) if plain else None,
        has_decimals=parser.has_decimals,
        text=tuple(token.text for token in tokens),
    )


class _Parser(CommandReader):
    def sum(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unparsable
        self.product()
        while (kind := self.kind()) in ("+", "-"):
            self.place += 1
            self.product()
            self.program.append((kind, ""))
        self.depth -= 1

    def product(self) -> None:
        self.signed()
        divided = False
        while True:
            kind = self.kind()
            if kind == "*":
                self.place += 1
                self.signed()
                self.program.append(("*", ""))
            elif kind == "/":
                name = self.take().text
                start = len(self.program)
                self.signed()
                self.program.append(("mod", "") if name == "%" else self.division(start))
                divided = name == "/"
            elif kind == "u":
                self.unit()
            elif kind in STARTS or (kind == "|" and not self.absolute) or (kind == "n" and self.before() == "!"):
                if divided:  # 1/2x
                    raise Unparsable
                self.factor_after()
            else:
                return

    def factor_after(self) -> None:
        """An implied product."""
        self.powered()
        self.program.append(("*", ""))

    def signed(self) -> None:
        if self.kind() == "-":
            self.place += 1
            self.powered()
            self.program.append(("neg", ""))
        else:
            self.powered()

    def powered(self) -> None:
        self.atom()
        while True:
            kind = self.kind()
            if kind == "^":
                self.place += 1
                if self.kind() == "d" or (self.kind() == "(" and self.degree_in_braces()):
                    self.take()
                    self.program.append(("deg", ""))
                    continue
                self.exponent()
                self.program.append(("^", ""))
                if self.kind() == "^":
                    raise Unparsable
            elif kind == "s":
                self.program += [("n", int(self.take().text)), ("^", "")]
            elif kind == "!":
                self.place += 1
                self.program.append(("!", ""))
            elif kind == "%":
                self.place += 1
                self.program.append(("%", ""))
            elif kind == "d":
                self.place += 1
                self.program.append(("deg", ""))
            else:
                return

    def degree_in_braces(self) -> bool:
        following = self.tokens[self.place + 1 : self.place + 3]
        if [token.kind for token in following] == ["d", ")"]:
            self.place += 2
            return True
        return False

    def exponent(self) -> None:
        token = self.tokens[self.place] if self.place < len(self.tokens) else None
        if token is None:
            raise Unparsable
        if token.text == "{":
            self.place += 1
            self.sum()
            self.expect(")", "}")
        elif token.kind == "-":
            self.place += 1
            self.atom()
            self.program.append(("neg", ""))
        elif token.kind in ("n", "v", "(", "c"):
            self.atom()
        else:
            raise Unparsable

    def unit(self) -> None:
        name = self.take().text
        self.units.add(name)
        self.program.append(("unit", name))
        exponent = self.tokens[self.place + 1 : self.place + 4]
        if self.kind() == "^":
            digits = [token.text for token in exponent if token.text not in ("{", "}")]
            if not exponent or not digits or digits[0] not in ("2", "3"):
                raise Unparsable
            self.place += 4 if exponent[0].text == "{" else 2
            self.program[-1] = ("unit", f"{name}^{digits[0]}")
        elif self.kind() == "s":
            self.program[-1] = ("unit", f"{name}^{self.take().text}")

    def atom(self) -> None:
        kind = self.kind()
        if kind == "n":
            self.number()
            if (
                self.kind() == "c"
                and self.tokens[self.place].text == "frac"
                and self.tokens[self.place - 1].kind == "n"
            ):
                self.fraction_after()
        elif kind == "v":
            self.variable()
        elif kind == "(":
            self.bracket()
        elif kind == "c":
            self.command()
        elif kind == "f":
            self.function()
        elif kind == "|":
            self.place += 1
            self.absolute += 1
            self.sum()
            self.expect("|")
            self.absolute -= 1
            self.program.append(("abs", ""))
        else:
            raise Unparsable

    def variable(self) -> None:
        name = self.take().text
        if self.kind() == "_":
            self.place += 1
            if self.kind() == "(" and self.tokens[self.place].text == "{":
                end = next((n for n in range(self.place, len(self.tokens)) if self.tokens[n].text == "}"), None)
                if end is None or end - self.place > 6:
                    raise Unparsable
                name += "_" + "".join([token.text for token in self.tokens[self.place + 1 : end]])
                self.place = end + 1
            elif self.kind() in ("n", "v"):
                name += "_" + self.take().text
            else:
                raise Unparsable
        if name[0] in FUNCTIONS:
            if self.kind() == "(" and self.tokens[self.place].text == "(":
                self.call(name)
                return
            if [token.text for token in self.tokens[self.place : self.place + 3]] == ["^", "{", "-"]:
                raise Unparsable  # an inverse function
        if name == "pi":
            self.program.append(("pi", ""))
            return
        self.names.add(name)
        self.program.append(("v", name))

    def call(self, name: str) -> None:
        self.place += 1
        start = len(self.program)
        self.sum()
        if self.kind() != ")":
            raise Unparsable
        self.place += 1
        if ("v", name) in self.program[start:]:
            raise Unparsable
        self.names.add(name + "()")
        self.program.append(("call", name))

    def fraction_after(self) -> None:
        r"""A fraction right after a number: a mixed number such as 2\frac{3}{4}, or a product."""
        start = len(self.program)
        is_whole = self.tokens[self.place - 1].text.isdigit()
        self.command()
        kinds = [name for name, _ in self.program[start:]]
        self.program.append(("mixed" if is_whole and kinds == ["n", "n", "/"] else "*", ""))

    def bracket(self) -> None:
        opening = self.take().text
        self.sum()
        count = 1
        while self.kind() == SEPARATORS.get(opening):
            self.place += 1
            self.sum()
            count += 1
        closing = self.take().text if self.kind() == ")" else ""
        if PAIRS.get(opening) != closing:
            raise Unparsable
        if count > 1:
            self.program.append(("tuple", count))
        elif opening in ("lfloor", "lceil"):
            self.program.append((opening[1:], ""))


PAIRS: Final = {"(": ")", "{": "}", "[": "]", "lfloor": "rfloor", "lceil": "rceil", "column": "column"}
SEPARATORS: Final = {"(": ",", "column": "l"}
