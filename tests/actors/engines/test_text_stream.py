"""Text that grows with its tokens: whole characters only, no part of a stop text, nothing taken back."""

import random

import pytest

from actors.engines.text_stream import TextStream


def decode_bytes(ids):
    """A tokenizer with a token for each byte."""
    return bytes(ids).decode("utf-8", "replace")


def push_all(ids, stops=(), decode=decode_bytes):
    """The piece after each token, and the stream."""
    stream = TextStream(decode, stops)
    return [stream.push(ids[: count + 1]) for count in range(len(ids))], stream


def test_a_character_comes_with_its_last_byte():
    pieces, _ = push_all(list("né🙂!".encode()))
    assert pieces == ["n", "", "é", "", "", "", "🙂", "!"]


def test_bytes_that_are_no_character_come_with_the_next_character():
    pieces, stream = push_all([*b"a", 0xF0, 0x9F, *b"b", 0xFF])
    assert pieces == ["a", "", "", "\ufffdb", ""]
    assert stream.finish("a\ufffdb\ufffd") == "\ufffd"


def test_text_that_may_begin_a_stop_text_is_held_back():
    pieces, _ = push_all(list(b"a two b tw"), ("twice",))
    assert pieces == ["a", " ", "", "", "two", " ", "b", " ", "", ""]


def test_the_longest_beginning_of_any_stop_text_is_held_back():
    pieces, _ = push_all(list(b"xababac"), ("ababc", "bad"))
    # "abab" may begin the first. Then "aba" may, and nothing that ends with "c".
    assert pieces == ["x", "", "", "", "", "ab", "abac"]


def test_what_was_held_back_comes_at_the_end():
    pieces, stream = push_all(list(b"so tw"), ("two",))
    assert (pieces, stream.finish("so tw")) == (["s", "o", " ", "", ""], "tw")


def test_the_end_cuts_what_was_held_back():
    pieces, stream = push_all(list(b"so tw"), ("two",))  # the token that completes "two" ends the sample
    assert ("".join(pieces), stream.finish("so ")) == ("so ", "")


def test_a_stream_without_tokens_is_its_whole_text():
    assert TextStream(decode_bytes).finish("") == ""
    assert TextStream(decode_bytes).finish("all") == "all"


def test_a_space_that_only_the_beginning_of_a_text_lacks_is_not_lost():
    words = ["▁So", "▁it", "▁is", "n't", "▁so"]

    def decode(ids):
        return "".join(words[each] for each in ids).replace("▁", " ").removeprefix(" ")

    pieces, _ = push_all([0, 1, 2, 3, 4], decode=decode)
    assert pieces == ["So", " it", " is", "n't", " so"]


def test_tokens_without_text_change_nothing():
    def decode(ids):
        return "".join("" if each == 0 else chr(each) for each in ids)  # 0 is a special token

    pieces, _ = push_all([0, *b"a", 0, 0, *b"bc", 0], decode=decode)
    assert pieces == ["", "a", "", "", "b", "c", ""]


def test_only_the_newest_tokens_are_decoded():
    lengths = []

    def decode(ids):
        lengths.append(len(ids))
        return decode_bytes(ids)

    push_all(list(b"a long text" * 9), decode=decode)
    assert max(lengths) == 2


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_text_are_the_text_up_to_its_stop(seed):
    chance = random.Random(seed)
    for _ in range(50):
        text = "".join(chance.choices("aabbc é🙂", k=chance.randint(1, 30)))
        stops = tuple("".join(chance.choices("abcé", k=chance.randint(1, 4))) for _ in range(chance.randint(0, 3)))
        stream, sent, ids = TextStream(decode_bytes, stops), "", []
        for byte in text.encode():
            ids.append(byte)
            if any(stop in decode_bytes(ids) for stop in stops):  # here an engine ends the sample
                break
            sent += stream.push(ids)
            assert text.startswith(sent)
        whole = decode_bytes(ids)
        cut = min((at for at in map(whole.find, stops) if at >= 0), default=None)
        assert sent + stream.finish(whole[:cut]) == whole[:cut]
