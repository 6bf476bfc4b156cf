"""Take from this process what a model needs not have: the network, and other programs. For the self-test on Linux.

A filter of system calls (seccomp, ``prctl(2)``) that needs no privilege, holds for all threads that come after it, and
can not be taken off again.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER_MODE = 22, 38, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32 = 0x40000000  # from here on the same calls stand once more, for programs with short pointers
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
# Architecture as the kernel names it (AUDIT_ARCH_*); numbers of socket, io_uring_setup, ptrace, execve, execveat.
_CALLS = {
    "x86_64": (0xC000003E, (41, 425, 101, 59, 322)),
    "aarch64": (0xC00000B7, (198, 425, 117, 221, 281)),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine() -> bool:
    """Refuse sockets and other programs to this process from now on; return whether the kernel does so."""
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    rules = _rules(*known)
    program = _Program(len(rules) // 8, rules)
    call = ctypes.CDLL(None, use_errno=True).prctl
    call.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
    if call(_PR_SET_NO_NEW_PRIVS, 1, None, None, None):
        return False
    return not call(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.addressof(program), None, None)


def _rules(architecture: int, numbers: tuple[int, ...]) -> bytes:
    """Return the filter's program: 8 bytes an instruction, see ``struct sock_filter``.

    A call of another architecture (a 32 bit one on a 64 bit machine) has other numbers and is refused as a whole.
    """
    steps = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _REFUSE)]
    steps += [(_LOAD, 0, 0, _NUMBER_AT), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    for number in numbers:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
