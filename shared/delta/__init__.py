"""Small updates: a file written down as its difference from one that the reader has already. One method a module.

`choose` tries the methods and keeps the smallest result, `container` is what travels, `blocks` finds float32 weights
in ONNX files. Whoever applies a delta gets the file byte for byte, or an error.
"""

from shared.delta.choose import METHODS, apply, best, encode, memory_bytes
from shared.delta.container import Delta, parse

__all__ = ["METHODS", "Delta", "apply", "best", "encode", "memory_bytes", "parse"]
