"""Method `planes`: weights of one architecture, XOR the old ones, first bytes together, then second bytes, and so on.

Fine-tuning moves a float32 a little: sign and exponent stay, the XOR of them is zero, and zeros that stand together
cost nothing. What did not move at all costs nothing either.
"""

from __future__ import annotations

from shared.delta import blocks
from shared.errors import WireError

LEVEL = 19


def encode(source: bytes, result: bytes) -> bytes | None:
    """Write the difference of the weights; nothing if the files have none of the same form."""
    found = blocks.find(source, result)
    if not found:
        return None
    old = b"".join(source[block.source_at : block.source_at + block.length] for block in found)
    new = b"".join(result[block.at : block.at + block.length] for block in found)
    return blocks.compress([blocks.head(result, found), *cut(xor(old, new))], source, LEVEL)


def decode(body: bytes, source: bytes, length: int) -> bytes:
    """Make the file from the old one; WireError if the body does not fit it."""
    data = blocks.decompress(body, source, length)
    found, result, at = blocks.read_head(data, source, length)
    if len(data) - at != sum(block.length for block in found):
        raise WireError("its planes are not as long as its blocks", field="delta")
    changes, done = join(data[at:]), 0
    for block in found:
        old = source[block.source_at : block.source_at + block.length]
        result[block.at : block.at + block.length] = xor(old, changes[done : done + block.length])
        done += block.length
    return bytes(result)


def xor(one: bytes, other: bytes) -> bytes:
    """XOR bytes of the same length.

    >>> xor(bytes([1, 2, 255]), bytes([1, 1, 15])).hex()
    '0003f0'
    """
    both = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return both.to_bytes(len(one), "little")


def cut(data: bytes) -> list[bytes]:
    """Put first bytes of all numbers together, second bytes, and so on; what is left over comes last.

    >>> cut(b"abcdABCD12")
    [b'aA', b'bB', b'cC', b'dD', b'12']
    """
    whole = len(data) - len(data) % blocks.WIDTH
    return [*(data[i : whole : blocks.WIDTH] for i in range(blocks.WIDTH)), data[whole:]]


def split(data: bytes) -> bytes:
    """Return the byte planes one after the other.

    >>> split(b"abcdABCD12")
    b'aAbBcCdD12'
    """
    return b"".join(cut(data))


def join(data: bytes) -> bytes:
    """Undo `split`.

    >>> join(b"aAbBcCdD12")
    b'abcdABCD12'
    """
    n = len(data) // blocks.WIDTH
    out = bytearray(data)
    for i in range(blocks.WIDTH):
        out[i : n * blocks.WIDTH : blocks.WIDTH] = data[i * n : (i + 1) * n]
    return bytes(out)
