r"""Read commands and functions from tokens: \frac, \sqrt, \binom, \sin, \log_2, gcd."""

from typing import Final

from algorithms.step_checks.expressions import Operation, Unparsable
from algorithms.step_checks.numerals import NumeralReader
from algorithms.step_checks.tokens import Token

INVERSES: Final = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}


class CommandReader(NumeralReader):
    """Reads commands; a subclass reads what stands between them."""

    def sum(self) -> None:
        """Terms joined by + and -."""
        raise NotImplementedError

    def signed(self) -> None:
        """A factor, perhaps with a minus sign."""
        raise NotImplementedError

    def powered(self) -> None:
        """A factor with its exponents and marks."""
        raise NotImplementedError

    def exponent(self) -> None:
        """What follows ^."""
        raise NotImplementedError

    def bracket(self) -> None:
        """An expression in brackets."""
        raise NotImplementedError

    def division(self, start: int) -> Operation:
        """The operation of dividing by what was compiled since `start`."""
        return ("/v" if any(name == "v" for name, _ in self.program[start:]) else "/", "")

    def _argument(self) -> None:
        r"""An argument of a command: in braces, one digit, or one letter: \frac12."""
        token = self.tokens[self.place] if self.place < len(self.tokens) else None
        if token is None:
            raise Unparsable
        if token.text == "{":
            self.bracket()
        elif token.kind == "n" and token.text.isdigit():
            first, rest = token.text[0], token.text[1:]
            self.place += 1
            if rest:
                self.place -= 1
                self.tokens[self.place] = Token("n", rest, token.start + 1, token.end)
            self.program.append(("n", int(first)))
        elif token.kind == "v":
            self.place += 1
            self.names.add(token.text)
            self.program.append(("v", token.text))
        elif token.kind == "c":
            self.command()
        else:
            raise Unparsable

    def command(self) -> None:
        """A command with its arguments."""
        token = self.take()
        if token.text == "frac":
            self._argument()
            start = len(self.program)
            self._argument()
            self.program.append(self.division(start))
            if self.kind() == "n":
                raise Unparsable  # \frac123
        elif token.text == "binom":
            self._argument()
            self._argument()
            self.program.append(("binom", ""))
        elif token.text == "sqrt":
            self._root()
        else:
            raise Unparsable

    def _root(self) -> None:
        degree = 2
        if self.kind() == "(" and self.tokens[self.place].text == "[":
            self.place += 1
            text = self.take().text if self.kind() == "n" else ""
            if not text.isdigit() or len(text) > 2:
                raise Unparsable
            degree = int(text)
            self.expect(")", "]")
        if self.kind() == "(" and self.tokens[self.place].text == "(":
            self.bracket()
        else:
            self._argument()
            if self.kind() == "n":
                raise Unparsable  # \sqrt13
        self.program += [("n", degree), ("root", "")]

    def function(self) -> None:
        """A function with its argument, and a power between them: \\sin^2 x."""
        name = self.take().text
        if name in ("gcd", "lcm"):
            self.expect("(", "(")
            self.sum()
            count = 1
            while self.kind() == ",":
                self.place += 1
                self.sum()
                count += 1
            self.expect(")", ")")
            if count == 1:  # gcd(84,112 - 84), where 84,112 looks like one number
                raise Unparsable
            self.program += [(name, "")] * (count - 1)
            return
        if name == "log" and self.kind() == "_":
            self.place += 1
            self._argument()
            self._applied()
            self.program.append(("log_", ""))
            return
        if self.kind() == "^":
            if [token.text for token in self.tokens[self.place : self.place + 5]] == ["^", "{", "-", "1", "}"]:
                if name not in INVERSES:
                    raise Unparsable
                self.place += 5
                self._applied()
                self.program.append((INVERSES[name], ""))
                return
            self.place += 1
            if self.kind() == "-":
                raise Unparsable
            program = self.program
            self.program = []
            self.exponent()
            exponent, self.program = self.program, program
            self._applied()
            self.program += [(name, ""), *exponent, ("^", "")]
            return
        self._applied()
        self.program.append((name, ""))

    def _applied(self) -> None:
        """The argument of a function: one bracket, or a product of numbers and letters without a bracket."""
        kind = self.kind()
        if kind == "(":
            self.powered()
            return
        self.signed()
        if self.before() == "n" and self.kind() in ("c", "("):
            raise Unparsable  # \\log_3 27\\sqrt3
        while self.kind() == "v":  # \\sin 2x
            self.powered()
            self.program.append(("*", ""))
