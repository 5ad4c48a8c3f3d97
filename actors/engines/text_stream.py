"""The text of a sample while its tokens arrive, in pieces that are never taken back."""

from collections.abc import Callable, Sequence


class TextStream:
    """Decodes a growing list of token ids.

    Two things are held back until more tokens decide: bytes that do not form a whole character yet, and text that may
    be the beginning of a stop text. Only the newest tokens are decoded, together with the ones before them, since a
    tokenizer may write a token differently at the beginning of a text.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = stops
        self._text = ""  # decoded so far
        self._num_sent = 0  # characters of it
        self._context = 0  # ids from here on are decoded again, as context of the newest
        self._decoded = 0  # ids before this one are in the text

    def push(self, ids: list[int]) -> str:
        """The next piece of text, "" if there is none yet. `ids` are all tokens so far."""
        before = self._decode(ids[self._context : self._decoded])
        after = self._decode(ids[self._context :])
        if not after.endswith("\ufffd") and len(after) > len(before):
            self._text += after[len(before) :]
            self._context, self._decoded = self._decoded, len(ids)
        return self._send(len(self._text) - self._num_held())

    def finish(self, text: str) -> str:
        """The last piece, given the sample's whole text."""
        return text[self._num_sent :]

    def _send(self, end: int) -> str:
        piece = self._text[self._num_sent : end]
        self._num_sent = max(self._num_sent, end)
        return piece

    def _num_held(self) -> int:
        """Characters at the end of the text that may begin a stop text."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-size:]) for stop in self._stops):
                return size
        return 0
