"""Messages arrive whole however their bytes are cut, and what is no message is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.distributed.messages import Garbled, Unpacker, packed

PLAIN = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=4)


@given(st.lists(st.tuples(PLAIN, st.binary(max_size=40)), max_size=5), st.integers(1, 30))
def test_messages_arrive_whole_however_they_are_cut(messages, size):
    """A message is yielded once its last byte is there, with its payload."""
    data = b"".join(packed(message, payload) + payload for message, payload in messages)
    unpacker, found = Unpacker(), []
    for start in range(0, len(data), size):
        found += unpacker.add(data[start : start + size])
    assert found == messages


@pytest.mark.parametrize("data", [b"Traceback (most recent call last):\n", b"\x02\0\0\0\0\0\0\0[]",
                                  b"\x02\0\0\0\0\0\0\0{x"])  # fmt: skip
def test_what_is_no_message_is_refused(data):
    """Text that a program printed, a list, and what is not JSON."""
    with pytest.raises(Garbled):
        list(Unpacker().add(data))
