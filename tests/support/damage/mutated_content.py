"""These functions turn sound arrays, jsons and texts into wrong ones, and say what they did."""

import json
import os
import pickle
import random
from collections.abc import Callable

import numpy as np

from clip_kinetics700.schema import JSON_FIELDS
from tests.support.datasets.layouts import npy_bytes

MARKER = "unpickled"
"""Name of the directory that unpickling anything would make in the current one."""


class Bomb:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        """Return what unpickling calls."""
        return os.mkdir, (MARKER,)


def damage_bytes(data: bytes, rng: random.Random, *, unit: int = 1) -> tuple[bytes, str]:
    """Return bytes that were flipped, cut, put in, taken out or written over, and how."""
    at = rng.randrange(max(len(data), 1))
    if rng.random() < 0.5:
        # Most of a small tar is zeros; bytes that say something are hit as often.
        at = next((place for place in range(at, len(data)) if data[place]), at)
    kind = rng.choice(("flip", "flip", "set", "cut", "insert", "delete", "overwrite", "append"))
    if kind in ("flip", "set"):
        old = data[at] if data else 0
        new = old ^ 1 << rng.randrange(8) if kind == "flip" else rng.choice((0, 255, 32, 55))
        return data[:at] + bytes([new]) + data[at + 1 :], f"byte {at} from {old} to {new}"
    if kind == "cut":
        return data[:at], f"cut at byte {at} of {len(data)}"
    at, span = at - at % unit, unit * rng.randint(1, 3)
    other = rng.randrange(max(len(data), 1)) // unit * unit
    piece = rng.choice((bytes(span), rng.randbytes(span), data[other : other + span]))
    what = f"{kind} {span} bytes at byte {at}, {piece[:8].hex()}..."
    if kind == "append":
        return data + piece, what
    left_out = 0 if kind == "insert" else span
    return data[:at] + (b"" if kind == "delete" else piece) + data[at + left_out :], what


DESCRIPTIONS = (
    *(repr(f"{order}f{size}") for order in "<>=|" for size in (2, 4, 8, 16)),
    *("'|O'", "'O'", "'<i2'", "'<U4'", "'|S0'", "'|V0'", "'<M8[s]'", "'<c8'", "'|b1'", "'f2'"),
    *(
        "()",
        "[]",
        "{}",
        "None",
        "5",
        "''",
        "'(8,)<f2'",
        "('<f2', (8,))",
        "('<f2',)",
        "(('<f2', 2), 3)",
    ),
    *("[('a', '<f2')]", "[()]", "[('a', '|O')]", "[('a', '<f2', -1)]", "[1]", "'<f2,<f2'", "'\\0'"),
)
SHAPES = (
    *(
        "(1, 8)",
        "(0, 8)",
        "(2, 8)",
        "(3, 8)",
        "(4, 8)",
        "(8, 1)",
        "(1, 9)",
        "(1, 0)",
        "(0, 0)",
        "()",
    ),
    *("(8,)", "(1, 1, 8)", "[1, 8]", "8", "None", "(1.0, 8)", "(True, 8)", "('1', 8)", "(-1, 8)"),
    *("(-1, -8)", "(1 << 62, 8)", f"({1 << 62}, 8)", f"({1 << 63}, {1 << 63})", f"(0, {1 << 63})"),
    *(f"({1 << 64}, 0)", f"({10**400}, 8)", f"({1 << 40}, 8)", "(1, 8" + ", 1" * 64 + ")"),
)
WHOLE_HEADERS = (
    *("", "{", "{}", "[]", "1", "'x'", "\n", "{'descr': '<f2'}", "{[1]: 2}", "{1: 2, 'a': 3}"),
    *("(" * 5000, "[" * 90, "-" * 9000 + "1", "{'a':" * 80, "not " * 2000 + "1", "1" * 5000),
    *(
        "{'descr': __import__('os').mkdir('unpickled')}",
        "\0" * 100,
        "\xff" * 50,
        "# comment",
        "'''",
    ),
)
TIMES = (1, 1, 1, 2, 3)


def mutate_npy(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return a `.npy` with another header or payload, or with damaged bytes."""
    kind = rng.choice(("bytes", "array", "pickle", "field", "field", "field", "whole", "version"))
    header, payload = data[10 : 10 + data[8]].decode("latin-1"), data[10 + data[8] :]
    version, what = (1, 0), ""
    if kind == "bytes":
        return damage_bytes(data, rng)
    if kind == "array":
        return mutate_array(rng)
    if kind == "pickle":
        header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        payload = pickle.dumps([Bomb()], protocol=rng.choice((0, 2, 4)))
        what = header
    elif kind == "field":
        fields = {"descr": "'<f2'", "fortran_order": "False", "shape": header.split("'shape': ")[1]}
        fields["shape"] = fields["shape"].split(", }")[0]
        for _ in range(rng.choice(TIMES)):
            name, values = rng.choice((("descr", DESCRIPTIONS), ("shape", SHAPES)))
            fields[name] = rng.choice(values)
        fields["fortran_order"] = rng.choice(("False", "True", "1", "None"))
        what = header = "{" + "".join(f"'{name}': {text}, " for name, text in fields.items()) + "}"
        payload = payload[: rng.choice((None, None, 0, 2, -2))] + rng.choice((b"", b"", bytes(8)))
    elif kind == "whole":
        what = header = rng.choice(WHOLE_HEADERS)
    else:
        version = (rng.choice((0, 1, 2, 3, 4, 255)), rng.choice((0, 0, 0, 1)))
    return pack_npy(header, payload, version, rng), f"{kind} {version} {what:.99}"


def pack_npy(header: str, payload: bytes, version: tuple[int, int], rng: random.Random) -> bytes:
    """Return a `.npy` of these parts; its header's length is wrong now and then."""
    raw = header.encode("latin-1")
    raw = raw.rstrip() + b" " * (-(len(raw.rstrip()) + 11) % 64) + b"\n"
    nbytes = rng.choice((len(raw),) * 12 + (0, 1, len(raw) - 1, len(raw) + 1, 65_535))
    length = nbytes.to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + raw + payload


def mutate_array(rng: random.Random) -> tuple[bytes, str]:
    """Return a sound `.npy` of another array: some that are right, and some that are not."""
    dtype = rng.choice(("<f2", ">f2", "<f4", ">f8", "<f8", "<f16", "<i4", "|b1", "<c8", "|S3"))
    shape = rng.choice(((1, 8), (2, 8), (3, 8), (0, 8), (1, 5), (0, 0), (8,), (1, 2, 4), (600, 8)))
    array = np.random.default_rng(rng.randrange(99)).standard_normal(shape).astype(dtype)
    if dtype[1] == "f" and array.size and rng.random() < 0.3:
        with np.errstate(over="ignore"):
            array.flat[0] = rng.choice((np.nan, np.inf, -0.0, 70_000.0))
    array = np.asfortranarray(array) if rng.random() < 0.3 else array
    return npy_bytes(array), f"array {dtype} {shape}"


VALUES = (
    *("null", "true", "false", "0", "-1", "1.5", "1e3", "1e400", "-1e400", "NaN", "Infinity"),
    *(
        str(1 << 63),
        str(1 << 64),
        "1" + "0" * 400,
        "9" * 5000,
        "[]",
        "{}",
        "[null]",
        "[[1]]",
        "[0]",
    ),
    *('""', '"x"', '"7"', '" 7 "', '"1e3"', '"nan"', '"0x1F"', '"1_0"', '"\\ud800"', '"\\u0000"'),
    *('"' + "z" * 100_000 + '"', '"é\U0001f600"', '{"a": 1}', '"{\\"a\\": 1}"', '"[1]"', "[0, 1]"),
    *("[0.0, 1.0, 2.0]", '["0", "1"]', "[true]", "[1e300]", "[0, NaN]", "[0, 1, 2, 3]", "[" * 2000),
)
DOCUMENTS = (
    *(b"", b"null", b"[]", b'"x"', b"1", b"{}", b"{", b"{'a': 1}", b"{} {}", b"\xef\xbb\xbf{}"),
    *(
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 500 + b"]" * 500,
        b"\xff\xfe{\0}\0",
        b"\0",
        b"// x\n{}",
    ),
    *(
        b'{"a": 1, "a": 2}',
        b'{"\xff": 1}',
        b'{"x": "\\ud800"}',
        b'{"extra": "[1]", "a": 1}',
        b" {} ",
    ),
    *(b'{"extra": "x", "a": 1}', b'{"extra": 5, "a": 1}', b'{"a": NaN}', b'{"": {"": [[[[]]]]}}'),
)
FIELDS = (*sorted(JSON_FIELDS), "other", "", "extra", "timestamps", "label_id", "time_start")


def mutate_json(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return a json with other values, or another document, or damaged bytes."""
    kind = rng.choice(("bytes", "document", "value", "value", "value"))
    if kind == "bytes":
        return damage_bytes(data, rng)
    if kind == "document":
        document = rng.choice(DOCUMENTS)
        return document, f"document {document[:50]!r}"
    fields = {name: json.dumps(value) for name, value in json.loads(data).items()}
    changes = {rng.choice(FIELDS): rng.choice(VALUES) for _ in range(rng.choice(TIMES))}
    pairs = [*fields.items(), *changes.items()]
    if rng.random() < 0.7:
        # Otherwise a name comes twice.
        pairs = [*(fields | changes).items()]
    text = "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in pairs) + "}"
    return text.encode(), f"values { {name: value[:40] for name, value in changes.items()} }"


TEXTS = (
    *(
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbfyoga",
        b"a\nb\r\n",
        b" yoga ",
        b"\xc3",
    ),
    *("é\U0001f600".encode(), b"y" * 1_000_000, b"\x1b[31m", "\u2028\u202e".encode(), b"yoga\n"),
)


def mutate_text(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return another caption, or the same with damaged bytes."""
    if rng.random() < 0.4:
        return damage_bytes(data, rng)
    text = rng.choice(TEXTS)
    return text, f"caption {text[:20]!r}"
