"""Array views: where every element of an array is on disk, if it is made of moved tensors.

An `ArrayView` is an array that is never materialised: boxes of it, each with a first byte and a
stride per axis in one tensor's bytes. Slicing, transposing, reshaping, concatenating and
reinterpreting views is arithmetic on those few numbers and touches no weight. What strides cannot
express raises `NotAddressable`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

Shape = tuple[int, ...]


class NotAddressable(Exception):
    """The elements are not in the files in a pattern that an `ArrayView` can express."""


class Piece(NamedTuple):
    """A box of an array, and its strides in one file.

    Attributes:
        at: where the box begins in the array, in elements.
        shape: the box's extents, in elements; none is zero.
        file, offset: where the box's first element begins, in bytes.
        strides: bytes from one element to the next, per axis.
    """

    at: Shape
    shape: Shape
    file: Path
    offset: int
    strides: Shape


@dataclass(frozen=True)
class ArrayView:
    """An array of `shape`, of elements of `itemsize` bytes, whose pieces are on disk.

    The pieces do not overlap and cover the whole array.
    """

    shape: Shape
    itemsize: int
    pieces: tuple[Piece, ...]

    @staticmethod
    def of(file: Path, offset: int, shape: Shape, itemsize: int) -> ArrayView:
        """A tensor stored in a file, row by row from `offset` on."""
        if 0 in shape:
            return ArrayView(shape, itemsize, ())
        piece = Piece((0,) * len(shape), shape, file, offset, packed(shape, itemsize))
        return ArrayView(shape, itemsize, (piece,))

    @staticmethod
    def concatenate(views: Sequence[ArrayView], axis: int) -> ArrayView:
        """Concatenate views along `axis`; they agree on everything else."""
        pieces: list[Piece] = []
        begin = 0
        for view in views:
            for piece in view.pieces:
                at = (*piece.at[:axis], piece.at[axis] + begin, *piece.at[axis + 1 :])
                pieces.append(piece._replace(at=at))
            begin += view.shape[axis]
        first = views[0]
        shape = (*first.shape[:axis], begin, *first.shape[axis + 1 :])
        return ArrayView(shape, first.itemsize, tuple(pieces))

    def slice(self, starts: Shape, steps: Shape, shape: Shape) -> ArrayView:
        """Every `steps`-th element from `starts` on, `shape` of them."""
        if min(steps, default=1) < 1:
            raise NotAddressable("a slice with a step below one")
        kept = (_cut(piece, starts, steps, shape) for piece in self.pieces)
        return ArrayView(shape, self.itemsize, tuple(piece for piece in kept if piece is not None))

    def transpose(self, axes: Shape) -> ArrayView:
        """Axis i of the result is axis `axes[i]` of this view."""

        def permuted(numbers: Shape) -> Shape:
            return tuple(numbers[axis] for axis in axes)

        pieces = tuple(
            Piece(permuted(p.at), permuted(p.shape), p.file, p.offset, permuted(p.strides))
            for p in self.pieces
        )
        return ArrayView(permuted(self.shape), self.itemsize, pieces)

    def expand(self, axis: int) -> ArrayView:
        """Add an axis of length one; faster than `reshape`, for the thousands that are stacked."""

        def widen(numbers: Shape, new: int) -> Shape:
            return (*numbers[:axis], new, *numbers[axis:])

        pieces = tuple(
            Piece(widen(p.at, 0), widen(p.shape, 1), p.file, p.offset, widen(p.strides, 0))
            for p in self.pieces
        )
        return ArrayView(widen(self.shape, 1), self.itemsize, pieces)

    def reshape(self, shape: Shape) -> ArrayView:
        """The same elements in row-major order, as `shape`.

        Raises:
            NotAddressable: a piece is not a box with one stride per axis afterwards.
        """
        if not self.pieces:
            return ArrayView(shape, self.itemsize, ())
        groups = _groups(self.shape, shape)
        pieces = tuple(_regroup(piece, self.shape, shape, groups) for piece in self.pieces)
        return ArrayView(shape, self.itemsize, pieces)

    def reinterpret(self, itemsize: int) -> ArrayView:
        """The same bytes as elements of another size; the last axis grows or shrinks.

        Raises:
            NotAddressable: the bytes of a new element are not contiguous.
        """
        if itemsize == self.itemsize:
            return self
        if not self.shape:
            raise NotAddressable("a scalar read as elements of another size")
        pieces = tuple(_retype(piece, self.itemsize, itemsize) for piece in self.pieces)
        last = self.shape[-1] * self.itemsize // itemsize
        return ArrayView((*self.shape[:-1], last), itemsize, pieces)

    def row(self, index: int) -> tuple[Piece, ...]:
        """The pieces of `self[index]`, an array of `shape[1:]`."""
        return tuple(
            Piece(
                piece.at[1:],
                piece.shape[1:],
                piece.file,
                piece.offset + (index - piece.at[0]) * piece.strides[0],
                piece.strides[1:],
            )
            for piece in self._pieces_at(index)
        )

    def _pieces_at(self, index: int) -> Sequence[Piece]:
        return self.pieces if len(self.pieces) == 1 else self._by_row.get(index, ())

    @cached_property
    def _by_row(self) -> dict[int, list[Piece]]:
        found: dict[int, list[Piece]] = {}
        for piece in self.pieces:
            for index in range(piece.at[0], piece.at[0] + piece.shape[0]):
                found.setdefault(index, []).append(piece)
        return found


def packed(shape: Shape, itemsize: int) -> Shape:
    """The strides in bytes of a row-major array without gaps."""
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def is_packed(shape: Shape, strides: Shape, itemsize: int) -> bool:
    """Whether elements with these strides are row-major without gaps."""
    expected = packed(shape, itemsize)
    return all(n == 1 or s == e for n, s, e in zip(shape, strides, expected, strict=True))


def _cut(piece: Piece, starts: Shape, steps: Shape, shape: Shape) -> Piece | None:
    at, extents, strides, offset = [], [], [], piece.offset
    for axis, (start, step, size) in enumerate(zip(starts, steps, shape, strict=True)):
        begin, length, stride = piece.at[axis], piece.shape[axis], piece.strides[axis]
        first = max(0, -(-(begin - start) // step))
        last = min(size - 1, (begin + length - 1 - start) // step)
        if last < first:
            return None
        at.append(first)
        extents.append(last - first + 1)
        strides.append(stride * step)
        offset += (start + first * step - begin) * stride
    return Piece(tuple(at), tuple(extents), piece.file, offset, tuple(strides))


def _groups(old: Shape, new: Shape) -> list[tuple[slice, slice]]:
    """The smallest runs of axes of both shapes with equally many elements."""
    groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        begin = (i, j)
        before = after = 1
        if i < len(old) and (j == len(new) or old[i] == 1):
            before, i = old[i], i + 1
        elif j < len(new) and (i == len(old) or new[j] == 1):
            after, j = new[j], j + 1
        else:
            before, after, i, j = old[i], new[j], i + 1, j + 1
        while before != after:
            if before < after:
                before, i = before * old[i], i + 1
            else:
                after, j = after * new[j], j + 1
        groups.append((slice(begin[0], i), slice(begin[1], j)))
    return groups


def _regroup(piece: Piece, old: Shape, new: Shape, groups: list[tuple[slice, slice]]) -> Piece:
    at: list[int] = []
    shape: list[int] = []
    strides: list[int] = []
    for before, after in groups:
        begin, count, stride = _flat(
            old[before], piece.at[before], piece.shape[before], piece.strides[before]
        )
        box = _box(new[after], begin, count, stride)
        at += box[0]
        shape += box[1]
        strides += box[2]
    return Piece(tuple(at), tuple(shape), piece.file, piece.offset, tuple(strides))


def _flat(dims: Shape, at: Shape, extents: Shape, strides: Shape) -> tuple[int, int, int]:
    """A box of some axes as (begin, count, stride) of the one axis they make together."""
    axes = [axis for axis, dim in enumerate(dims) if dim > 1]
    lead = next((k for k, axis in enumerate(axes) if extents[axis] > 1), len(axes))
    for outer, inner in zip(axes[lead:], axes[lead + 1 :], strict=False):
        if extents[inner] != dims[inner] or strides[outer] != strides[inner] * dims[inner]:
            raise NotAddressable("a reshape across rows that are not adjacent")
    begin = 0
    for axis, dim in enumerate(dims):
        begin = begin * dim + at[axis]
    return begin, math.prod(extents), strides[axes[-1]] if axes else 0


def _box(
    dims: Shape, begin: int, count: int, stride: int
) -> tuple[list[int], list[int], list[int]]:
    """(begin, count, stride) of one axis as a box (at, extents, strides) of the axes `dims`."""
    at, extents, strides = [], [], []
    rest, left = begin, count
    for axis in range(len(dims)):
        tail = math.prod(dims[axis + 1 :])
        index, rest = divmod(rest, tail)
        if left <= tail:  # all of it is within one index of this axis
            take, fits = 1, rest + left <= tail
        else:
            take, fits = left // tail, rest == 0 and left % tail == 0
        if not fits:
            raise NotAddressable("a reshape that cuts a tensor in the middle of a row")
        at.append(index)
        extents.append(take)
        strides.append(stride * tail)
        left = min(left, tail)
    return at, extents, strides


def _retype(piece: Piece, old: int, new: int) -> Piece:
    *lead, last = piece.shape
    if last > 1 and piece.strides[-1] != old:
        raise NotAddressable("elements that are not adjacent, read as larger ones")
    begin, length = piece.at[-1] * old, last * old
    if begin % new or length % new:
        raise NotAddressable("a tensor's row read as elements that it does not divide into")
    return piece._replace(
        at=(*piece.at[:-1], begin // new),
        shape=(*lead, length // new),
        strides=(*piece.strides[:-1], new),
    )
