"""`overwrite_size` writes absurd picture sizes into the streams' headers, where decoders look."""

import re
import struct
from collections.abc import Callable

# The largest picture that FFmpeg takes has 2**28 pixels; a frame of it has 400 MB.
SIZES = ((65535, 65535), (16000, 16000), (8192, 8192), (65520, 16), (16, 65520), (0, 0), (1, 1))


def write_bits(number: int, n_bits: int) -> str:
    """Return the last bits of a number."""
    return f"{number % 2**n_bits:0{n_bits}b}"


def write_golomb(number: int) -> str:
    """Return the bits of an unsigned Exp-Golomb code."""
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def write_sps(width: int, height: int) -> str:
    """Return a parameter set of H.264's baseline profile, behind its first byte."""
    across, down = max(0, -(-width // 16) - 1), max(0, -(-height // 16) - 1)
    numbers = "".join(map(write_golomb, (0, 0, 2, 1)))
    head = write_bits(66, 8) + write_bits(0xC0, 8) + write_bits(62, 8) + numbers + "0"
    return head + write_golomb(across) + write_golomb(down) + "11001"


def write_little(width: int, height: int) -> str:
    """Return the bits of two 16-bit numbers, the low bytes first."""
    return "".join(f"{byte:08b}" for byte in struct.pack("<HH", width, height))


# The bytes before a stream's picture size, how many bits later it stands, and how it is written.
STREAM_SIZES: tuple[tuple[bytes, int, Callable[[int, int], str]], ...] = (
    (b"\0\0\1\xb3", 0, lambda width, height: write_bits(width, 12) + write_bits(height, 12)),
    (b"I\x83B", 4, lambda width, height: write_bits(width - 1, 16) + write_bits(height - 1, 16)),
    (b"\x9d\x01*", 0, lambda width, height: write_little(width & 16383, height & 16383)),
    (b"GIF89a", 0, write_little),
    (b"gd\0", -16, write_sps),
    (b"gB\xc0", -16, write_sps),
    (b"gM@", -16, write_sps),
)


def overwrite_size(data: bytes, width: int, height: int) -> bytes:
    """Return the file with another size in the first known header in it."""
    edited = bytearray(data)
    for marker, offset, write in STREAM_SIZES:
        if marker not in data:
            continue
        bits = write(width, height)
        for match in re.finditer(re.escape(marker), data):
            for place, bit in enumerate(bits, match.end() * 8 + offset):
                if place // 8 < len(edited):
                    mask = 0x80 >> place % 8
                    kept = edited[place // 8] & ~mask
                    edited[place // 8] = kept | (mask if bit == "1" else 0)
        break
    return bytes(edited)
