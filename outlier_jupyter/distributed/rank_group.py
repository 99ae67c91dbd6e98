"""Drives the ranks: starts them, sends each a command of a fixed list, and waits with a limit.

While an answer is due, silent ranks are pinged. A rank that ends, is silent for `SILENT_S`, or does
not get on for `STUCK_S` ends all of them with one error, and so does one whose words disagree. Only
this process drives them: without it they read an end of file, and end.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import (
    CheckpointChanged,
    CheckpointError,
    ModelNotFound,
    NotPageable,
    OptionError,
    OutlierError,
    RankLost,
    ReadFailed,
    UnsupportedModel,
)
from .hosts import Host
from .launch import LOST_RING, Process
from .messages import Garbled, Message, Payload
from .rank_state import RankState

PING_S = 1.0
"""After so long without an answer all ranks are pinged."""
PAUSED_S = 3.0
"""A wait that lasts so much longer than it should: this process itself was stopped."""
SILENT_S = 20.0
"""A rank that answers no ping for so long is stopped, or its machine is gone."""
STUCK_S = 180.0
"""A command that takes longer than this has hung, though its rank answers pings."""
LOAD_S, LOAD_SILENT_S = 1800.0, 120.0
"""The same two for loading: libraries are imported then, and a cache may be filled."""
KINDS = {
    kind.__name__: kind
    for kind in (CheckpointChanged, CheckpointError, ModelNotFound, NotPageable, OptionError,
                 ReadFailed, UnsupportedModel)
}  # fmt: skip
"""The errors of a rank that are the user's, and end no rank."""


@dataclass
class _Rank:
    process: Process
    state: RankState
    last: float = field(default_factory=time.monotonic)
    doing: str = ""
    answered: bool = False

    @property
    def host_may_print(self) -> bool:
        """Whether its host may have printed in its place, as a shell's own files do."""
        return not (self.answered or self.process.host.local)


class RankGroup:
    """The processes of all ranks, and the exchange of commands and answers with them."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._call = 0
        self._failure: OutlierError | None = None
        self._lock = threading.RLock()
        self._ranks: list[_Rank] = []
        self._hosts = list(hosts)
        try:
            for host in hosts:
                self._ranks.append(_Rank(Process(host, SILENT_S), RankState(host.name)))
        except OSError as error:
            self.close(at_once=True)
            raise RankLost(
                f"no process could be started for {hosts[len(self._ranks)].name} ({error}): check "
                "that ssh is installed, and the number of processes"
            ) from error

    def __len__(self) -> int:
        return len(self._ranks)

    @property
    def states(self) -> list[RankState]:
        """What is known of each rank."""
        return [rank.state for rank in self._ranks]

    @property
    def pids(self) -> list[int]:
        """The processes on this machine."""
        return [rank.process.pid for rank in self._ranks]

    def close(self, at_once: bool = False) -> None:
        """End all ranks."""
        with self._lock:
            self._failure = self._failure or RankLost("the ranks were ended: load the model again")
            for rank in self._ranks:
                rank.process.connection.close()
            for rank in self._ranks:
                rank.process.end(at_once)
                rank.state.end()

    def check(self) -> None:
        """Raises RankLost: the ranks were ended."""
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))

    def _all(
        self, messages: Sequence[Message], limits: tuple[float, float] | None = None,
        payload: Payload = b"",
    ) -> list[Message]:  # fmt: skip
        """Send each rank its message, and wait for all answers.

        Raises:
            OutlierError: the first rank's that could not do it.
        """
        with self._lock:
            self._call += 1
            self._send([message | {"call": self._call} for message in messages], payload)
            found: dict[int, Message] = {}
            self._wait(lambda: len(found) == len(self), found.__setitem__, limits)
        for rank, message in sorted(found.items()):
            if "error" in message:
                raise self._error_of(rank, message)
        return [found[rank] for rank in range(len(self))]

    def _send(self, messages: Sequence[Message], payload: Payload) -> None:
        self.check()
        for rank, message in enumerate(messages):
            try:
                self._ranks[rank].process.connection.send(message, payload)
            except TimeoutError:
                raise self._lost(rank, f"has taken no input for {SILENT_S:.0f} s") from None
            except OSError:
                raise self._ended(rank) from None

    def _wait(
        self, done: Callable[[], bool], take: Callable[..., object],
        limits: tuple[float, float] | None = None,
    ) -> None:  # fmt: skip
        """Receive answers until `done`; `take` gets those to the newest command.

        Args:
            limits: seconds for the command, and for silence.
        """
        begin = pinged = seen = time.monotonic()
        for rank in self._ranks:
            rank.last = begin
        connections = {rank.process.connection: n for n, rank in enumerate(self._ranks)}
        while not done():
            ready, _, _ = select.select(list(connections), [], [], PING_S)
            if time.monotonic() - seen > PING_S + PAUSED_S:
                # This process was suspended, as a machine's sleep does: no rank's silence counts.
                begin = pinged = time.monotonic()
                for rank in self._ranks:
                    rank.last = begin
            for connection in ready:
                self._receive(connections[connection], take)
            seen = now = time.monotonic()
            if now - begin < PING_S or done():
                continue
            if now - pinged >= PING_S:
                pinged = now
                self._ping()
            self._check_alive(now, begin, *(limits or (STUCK_S, SILENT_S)))

    def _receive(self, number: int, take: Callable[..., object]) -> None:
        rank = self._ranks[number]
        rank.last = time.monotonic()
        try:
            for message, payload in rank.process.connection.receive():
                rank.answered = True
                if "pong" in message:
                    rank.doing = str(message["pong"])
                elif message.get("call") == self._call:
                    arguments = (message, payload) if payload else (message,)
                    take(number, *arguments)
        except EOFError:
            raise self._ended(number) from None
        except Garbled as error:
            name = rank.state.host
            printed = f"; `ssh {name} true` must print nothing" if rank.host_may_print else ""
            raise self._lost(number, f"sent what is no message ({error}{printed})") from None

    def _ping(self) -> None:
        for number, rank in enumerate(self._ranks):
            try:
                rank.process.connection.send({"do": "ping"})
            except TimeoutError:
                raise self._lost(number, f"has taken no input for {SILENT_S:.0f} s") from None
            except OSError:
                raise self._ended(number) from None

    def _check_alive(self, now: float, begin: float, seconds: float, silent: float) -> None:
        for number, rank in enumerate(self._ranks):
            if now - rank.last > silent:
                raise self._lost(number, f"has not answered for {silent:.0f} s")
        if now - begin > seconds:
            late = [n for n, rank in enumerate(self._ranks) if rank.doing not in ("", "sums")]
            number = late[0] if late else 0
            raise self._lost(number, f"has not got on for {seconds:.0f} s")

    def _error_of(self, rank: int, message: Message) -> OutlierError:
        """A rank's error as one of ours, with its name."""
        kind = KINDS.get(str(message.get("kind")), OutlierError)
        return kind(f"{self._name(rank)}: {message['error']}")

    def _name(self, rank: int) -> str:
        return f"rank {rank} ({self._ranks[rank].state.host})"

    def _ended(self, first: int) -> OutlierError:
        """The error for ranks of which at least one has ended: the one that ended by itself."""
        status: dict[int, int | None] = {}
        end = time.monotonic() + 3
        order = [first, *(n for n in range(len(self)) if n != first)]
        while time.monotonic() < end:
            status = {n: self._ranks[n].process.wait(0.05) for n in order}
            causes = [n for n in order if status[n] not in (None, LOST_RING)]
            if causes:
                return self._lost(causes[0], self._words(causes[0], status[causes[0]]))
        return self._lost(first, self._words(first, status.get(first)))

    def _words(self, rank: int, status: int | None) -> str:
        return self._ranks[rank].process.words(status, self._ranks[rank].answered)

    def _lost(self, rank: int, what: str) -> OutlierError:
        """End all ranks, and return the one error of this and all later calls."""
        self._failure = RankLost(
            f"{self._name(rank)} {what}, so all ranks were ended: load the model again"
        )
        self.close(at_once=True)
        return self._failure
