"""Files made to do harm, and a mutator that damages good ones."""

from __future__ import annotations

import io
import random
import struct
import zipfile

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
WORDS = (b"NaN", b"-1", b"1e999", b"null", b"[]", b"{}", b'""', b"true", b"9" * 5000, b"[" * 5000, b"\xff\xfe", b"\0")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to eight random faults: flipped bits, edge values, cuts, insertions, copies, words of JSON."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not out:
            break
        at = rng.randrange(len(out) if rng.random() < 0.5 else min(len(out), 300))
        width = rng.choice((1, 2, 4, 8))
        faults = (
            lambda at=at: out.__setitem__(at, out[at] ^ (1 << rng.randrange(8))),
            lambda at=at, width=width: out.__setitem__(
                slice(at, at + width), (rng.choice(EDGES) & ((1 << 8 * width) - 1)).to_bytes(width, "little")),
            lambda at=at: out.__delitem__(slice(at, None)),
            lambda at=at: out.__delitem__(slice(at, at + rng.randrange(1, 64))),
            lambda at=at: out.__setitem__(slice(at, at), rng.randbytes(rng.randrange(1, 9))),
            lambda at=at: out.__setitem__(slice(at, at), bytes(out[at:at + rng.randrange(1, 256)])),
            lambda at=at: out.__setitem__(slice(at, at + rng.randrange(1, 9)), rng.choice(WORDS)),
        )
        rng.choice(faults)()
    return bytes(out)


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _long(number: int) -> bytes:
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)


def _numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(_long, values)) + b"t"


def _doubling(levels: int, close: bytes) -> bytes:
    """A value of 2^levels leaves in a few hundred bytes: each level refers to the one below twice."""
    out = b"K\x01q\x00"
    for level in range(1, levels + 1):
        out += b"0(" + b"h" + bytes([level - 1]) + b"h" + bytes([level - 1]) + close + b"q" + bytes([level])
    return out


def _array(shape: bytes, code: str, raw: bytes) -> bytes:
    dtype = _name("numpy", "dtype") + b"(" + _text(code) + b"\x89\x88tR(K\x03" + _text("<") + b"tb"
    data = b"B" + struct.pack("<I", len(raw)) + raw
    return (_name("numpy.core.multiarray", "_reconstruct") + b"(" + _name("numpy", "ndarray") + b"K\x00\x85C\x01btR"
            b"(K\x01" + shape + dtype + b"\x89" + data + b"tb")


def _integers(*values: int) -> bytes:
    return _array(_numbers(len(values)), "i8", struct.pack(f"<{len(values)}q", *values))


def _sparse(shape: tuple[int, int], indices: tuple[int, ...], pointer: tuple[int, ...]) -> bytes:
    parts = {"_shape": _numbers(*shape), "data": _integers(*[1] * len(indices)), "indices": _integers(*indices),
             "indptr": _integers(*pointer)}
    state = b"}" + b"".join(_text(name) + value + b"s" for name, value in parts.items())
    return _name("scipy.sparse.csc", "csc_matrix") + b")R" + state + b"b"


def _call(module: str, name: str, *arguments: str) -> bytes:
    return _name(module, name) + b"(" + b"".join(map(_text, arguments)) + b"tR"


def _tensor(count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    kind = _text("storage") + _name("torch", "FloatStorage")
    storage = b"(" + kind + _text("0") + _text("cpu") + _long(count) + b"tQ"
    return (_name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + _long(offset) + _numbers(*size)
            + _numbers(*stride) + b"\x89}tR")


WITNESS = "executed"
"""The file that an attack would make in the working folder."""

VALUES = {
    "os.system": _call("posix", "system", f"touch {WITNESS}"),
    "builtins.eval": _call("builtins", "eval", f"open('{WITNESS}','w')"),
    "eval of Python 2": _call("__builtin__", "eval", f"open('{WITNESS}','w')"),
    "import": _call("builtins", "__import__", "antigravity"),
    "a dotted name": _call("numpy", "f2py.os.system", f"touch {WITNESS}"),
    "a name of a permitted package": _call("chumpy", "np.os.system", f"touch {WITNESS}"),
    "subprocess": _name("subprocess", "Popen") + b"(" + _text("touch") + _text(WITNESS) + b"l\x85\x81",
    "torch.load": _call("torch", "load", WITNESS),
    "nested pickle": _call("pickle", "loads", "x"),
    "another codec": _call("_codecs", "encode", "x", "rot13"),
    "extension code": b"\x82\x01",
    "change of a class": _name("numpy", "dtype") + b"N}" + _text("__setstate__") + b"K\x01s\x86b",
    "persistent name": b"Pos.system\n",
    "doubling lists": _doubling(40, b"l"),
    "doubling tuples in a set": _name("builtins", "set") + b"(" + _doubling(40, b"t") + b"l\x85R",
    "doubling as persistent name": _doubling(32, b"t") + b"Q",
    "doubling as codec": _name("_codecs", "encode") + _text("x") + _doubling(32, b"t") + b"\x86R",
    "doubling as shape": _array(_doubling(32, b"t"), "f8", bytes(16)),
    "deep tuple": b"N" + b"\x85" * 300_000,
    "deep list": b"]" * 100_000 + b"a" * 99_999,
    "deep tuple in a set": _name("builtins", "set") + b"(N" + b"\x85" * 300_000 + b"l\x85R",
    "itself": b"]q\x00h\x00a",
    "memo number": b"Nr" + struct.pack("<I", 1 << 29),
    "bytes of 2^62": b"\x8e" + struct.pack("<Q", 1 << 62),
    "bytearray of 8 GB": b"\x96" + struct.pack("<Q", 8 << 30),
    "integer of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "array of a negative shape": _array(_numbers(-1, -2), "f8", bytes(16)),
    "array of 10^12": _array(_numbers(10**12), "f8", bytes(16)),
    "array whose size overflows": _array(_numbers(2**33, 2**33), "f8", bytes(16)),
    "array of empty texts": _array(_numbers(4 * 10**9), "S0", b""),
    "array of pointers": _array(_numbers(2), "O8", bytes(16)),
    "sparse of 30000 x 30000": _sparse((30_000, 30_000), (0,), (0, 1)),
    "sparse pointer": _sparse((5, 5), (0,), (0, 1, 1, 1, 1, 10**9)),
    "sparse index": _sparse((5, 1), (-3,), (0, 1)),
}  # fmt: skip

TENSORS = {
    "stride 0": _tensor(1, 0, (1_200_000_000,), (0,)),
    "outside of its storage": _tensor(1, 10**6, (1,), (1,)),
    "negative stride": _tensor(1, 0, (2,), (-1,)),
    "overflow": _tensor(1, 0, (2**61, 2**61), (2**61, 1)),
    "storage larger than the file": _tensor(2**40, 0, (1,), (1,)),
    "many views": b"(" + _tensor(1, 0, (4_000_000,), (0,)) * 500 + b"l",
}


def pickled(value: bytes, key: str) -> bytes:
    """A pickle of {key: value}."""
    return b"\x80\x02}" + _text(key) + value + b"s."


def torch_archive(program: bytes, deflated: bytes | None = None) -> bytes:
    """A file of torch.save around a pickle, with a storage of 4 bytes; deflated: that storage, compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", program)
        if deflated is None:
            archive.writestr("a/data/0", bytes(4))
        else:
            archive.writestr("a/data/0", deflated, zipfile.ZIP_DEFLATED)
    return stream.getvalue()
