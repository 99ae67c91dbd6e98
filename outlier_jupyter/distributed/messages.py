"""Messages between the driving process and a rank: a JSON object and bytes, nothing that runs.

Eight bytes come first, the lengths of both. A rank reads them from its standard input and answers
on its standard output; over ssh these are the connection's own, encrypted ones.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, TypeAlias

LENGTHS = struct.Struct("<II")
CHUNK = 1 << 20
"""Bytes taken from a connection at once."""
MOST = 1 << 30
"""The longest message, in bytes."""

Message: TypeAlias = dict[str, Any]
Payload: TypeAlias = bytes | bytearray | memoryview


class Garbled(ValueError):
    """What was received is no message."""


def packed(message: Message, payload: Payload = b"") -> bytes:
    """A message as it travels, without its payload, which follows."""
    text = json.dumps(message).encode()
    return LENGTHS.pack(len(text), len(payload)) + text


class Unpacker:
    """Takes bytes as they arrive, and yields the messages that are complete."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, data: bytes) -> Iterator[tuple[Message, bytes]]:
        """Yield the messages that `data` completes.

        Raises:
            Garbled: it is none of ours, as when a program prints to the connection.
        """
        self._bytes += data
        while len(self._bytes) >= LENGTHS.size:
            text, nbytes = LENGTHS.unpack_from(self._bytes)
            if text > MOST or nbytes > MOST:
                raise Garbled(f"a message of {text + nbytes:,} bytes")
            end = LENGTHS.size + text + nbytes
            if len(self._bytes) < end:
                return
            message = _object(self._bytes[LENGTHS.size : LENGTHS.size + text])
            payload = bytes(self._bytes[LENGTHS.size + text : end])
            del self._bytes[:end]
            yield message, payload


def _object(text: bytes | bytearray) -> Message:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Garbled("it is not JSON") from error
    if not isinstance(found, dict):
        raise Garbled("it is no JSON object")
    return found


class Connection:
    """The driving process's end of a connection to a rank; sends wait at most `seconds`."""

    def __init__(self, ours: socket.socket, seconds: float) -> None:
        self._socket, self._unpacker = ours, Unpacker()
        ours.settimeout(seconds)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, message: Message, payload: Payload = b"") -> None:
        """Send one message.

        Raises:
            OSError: the rank has ended, or takes nothing (TimeoutError).
        """
        self._socket.sendall(packed(message, payload))
        if payload:
            self._socket.sendall(payload)

    def receive(self) -> list[tuple[Message, bytes]]:
        """The messages that are complete now; call it when there is something to read.

        Raises:
            EOFError: the rank has ended.
            Garbled: it sent something else.
        """
        try:
            data = self._socket.recv(CHUNK)
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return list(self._unpacker.add(data))

    def close(self) -> None:
        """End the connection; the rank reads an end of file, and ends."""
        self._socket.close()


def read_messages(descriptor: int) -> Iterator[tuple[Message, bytes]]:
    """A rank's messages, until its input ends."""
    unpacker = Unpacker()
    while data := os.read(descriptor, CHUNK):
        yield from unpacker.add(data)


def write_all(descriptor: int, data: Payload) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]
