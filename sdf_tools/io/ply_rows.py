"""Rows of PLY elements, binary or text, to tables of columns. Lengths are checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Property:
    name: str
    kind: str
    count_kind: str | None = None


@dataclass
class Element:
    name: str
    count: int
    properties: list[Property] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(p.count_kind is not None for p in self.properties)


@dataclass
class Ragged:
    """Rows of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: np.ndarray
    offsets: np.ndarray


Table = dict[str, Any]


def _row_dtype(element: Element, order: str, lengths: list[int]) -> np.dtype:
    fields: list[tuple] = []
    remaining = iter(lengths)
    for i, p in enumerate(element.properties):
        if p.count_kind is None:
            fields.append((f"{i}", order + p.kind))
        else:
            fields += [(f"n{i}", order + p.count_kind), (f"{i}", order + p.kind, (next(remaining),))]
    return np.dtype(fields)


def _first_lengths(element: Element, data: bytes, at: int, order: str) -> list[int]:
    lengths = []
    for p in element.properties:
        if p.count_kind is None:
            at += np.dtype(p.kind).itemsize
        else:
            count = _length(data, order + p.count_kind, at)
            at += np.dtype(p.count_kind).itemsize + count * np.dtype(p.kind).itemsize
            lengths.append(count)
    return lengths


def _length(data: bytes, kind: str | np.dtype, at: int) -> int:
    count = int(np.frombuffer(data, kind, 1, at)[0])
    if count < 0:
        raise ValueError("a list of negative length")
    return count


def read_binary(element: Element, data: bytes, at: int, order: str) -> tuple[Table, int]:
    if element.count == 0 or not element.properties:
        return {p.name: np.zeros(0, p.kind) for p in element.properties}, at
    shortest = sum(np.dtype(p.count_kind or p.kind).itemsize for p in element.properties)
    if at + element.count * shortest > len(data):
        raise ValueError("too few bytes")
    lengths = _first_lengths(element, data, at, order) if element.has_lists else []
    if sum(lengths) <= len(data):
        dtype = _row_dtype(element, order, lengths)
        if at + dtype.itemsize * element.count <= len(data):
            rows = np.frombuffer(data, dtype, element.count, at)
            constant = all(
                (rows[f"n{i}"] == rows[f"n{i}"][0]).all() for i, p in enumerate(element.properties) if p.count_kind
            )
            if constant:
                return {p.name: rows[f"{i}"] for i, p in enumerate(element.properties)}, at + rows.nbytes
    return _walk_binary(element, data, at, order)


def _walk_binary(element: Element, data: bytes, at: int, order: str) -> tuple[Table, int]:
    columns: list[list] = [[] for _ in element.properties]
    kinds = [np.dtype(order + p.kind) for p in element.properties]
    counts = [None if p.count_kind is None else np.dtype(order + p.count_kind) for p in element.properties]
    for _ in range(element.count):
        for column, kind, count_kind in zip(columns, kinds, counts, strict=True):
            count = 1
            if count_kind is not None:
                count = _length(data, count_kind, at)
                at += count_kind.itemsize
            column.append(np.frombuffer(data, kind, count, at))
            at += kind.itemsize * count
    return _columns_to_table(element, columns), at


def read_ascii(elements: list[Element], data: bytes) -> dict[str, Table]:
    """All elements: a line each where there are as many lines as rows, else as one stream of numbers.

    Lines may hold more values than the header says: MeshLab wrote such.
    """
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) >= sum(element.count for element in elements):
        tables, at = {}, 0
        try:
            for element in elements:
                tables[element.name] = _read_lines(element, [x.split() for x in lines[at : at + element.count]])
                at += element.count
            return tables
        except (ValueError, IndexError):
            pass  # rows that run over several lines
    tokens, tables, at = data.split(), {}, 0
    for element in elements:
        try:
            tables[element.name], at = _read_tokens(element, tokens, at)
        except (ValueError, IndexError):
            raise CutShort(element) from None
    return tables


def _read_lines(element: Element, rows: list[list[bytes]]) -> Table:
    properties = element.properties
    if not element.has_lists:
        width = len(properties)
        if any(len(row) < width for row in rows):
            raise ValueError("too few values")
        block = np.array([row[:width] for row in rows], dtype=np.float64).reshape(len(rows), width)
        return {p.name: _typed(block[:, i], p) for i, p in enumerate(properties)}
    if len(properties) == 1 and rows and all(row[0] == rows[0][0] for row in rows):
        width = 1 + _ascii_length(rows[0][0])
        if any(len(row) < width for row in rows):
            raise ValueError("too few values")
        return {properties[0].name: np.array([row[1:width] for row in rows], dtype=np.float64)}
    columns: list[list] = [[] for _ in properties]
    for row in rows:
        _split_row(properties, columns, row, 0)
    return _columns_to_table(element, columns)


def _typed(values: np.ndarray, p: Property) -> np.ndarray:
    """Columns of text as the whole numbers that the header says, which tells colours from shares of one."""
    if p.kind[0] not in "iu" or not values.size or values.dtype.kind != "f":
        return values
    range_ = np.iinfo(p.kind)
    fits = np.isfinite(values).all() and values.min() >= range_.min and values.max() <= range_.max
    return values.astype(p.kind) if fits and (values % 1 == 0).all() else values


def _ascii_length(token: bytes) -> int:
    count = int(token)
    if count < 0:
        raise ValueError("a list of negative length")
    return count


def _split_row(properties: list[Property], columns: list[list], tokens: list[bytes], at: int) -> int:
    for p, column in zip(properties, columns, strict=True):
        count = 1
        if p.count_kind is not None:
            count = _ascii_length(tokens[at])
            at += 1
        if at + count > len(tokens):
            raise ValueError("too few values")
        column.append(np.array(tokens[at : at + count], dtype=np.float64))
        at += count
    return at


def _read_tokens(element: Element, tokens: list[bytes], at: int) -> tuple[Table, int]:
    if at + element.count * len(element.properties) > len(tokens):
        raise ValueError("too few values")
    if not element.has_lists:
        width = len(element.properties)
        block = np.array(tokens[at : at + width * element.count], dtype=np.float64).reshape(element.count, width)
        return {p.name: _typed(block[:, i], p) for i, p in enumerate(element.properties)}, at + block.size
    columns: list[list] = [[] for _ in element.properties]
    for _ in range(element.count):
        at = _split_row(element.properties, columns, tokens, at)
    return _columns_to_table(element, columns), at


class CutShort(Exception):
    def __init__(self, element: Element) -> None:
        self.element = element


def _columns_to_table(element: Element, columns: list[list]) -> Table:
    table: Table = {}
    for p, rows in zip(element.properties, columns, strict=True):
        values = np.concatenate(rows) if rows else np.zeros(0)
        if p.count_kind is None:
            table[p.name] = _typed(values, p)
        else:
            table[p.name] = Ragged(values, np.cumsum([0] + [len(r) for r in rows]))
    return table
