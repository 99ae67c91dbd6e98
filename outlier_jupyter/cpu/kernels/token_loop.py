"""A token's decoder layers one after the other, compiled: also those whose experts must be read.

For each layer: the links up to the router's choice; the lookup of the chosen experts in the slot
table, with the functions of `residency`; the reads of the misses, handed over to the kernel's
queue; the resident experts meanwhile, then the others as they land; their weighted sum. Python
sees the token when it is done: what happened is in the arrays of a `TokenLog`.

Where only Python can go on, the function returns a code, and its place in `progress`: it can be
called again from there, or for the layer after.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit, typeof, types

from ...checkpoint.linux_aio import (
    CONTEXT,
    DEPTH,
    EVENT,
    EVENTS,
    GETEVENTS,
    NO_WAIT,
    PENDING,
    POINTERS,
    PREAD,
    PREADV,
    READS,
    REQUEST,
    REQUESTS,
    SUBMIT,
    SYSCALL,
    TAKEN,
)
from ...residency.policies.lru import touch
from ...residency.policies.predictive import nearness, observe
from ...residency.policies.registry import LRU, PREDICTIVE
from ...residency.slots import CAPACITY, HIT, PINNED, fits, put, reserve
from ...residency.token_arrays import (
    CHECKSUM,
    COMPUTED,
    DESCRIPTOR,
    EVICTED,
    EXPERTS_NS,
    HITS,
    IDS,
    IN_FLIGHT,
    INSTALL_NS,
    KEYS,
    LEFT,
    LENGTH,
    LOOKED_UP,
    MEMORY,
    MISSES,
    NBYTES,
    NS,
    OFFSET,
    PAIRS,
    PIECES,
    READ_NS,
    READ_START,
    SKIP,
    START,
    STATE,
    STRIDE,
    THERE,
    UNREAD,
    WAIT_NS,
    WHERE,
    new_log,
    no_pages,
)
from .arguments import call_task, int_at, put_int
from .compiled import cached, task
from .experts import CLEARED, PAIR, SLOT, TABLE_OF_RUNS, TO_CLEAR
from .kernel_chain import COUNT, chain_runner
from .system_calls import copy_bytes, crc32, nanoseconds, system_call

DONE, STOPPED, PAUSED, PYTHON, FAILED, INTERRUPTED = range(6)
"""Why `run_token` returns: all layers are done; `stop` is set; it is late (`until`); this layer's
lookup is Python's to make; a read failed; a signal ended the wait for reads."""
BEGIN, ROUTED, READING = range(3)
"""Where in a layer it stands: before it, after the router's choice, where reads may be pending."""
LAYER, STAGE = range(2)
"""Places in `progress`."""

BEFORE, BESIDE, AFTER = 0, 4, 8
"""Fields of a layer: three chains (`Chain.numbers`): up to the router's choice; what is computed
while experts are read; and what follows them."""
GROUPS, MOE, RESIDENT = 12, 13, 14
"""Further fields: the address of `ExpertGroups.numbers`, the number among the MoE layers (-1 for a
dense layer), and whether the layer is fully resident for good, so that nothing is looked up."""
LAYER_FIELDS = 15

compiled: Any = njit(nogil=True, error_model="numpy")
_run_links: Any = None


@compiled
def look_up(paged, log, times, layer):
    """Look up a layer's choice as `SlotTable` does; False, with nothing changed, if it cannot."""
    slots, ids, keys, pairs = paged.slots, log[IDS], log[KEYS], log[PAIRS]
    width, k, missing = slots.score.shape[1], len(ids), 0
    if paged.policy < 0 or k > slots.counts[CAPACITY] - slots.counts[PINNED]:
        return False
    for i in range(k):
        key, at = layer * width + ids[i], i
        while at > 0 and keys[at - 1] > key:
            keys[at], pairs[at] = keys[at - 1], pairs[at - 1]
            at -= 1
        keys[at], pairs[at] = key, i
        hit = slots.slot_of[key] >= 0
        log[HITS, i] = hit
        missing += not hit
        if not hit and paged.sources[key, 0, OFFSET] < 0:
            return False
    if missing and (missing * paged.reads.shape[1] > DEPTH or not fits(slots, keys)):
        return False
    times[MISSES] = missing
    if paged.policy == PREDICTIVE:
        rows = np.empty((1, k), np.int16)
        for i in range(k):
            rows[0, i] = ids[i]
        observe(paged.state, layer, rows)
        nearness(layer, slots.weight)
    elif paged.policy == LRU:
        touch(slots.score, paged.clock, keys)
    reserve(slots, keys, log[WHERE], log[EVICTED])
    for j in range(k):
        log[STATE, j] = THERE if log[EVICTED, j] == HIT else IN_FLIGHT
    return True


@compiled
def all_there(slots, log, layer):
    """Note the slots of a fully resident layer's choice: no policy is asked."""
    for i in range(log.shape[1]):
        key = layer * slots.score.shape[1] + log[IDS, i]
        log[KEYS, i], log[PAIRS, i], log[WHERE, i] = key, i, slots.slot_of[key]
        log[HITS, i], log[EVICTED, i], log[STATE, i] = 1, HIT, THERE


@lru_cache
def submit_task() -> int:
    """A task that submits the requests of `KernelQueue.words`, at its address."""

    def kernel(words: int, number: int) -> None:
        found = system_call(
            int_at(words, SYSCALL), int_at(words, SUBMIT), int_at(words, CONTEXT),
            int_at(words, READS), int_at(words, POINTERS), 0, 0,
        )  # fmt: skip
        put_int(words, TAKEN, found)

    return task(kernel)


@compiled
def prepare(paged, reads, log):
    """Write the requests for the reads of a layer's misses."""
    queue, count, each = paged.queue, 0, len(reads)
    for j in range(log.shape[1]):
        for read in range(each if log[STATE, j] == IN_FLIGHT else 0):
            source, request = (
                paged.sources[log[KEYS, j], read], queue[REQUESTS] + 8 * REQUEST * count
            )  # fmt: skip
            memory = reads[read, MEMORY] + reads[read, STRIDE] * log[WHERE, j]
            length = reads[read, PIECES]
            if source[SKIP] >= 0:
                memory = paged.beside[0] + paged.beside[1] * (j * each + read)
            operation = PREADV if length else PREAD
            put_int(request, 0, j * each + read)
            put_int(request, 1, 0)
            put_int(request, 2, operation | source[DESCRIPTOR] << 32)
            put_int(request, 3, memory)
            put_int(request, 4, length if length else source[LENGTH])
            put_int(request, 5, source[OFFSET])
            count += 1
        log[LEFT, j] = each
    queue[READS] = count


@compiled
def accept(queue, each, log):
    """Note which requests the kernel has taken; there are `each` for an expert."""
    taken = max(0, queue[TAKEN])
    queue[PENDING] += taken
    for refused in range(taken, queue[READS]):
        number = int_at(queue[REQUESTS] + 8 * REQUEST * refused, 0)
        log[STATE, number // each] = UNREAD


@compiled
def checksum(code, pieces, count):
    """The CRC-32 of `count` pieces of memory, listed at `pieces`, by zlib's function at `code`."""
    found = 0
    for piece in range(count):
        found = crc32(code, found, int_at(pieces, 2 * piece), int_at(pieces, 2 * piece + 1))
    return found


@compiled
def collect(paged, reads, log, since, least, clock):
    """Note the reads that have ended, at least `least`; how many, -1 if a signal came first."""
    queue, each = paged.queue, len(reads)
    no_wait = 0 if least else queue[NO_WAIT]
    count = system_call(
        queue[SYSCALL], queue[GETEVENTS], queue[CONTEXT], least, DEPTH, queue[EVENTS], no_wait
    )  # fmt: skip
    now = nanoseconds(clock)
    for event in range(count):
        place = queue[EVENTS] + 8 * EVENT * event
        j, read = int_at(place, 0) // each, int_at(place, 0) % each
        source, got = paged.sources[log[KEYS, j], read], int_at(place, 2)
        log[LEFT, j] -= 1
        log[READ_NS, j] = now - since
        if got < max(source[SKIP], 0) + reads[read, NBYTES]:
            log[STATE, j] = UNREAD
        elif source[SKIP] >= 0:
            copy_bytes(
                reads[read, MEMORY] + reads[read, STRIDE] * log[WHERE, j],
                paged.beside[0] + paged.beside[1] * (j * each + read) + source[SKIP],
                reads[read, NBYTES],
            )
        if log[STATE, j] == IN_FLIGHT and source[CHECKSUM] >= 0:
            pieces = reads[read, MEMORY] + reads[read, STRIDE] * log[WHERE, j]
            if checksum(paged.beside[2], pieces, reads[read, PIECES]) == source[CHECKSUM]:
                source[CHECKSUM] = -1
            else:
                log[STATE, j] = UNREAD
        if log[LEFT, j] == 0 and log[STATE, j] == IN_FLIGHT:
            log[STATE, j] = THERE
    queue[PENDING] -= max(0, count)
    return count


@compiled
def compute(row, log, clock, code, words):
    """Compute the experts that are there and not computed yet; the time it takes.

    `code` and `words` are a task to run beside it, as `chain_runner` takes them.
    """
    count = 0
    for j in range(log.shape[1]):
        count += log[STATE, j] == THERE
    if not count:
        return 0
    begin = nanoseconds(clock)
    group = row[GROUPS] + 8 * (CLEARED + 1) * (count - 1)
    runs, clear, run = int_at(group, TABLE_OF_RUNS), int_at(group, TO_CLEAR), 0
    for j in range(log.shape[1]):
        if log[STATE, j] == THERE:
            put_int(runs, 3 * run + SLOT, log[WHERE, j])
            put_int(runs, 3 * run + PAIR, log[PAIRS, j])
            log[STATE, j] = COMPUTED
            run += 1
    for counter in range(int_at(group, CLEARED)):
        put_int(clear, counter, 0)
    _run_links(
        int_at(group, 0), int_at(group, 1), 0, int_at(group, 2), int_at(group, 3), code, words
    )
    return nanoseconds(clock) - begin


@compiled
def run_chain(row, chain, code, words):
    """Run one of a layer's chains, if it has that, and a task beside it, as `compute`."""
    if row[chain + COUNT]:
        _run_links(row[chain], row[chain + 1], 0, row[chain + COUNT], row[chain + 3], code, words)


@compiled
def begin_layer(row, paged, log, times, layer, clock, submit):
    """Look up a layer's choice, and begin to read what misses; False if Python must.

    The kernel takes 50 µs to accept two reads. One thread has it do so while another computes.
    """
    times[:] = 0
    times[START] = nanoseconds(clock)
    if row[RESIDENT]:
        all_there(paged.slots, log, layer)
    elif not look_up(paged, log, times, layer):
        return False
    words = 0
    if times[MISSES]:
        times[READ_START] = nanoseconds(clock)
        prepare(paged, paged.reads[layer], log)
        words = paged.queue.ctypes.data
        if not row[BESIDE + COUNT] and (times[MISSES] == log.shape[1] or not paged.overlap):
            call_task(submit, words, 0)  # there is nothing to compute beside it
            words = 0
    now = nanoseconds(clock)
    times[LOOKED_UP] = now
    run_chain(row, BESIDE, submit, words)
    if words and not row[BESIDE + COUNT]:
        compute(row, log, clock, submit, words)
    times[EXPERTS_NS] = nanoseconds(clock) - now
    if times[MISSES]:
        accept(paged.queue, len(paged.reads[layer]), log)
    return True


@compiled
def end_layer(row, paged, log, times, layer, clock):
    """Compute a layer's experts as they land; DONE, FAILED or INTERRUPTED."""
    queue, reads, since = paged.queue, paged.reads[layer], times[READ_START]
    while times[MISSES]:
        if paged.overlap:
            times[EXPERTS_NS] += compute(row, log, clock, 0, 0)
        if not queue[PENDING]:
            break
        if collect(paged, reads, log, since, 0, clock) == 0:
            begin = nanoseconds(clock)
            ended = collect(paged, reads, log, since, 1, clock)
            times[WAIT_NS] += nanoseconds(clock) - begin
            if ended < 0:
                return INTERRUPTED
    for j in range(log.shape[1]):
        if log[STATE, j] == UNREAD:
            return FAILED
    begin = nanoseconds(clock)
    for j in range(log.shape[1]):
        if log[EVICTED, j] != HIT:
            put(paged.slots, log[KEYS, j], log[WHERE, j])
    times[INSTALL_NS] = nanoseconds(clock) - begin
    times[EXPERTS_NS] += compute(row, log, clock, 0, 0)
    times[NS] = nanoseconds(clock) - times[START]
    run_chain(row, AFTER, 0, 0)
    return DONE


def run_token(layers, progress, last, paged, log, times, stop, until, clock, submit):
    """Run layers up to `last`, from where `progress` says; `RUNNING` is locked.

    Args:
        layers: int64 [layers, LAYER_FIELDS].
        progress: int64 [2], written.
        log, times: of a `TokenLog`.
        stop: int64 [1], set by any thread to end the token before a layer's lookup.
        until: the time from which on the function returns after each layer, for Python to see
            signals; clock: `clock_code()`; submit: `submit_task()`.

    Returns:
        DONE, or another code, as above.
    """
    while progress[LAYER] < last:
        row = layers[progress[LAYER]]
        layer = row[MOE]
        if progress[STAGE] == BEGIN:
            run_chain(row, BEFORE, 0, 0)
            progress[STAGE] = ROUTED if layer >= 0 else READING
        if progress[STAGE] == ROUTED:
            if stop[0]:
                return STOPPED
            if not begin_layer(row, paged, log[layer], times[layer], layer, clock, submit):
                return PYTHON
            progress[STAGE] = READING
        if layer >= 0:
            code = end_layer(row, paged, log[layer], times[layer], layer, clock)
            if code != DONE:
                return code
        progress[LAYER] += 1
        progress[STAGE] = BEGIN
        if progress[LAYER] < last and nanoseconds(clock) > until:
            return PAUSED
    return DONE


@lru_cache
def token_runner() -> Any:
    """`run_token`, compiled."""
    global _run_links
    _run_links = chain_runner()
    number = types.int64
    rows, times, _ = new_log(1, 1)
    signature = number(
        number[:, ::1], number[::1], number, typeof(no_pages()), typeof(rows), typeof(times),
        number[::1], number, number, number,
    )  # fmt: skip
    return cached(
        lambda keep: njit(signature, nogil=True, error_model="numpy", cache=keep)(run_token)
    )
