"""An interpreter of pickles that builds plain values and records, and can do nothing else.

Python's own unpickler calls what the file names. This one has no call to make: a name becomes a stand-in of
`utils.pickle_records` or, when it is not in the table of permitted names, a `Foreign` object that only remembers the
name. It has no recursion and no memo that a number in the file could enlarge; every value is taken out of the
file's own bytes, and keys of dicts must be plain, so that their hash is found in one step.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

import torch

from utils.pickle_records import (
    DamagedFileError,
    Foreign,
    Function,
    Limits,
    Record,
    TorchStorage,
    UnsafePickleError,
    checked_key,
    shown,
)

LONG_BYTES = 4096
"""Byte strings above this length stay views of the file."""

MakeStorage = Callable[[torch.dtype, str, int], TorchStorage]


class Machine:
    """Runs one pickle in `data` from `position`; afterwards `position` lies behind it.

    permitted: full names to stand-ins, functions and types. encoding: of 8-bit strings of Python 2. storage: makes the
    storages of a torch file. `foreign` collects the names that are not permitted.
    """

    def __init__(self, data: memoryview, permitted: Mapping[str, Any], limits: Limits, encoding: str = "latin1",
                 storage: MakeStorage | None = None, position: int = 0) -> None:
        self.data, self.permitted, self.limits, self.encoding = data, permitted, limits, encoding
        self.storage, self.position = storage, position
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.foreign: list[str] = []

    def run(self) -> Any:
        """The pickled value. Raises UnsafePickleError, DamagedFileError, and anything for a broken pickle."""
        while True:
            self.limits.take_steps(1)
            code = self.take(1)[0]
            if code == pickle.STOP[0]:
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise DamagedFileError(f"byte {code} is no instruction of a pickle")
            operation(self)

    # Reading arguments

    def take(self, count: int) -> memoryview:
        """The next bytes of the file."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise DamagedFileError(f"it ends at byte {len(self.data)}, inside a value of {shown(count)} bytes")
        taken = self.data[self.position:end]
        self.position = end
        return taken

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def sized(self, form: str) -> memoryview:
        return self.take(self.number(form))

    def line(self) -> bytes:
        """Up to the next line end, which is left out."""
        for size in (1 << 10, 1 << 16, len(self.data)):
            text = bytes(self.data[self.position:self.position + size])
            end = text.find(b"\n")
            if end > 0 and text[end - 1] == ord("\r"):  # a pickle writes CR as an escape, at the end of text too
                raise DamagedFileError(f"the line at byte {self.position} ends in CR LF")
            if end >= 0:
                self.position += end + 1
                return text[:end]
        raise DamagedFileError(f"it ends at byte {len(self.data)}, inside a line of text")

    # The stack

    def items(self) -> list[Any]:
        """What lies above the last mark, taken off with it."""
        above, self.stack = self.stack, self.marked.pop()
        return above

    def push_raw(self, raw: memoryview) -> None:
        self.stack.append(bytes(raw) if len(raw) <= LONG_BYTES else raw)

    def push_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedFileError("a global without a name")
        full = f"{module[:100]}.{name[:100]}"
        found = self.permitted.get(full)
        if found is None and module.split(".")[0] in self.permitted:  # a package whose every name is known as one kind
            found = self.permitted[module.split(".")[0]]
        if found is None:
            self.foreign.append(full)
            found = Foreign(full)
        self.stack.append(found)

    def call(self, function: Any, arguments: Any) -> Any:
        """What calling `function` gives: a record of the call, for nearly all."""
        if isinstance(function, Foreign):
            return Foreign(function.name)
        if not isinstance(arguments, tuple):
            raise DamagedFileError(f"arguments of a call: wanted a tuple, got {shown(arguments)}")
        if isinstance(function, Function):
            return function.run(self.limits, *arguments)
        if isinstance(function, type) and issubclass(function, Record):
            return function(*arguments)
        raise UnsafePickleError(f"refused to call {shown(function)}")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, (Foreign, dict)):  # a dict's attributes, such as torch's _metadata, are dropped
            raise UnsafePickleError(f"the pickle tries to change {shown(target)}")

    def extend(self, items: list[Any]) -> None:
        """APPEND, APPENDS and ADDITEMS."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(checked_key, items))
        elif not isinstance(target, Foreign):
            raise DamagedFileError(f"the pickle appends to {shown(target)}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise DamagedFileError("a key without its value")
        if isinstance(target, dict):
            target.update(zip(map(checked_key, items[::2]), items[1::2], strict=True))
        elif not isinstance(target, Foreign):
            raise DamagedFileError(f"the pickle sets entries of {shown(target)}")

    def persistent(self, pid: Any) -> TorchStorage:
        known = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)
        if self.storage is None or not known:
            raise UnsafePickleError(f"refused the persistent object {shown(pid)}")
        if len(pid) > 5 and pid[5] is not None:
            raise DamagedFileError("storage views of very old torch versions are not supported")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(key, str) or not isinstance(count, int) or not 0 <= count < 1 << 60:
            raise DamagedFileError(f"storage {shown(key)} of {shown(count)} elements")
        return self.storage(kind, key, count)

    def refuse_extension(self, size: int) -> None:
        raise UnsafePickleError(f"refused the global of extension code {int.from_bytes(self.take(size), 'little')}")

    def take_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise DamagedFileError("it takes values that it never made")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken


def _quoted(machine: Machine) -> str:
    text = machine.line()
    if len(text) < 2 or text[0] != text[-1] or text[:1] not in (b"'", b'"'):
        raise DamagedFileError("a text without its quotes")
    decoded: bytes = codecs.escape_decode(text[1:-1])[0]
    return decoded.decode(machine.encoding)


def _integer(text: bytes) -> int | bool:
    return text == b"01" if text in (b"00", b"01") else int(text)


def _protocol(machine: Machine) -> None:
    version = machine.take(1)[0]
    if version > 5:
        raise DamagedFileError(f"pickle protocol {version} is unknown")


def _mark(machine: Machine) -> None:
    machine.marked.append(machine.stack)
    machine.stack = []


def _reduce(machine: Machine) -> None:
    machine.stack.append(machine.call(*machine.take_last(2)))


def _new_with_keywords(machine: Machine) -> None:
    function, arguments, keywords = machine.take_last(3)
    if keywords and not isinstance(function, Foreign):
        raise DamagedFileError(f"keyword arguments for {shown(function)}")
    machine.stack.append(machine.call(function, arguments))


def _instance(machine: Machine) -> None:
    machine.push_name(machine.line().decode(), machine.line().decode())
    function = machine.stack.pop()
    items = machine.items()
    machine.stack.append(machine.call(function, tuple(items)))


def _object(machine: Machine) -> None:
    function, *arguments = machine.items()
    machine.stack.append(machine.call(function, tuple(arguments)))


def _dict_of(machine: Machine) -> None:
    items = machine.items()
    machine.stack.append({})
    machine.set_items(items)


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.items()


def _memoize(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _out_of_band(machine: Machine) -> None:
    raise DamagedFileError("parts of it are in another file")


def _push(make: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(make(machine))


def _text(form: str) -> Callable[[Machine], None]:
    return _push(lambda m: str(m.sized(form), "utf-8", "surrogatepass"))


def _raw(form: str) -> Callable[[Machine], None]:
    return lambda machine: machine.push_raw(machine.sized(form))


def _old_text(form: str) -> Callable[[Machine], None]:
    return _push(lambda m: str(m.sized(form), m.encoding))


def _long(form: str) -> Callable[[Machine], None]:
    return _push(lambda m: int.from_bytes(m.sized(form), "little", signed=True))


def _get(index: Callable[[Machine], int]) -> Callable[[Machine], None]:
    return _push(lambda m: m.memo[index(m)])


def _put(index: Callable[[Machine], int]) -> Callable[[Machine], None]:
    return lambda machine: _memoize(machine, index(machine))


_BY_NAME: dict[bytes, Callable[[Machine], None]] = {
    pickle.PROTO: _protocol, pickle.FRAME: lambda m: void(m.take(8)), pickle.MARK: _mark, pickle.POP: _pop,
    pickle.POP_MARK: lambda m: void(m.items()), pickle.DUP: _push(lambda m: m.stack[-1]),
    pickle.NONE: _push(lambda m: None), pickle.NEWTRUE: _push(lambda m: True), pickle.NEWFALSE: _push(lambda m: False),
    pickle.INT: _push(lambda m: _integer(m.line())), pickle.BININT: _push(lambda m: m.number("<i")),
    pickle.BININT1: _push(lambda m: m.number("<B")), pickle.BININT2: _push(lambda m: m.number("<H")),
    pickle.LONG: _push(lambda m: int(m.line().removesuffix(b"L"))), pickle.LONG1: _long("<B"),
    pickle.LONG4: _long("<i"), pickle.FLOAT: _push(lambda m: float(m.line())),
    pickle.BINFLOAT: _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    pickle.STRING: _push(_quoted), pickle.BINSTRING: _old_text("<i"), pickle.SHORT_BINSTRING: _old_text("<B"),
    pickle.BINBYTES: _raw("<I"), pickle.SHORT_BINBYTES: _raw("<B"), pickle.BINBYTES8: _raw("<Q"),
    pickle.BYTEARRAY8: _raw("<Q"), pickle.NEXT_BUFFER: _out_of_band, pickle.READONLY_BUFFER: lambda m: None,
    pickle.UNICODE: _push(lambda m: str(m.line(), "raw-unicode-escape")), pickle.BINUNICODE: _text("<I"),
    pickle.SHORT_BINUNICODE: _text("<B"), pickle.BINUNICODE8: _text("<Q"),
    pickle.EMPTY_TUPLE: _push(lambda m: ()), pickle.TUPLE: lambda m: m_append(m, tuple(m.items())),
    pickle.TUPLE1: _push(lambda m: tuple(m.take_last(1))), pickle.TUPLE2: _push(lambda m: tuple(m.take_last(2))),
    pickle.TUPLE3: _push(lambda m: tuple(m.take_last(3))), pickle.EMPTY_LIST: _push(lambda m: []),
    pickle.LIST: lambda m: m_append(m, m.items()), pickle.EMPTY_DICT: _push(lambda m: {}), pickle.DICT: _dict_of,
    pickle.EMPTY_SET: _push(lambda m: set()),
    pickle.FROZENSET: lambda m: m_append(m, frozenset(map(checked_key, m.items()))),
    pickle.APPEND: lambda m: m.extend(m.take_last(1)), pickle.APPENDS: lambda m: m.extend(m.items()),
    pickle.ADDITEMS: lambda m: m.extend(m.items()), pickle.SETITEM: lambda m: m.set_items(m.take_last(2)),
    pickle.SETITEMS: lambda m: m.set_items(m.items()), pickle.BUILD: Machine.build, pickle.REDUCE: _reduce,
    pickle.NEWOBJ: _reduce, pickle.NEWOBJ_EX: _new_with_keywords, pickle.INST: _instance, pickle.OBJ: _object,
    pickle.GLOBAL: lambda m: m.push_name(m.line().decode(), m.line().decode()),
    pickle.STACK_GLOBAL: lambda m: m.push_name(*m.take_last(2)),
    pickle.GET: _get(lambda m: int(m.line())), pickle.BINGET: _get(lambda m: m.number("<B")),
    pickle.LONG_BINGET: _get(lambda m: m.number("<I")), pickle.PUT: _put(lambda m: int(m.line())),
    pickle.BINPUT: _put(lambda m: m.number("<B")), pickle.LONG_BINPUT: _put(lambda m: m.number("<I")),
    pickle.MEMOIZE: _put(lambda m: len(m.memo)), pickle.PERSID: _push(lambda m: m.persistent(m.line().decode())),
    pickle.BINPERSID: _push(lambda m: m.persistent(m.stack.pop())),
    pickle.EXT1: lambda m: m.refuse_extension(1), pickle.EXT2: lambda m: m.refuse_extension(2),
    pickle.EXT4: lambda m: m.refuse_extension(4),
}  # fmt: skip


def void(_: object) -> None:
    """Drop a value."""


def m_append(machine: Machine, value: Any) -> None:
    """Push a value whose making changed which list is the stack."""
    machine.stack.append(value)


_OPERATIONS = {code[0]: operation for code, operation in _BY_NAME.items()}
