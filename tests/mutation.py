# ruff: noqa: E501
"""What the fuzzers do to the bytes of a good file: numbers of text and header, counts, sizes, cuts, repetitions."""

from __future__ import annotations

import os
import re
import struct
from typing import Any

import pytest

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

NUMBERS = [b"0", b"-1", b"1", b"2147483647", b"2147483648", b"-2147483648", b"4294967295", b"9223372036854775807",
           b"99999999999999999999", b"50000000", b"nan", b"inf", b"-inf", b"1e308", b"-1e200", b"1e-200", b"5e-324",
           b"1e400", b"0x10", b"", b"1.5", b"3", b"65536", b"1,5", b"1_000"]  # fmt: skip
WORDS = [b"end_header\n", b"element face 2147483647\n", b"property list char int vertex_indices\n", b"property double q\n",
         b"element vertex 99999999\n", b"f 1 2 99999\n", b"f -9 1 2\n", b"v nan 1 2\n", b"f 0 0 0\n", b"mtllib /dev/zero\n",
         b"endloop\n", b"solid ", b"DATA binary_compressed\n", b"COUNT 1 1 99999\n", b"FIELDS x y z x\n", b"#", b"\n\n",
         b"OFF\n", b"x y z\n", b"-3 ", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\xff\xff\xff\x7f", b";", b",", b"\\\n"]  # fmt: skip
SWAPS = [(b"little", b"big"), (b"ascii", b"binary_little_endian"), (b"binary", b"binary_compressed"), (b"float", b"double"),
         (b"uchar", b"char"), (b"int", b"float"), (b"F F", b"I U"), (b"SIZE 4", b"SIZE 8"), (b"<f8", b">f8"), (b"<f8", b"|O"),
         (b"True", b"False"), (b"COUNT 1", b"COUNT 0"), (b"vertex", b"face"), (b"bufferView", b"nothing"),
         (b"count", b"byteOffset"), (b"5126", b"5121"), (b"VEC3", b"MAT4"), (b" ", b","), (b".", b",")]  # fmt: skip


def examples(count: int) -> Any:
    """Settings of a fuzzer's run: ``count`` mutants, none of them shrunk, the same ones every time.

    Another ``SDF_TOOLS_FUZZ_SEED`` makes other ones.
    """
    seed = os.environ.get("SDF_TOOLS_FUZZ_SEED")
    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=seed is None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    return settings if seed is None else lambda test: hypothesis.seed(int(seed))(settings(test))


def mutate(draw: Any, data: bytearray) -> None:
    """Do one to six things to the bytes, in place; ``draw`` is that of a composite strategy of hypothesis."""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 6]))):
        if not data:
            return
        at = draw(st.integers(0, len(data) - 1))
        early = at % min(len(data), 400)
        match draw(st.integers(0, 9)):
            case 0:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del data[at:]
            case 2 | 3:  # a number of the text or the header
                numbers = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", bytes(data[: max(1200, len(data) // 2)])))
                if numbers:
                    chosen = numbers[early % len(numbers)]
                    data[chosen.start() : chosen.end()] = draw(st.sampled_from(NUMBERS))
            case 4:
                data[early:early] = draw(st.sampled_from(WORDS))
            case 5:
                where = draw(st.sampled_from([at, early])) & ~3
                data[where : where + 4] = struct.pack("<I", draw(st.sampled_from(
                    [0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x10000, 0x7F800000, 0x7FC00000, 0x7F000000])))  # fmt: skip
            case 6:
                data[at : at + 8] = struct.pack(
                    "<d", draw(st.sampled_from([float("nan"), float("inf"), 1e308, 1e200, 5e-324]))
                )
            case 7:
                chunk = data[at : at + draw(st.sampled_from([1, 4, 16, 256]))]
                data[at:at] = chunk * draw(st.sampled_from([1, 2, 20]))
            case 8:
                del data[at : at + draw(st.sampled_from([1, 2, 4, 12, 64]))]
            case 9:
                old, new = draw(st.sampled_from(SWAPS))
                data[:] = bytes(data).replace(old, new, draw(st.sampled_from([1, 9])))
