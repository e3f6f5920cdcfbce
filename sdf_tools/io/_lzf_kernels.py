"""The compiled loop of LZF decompression. Importing this module needs numba."""

# mypy: disable-error-code="no-untyped-def, misc"

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True)
def decompress(packed, out):
    """LZF (Marc Lehmann): literals and back references. Returns the bytes written, or -1 for damaged input."""
    at, to, size, space = 0, 0, packed.shape[0], out.shape[0]
    while at < size:
        control = int(packed[at])
        at += 1
        if control < 32:
            length = control + 1
            if at + length > size or to + length > space:
                return -1
            for _ in range(length):
                out[to] = packed[at]
                to += 1
                at += 1
            continue
        length = control >> 5
        if length == 7:
            if at >= size:
                return -1
            length += int(packed[at])
            at += 1
        if at >= size:
            return -1
        source = to - ((control & 31) << 8) - int(packed[at]) - 1
        at += 1
        length += 2
        if source < 0 or to + length > space:
            return -1
        for _ in range(length):  # byte by byte: a reference may reach into what it writes
            out[to] = out[source]
            to += 1
            source += 1
    return to
