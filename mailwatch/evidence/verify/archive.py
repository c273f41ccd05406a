"""Reads an untrusted zip: no file is extracted, every read is bounded.

Zip readers differ in where they begin and in what they skip. Given a second directory, or bytes before, between or
after the files, one reader may find other files than another. So every byte must belong to the files or the
directory, without gaps. A header may have no extra field but the lengths of zip64 (APPNOTE 4.5.3): Info-ZIP and
Python from 3.12 on take a file's name from another field (0x7075), older ones do not. The header of a file must
repeat what the directory says of it, since a program that reads a stream knows only that header.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from mailwatch.errors import is_local_failure
from mailwatch.evidence.verify.unpack import PackedFile
from mailwatch.ledger.timestamp import MAX_REPLY_BYTES

_END = 22
_ZIP64_END = 56 + 20
_DESCRIPTORS = (12, 16, 20, 24)
_ZIP64, _LATER = 0x0001, 0xFFFFFFFF
MAX_MODE = 0o644
"""Permissions that a file may have at most: nobody runs anything out of a bundle, or runs it as its owner."""


def layout_fault(file: IO[bytes], infos: Iterable[zipfile.ZipInfo], start: int, size: int) -> str:
    """Return what is wrong with the layout, "" if nothing. `start`: offset of the directory."""
    infos = sorted(infos, key=lambda info: info.header_offset)
    file.seek(max(0, size - _END))
    end = file.read(_END)
    directory = sum(46 + len(info.orig_filename.encode()) + len(info.extra) + len(info.comment) for info in infos)
    if not end.startswith(b"PK\5\6") or size - _END - start - directory not in (0, _ZIP64_END):
        return "there are other bytes in or behind its directory"
    if struct.unpack("<HH", end[8:12]) != (len(infos), len(infos)):
        return "its directory does not list as many files as it says"
    at = 0
    for info, following in zip(infos, [*(info.header_offset for info in infos[1:]), start], strict=True):
        if info.header_offset != at:
            return f"there are other bytes before {info.filename}"
        file.seek(at)
        head = file.read(30)
        if not head.startswith(b"PK\3\4") or len(head) < 30:
            return f"{info.filename} has no header"
        lengths = struct.unpack("<HH", head[26:])
        name, extra = file.read(lengths[0]), file.read(lengths[1])
        if fault := extra_fault(extra):
            return f"{info.filename} has {fault}"
        if not _agree(head, name, extra, info):
            return f"its directory and the header of {info.filename} differ"
        at += 30 + sum(lengths) + info.compress_size
        if info.flag_bits & 0x8 and following - at in _DESCRIPTORS:
            file.seek(at)
            if not _describes(file.read(following - at), info):
                return f"what follows {info.filename} is not its description"
            at = following
    return "" if at == start else "there are other bytes before its directory"


def extra_fault(extra: bytes) -> str:
    """Return what is wrong with the extra fields of a header, "" if there is none but the lengths of zip64."""
    if not extra:
        return ""
    if len(extra) < 4:
        return "an extra field that is cut off"
    kind, length = struct.unpack_from("<HH", extra)
    if kind == _ZIP64 and length == len(extra) - 4:
        return ""
    return f"extra fields (0x{kind:04x}): some programs take another name from them"


def _agree(head: bytes, name: bytes, extra: bytes, info: zipfile.ZipInfo) -> bool:
    """Return whether a file's own header says the same as the directory."""
    flags, method, crc, packed, size = struct.unpack("<HH4xLLL", head[6:26])
    if len(extra) >= 20 and _LATER in (packed, size):
        size, packed = struct.unpack_from("<QQ", extra, 4)
    if (flags, method, name) != (info.flag_bits, info.compress_type, info.orig_filename.encode()):
        return False
    if flags & 0x8 and not crc and packed in (0, _LATER) and size in (0, _LATER):
        return True  # Written as a stream: the numbers follow the file.
    return (crc, packed, size) == (info.CRC, info.compress_size, info.file_size)


def _describes(descriptor: bytes, info: zipfile.ZipInfo) -> bool:
    """Return whether a data descriptor (APPNOTE 4.3.9) repeats what the directory says of its file."""
    form = "<LLL" if len(descriptor) in (12, 16) else "<LQQ"
    signature, rest = descriptor[: -struct.calcsize(form)], descriptor[-struct.calcsize(form) :]
    return signature in (b"", b"PK\7\x08") and struct.unpack(form, rest) == (
        info.CRC,
        info.compress_size,
        info.file_size,
    )


MAX_FILES = 50_000
MAX_LINE_BYTES = 1 << 20
PART_BYTES = 1 << 19
MAX_LARGE_BYTES = 64 << 30
SIZE_LIMITS = (
    ("entries.jsonl", MAX_LARGE_BYTES, 200),
    (".zip", MAX_LARGE_BYTES, 2),
    (".tsr", MAX_REPLY_BYTES, 200),
    (".pem", 1 << 20, 200),
    (".eml", 1 << 20, 200),
    ("report.pdf", 32 << 20, 200),
    ("", 64 << 20, 200),
)
"""Limits by the end of a file's name: most bytes, and highest compression ratio.

Entries are read line by line and compress to about a tenth; the other files are read whole.
"""
MAX_VALUES = 1_000_000
"""Most values in a JSON file: each takes two bytes of text but over a hundred bytes of memory."""
MAX_DEPTH = 100
"""Most levels of lists and objects in a JSON file: how many a program can read differs."""
ALLOWED_NAMES = re.compile(
    r"(outage|period)\.json|report\.pdf|entries\.jsonl|proof\.json|manifest\.(json|sig)|keys/(ledger|maker)\.pub"
    r"|verify\.py"
    r"|(VERIFY|VERIFICA)\.md|tokens/([0-9a-f]{64}\.tsr|[0-9A-Za-z][0-9A-Za-z._-]{0,100}\.pem)"
    r"|declarations/[0-9a-f]{64}\.eml"
)
_NEEDED = ("entries.jsonl", "proof.json", "manifest.json", "manifest.sig", "keys/ledger.pub")
STATEMENTS = ("outage.json", "period.json")
"""A bundle holds exactly one of them: the statement on an outage, or on a window of time."""


@dataclass(frozen=True, slots=True)
class ZipShape:
    """The files that a zip may and must contain: `names`, those `needed`, and exactly one of `statements`."""

    names: re.Pattern[str]
    needed: tuple[str, ...]
    statements: tuple[str, ...]


BUNDLE_SHAPE = ZipShape(ALLOWED_NAMES, _NEEDED, STATEMENTS)


class VerificationError(Exception):
    """The bundle or a part of it is invalid. The message says what and where."""


class Archive:
    """An open bundle. Files returned by `read` and `lines` are hashed into `seen`, to compare with the
    manifest.
    """

    def __init__(self, path: Path, shape: ZipShape = BUNDLE_SHAPE) -> None:
        """Raises VerificationError."""
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
            infos = self._zip.infolist()
        except BaseException as error:  # On hostile bytes zipfile raises struct.error, IndexError and more.
            if is_local_failure(error):
                raise
            raise VerificationError(f"not a readable zip: {str(error)[:120]}") from None
        self.seen: dict[str, dict[str, str | int]] = {}
        self._shape = shape
        try:
            self._infos = _check_files(infos, shape)
            with path.open("rb") as file:
                wrong = layout_fault(file, infos, self._zip.start_dir, path.stat().st_size)
            if wrong:
                raise VerificationError(f"not a zip that all programs read in the same way: {wrong}")
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        """Names of the files in the zip."""
        return list(self._infos)

    @property
    def statement(self) -> str:
        """Name of the statement's file."""
        return next(name for name in self._shape.statements if name in self._infos)

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises VerificationError."""
        if name not in self._infos:
            raise VerificationError(f"{name} is missing")
        return b"".join(self._parts(name))

    def json(self, name: str) -> dict[str, object]:
        """Return the JSON object in a file. Raises VerificationError."""
        return parse_object(self.read(name), name)

    def copy(self, name: str, path: Path) -> None:
        """Copy an uncompressed file to `path`, which takes no more space than the zip. Raises
        VerificationError.
        """
        if self._infos[name].compress_type != zipfile.ZIP_STORED:
            raise VerificationError(f"{name} is packed twice")
        with path.open("xb") as out:
            for part in self._parts(name):
                out.write(part)

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a file, each with its line feed. Raises VerificationError."""
        rest = b""
        for part in self._parts(name):
            whole = (rest + part).split(b"\n")
            rest = whole.pop()
            for line in whole:
                yield line + b"\n"
            if len(rest) > MAX_LINE_BYTES:
                raise VerificationError(f"{name} has a line of more than {MAX_LINE_BYTES} bytes")
        if rest:
            raise VerificationError(f"{name} ends in the middle of a line")

    def _parts(self, name: str) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0

        def unpack() -> bytes:
            part = file.read(PART_BYTES)
            digest.update(part)
            return part

        try:
            with self._path.open("rb") as raw, contextlib.ExitStack() as stack:
                file = PackedFile(raw, self._infos[name])
                part = unpack()
                if len(part) == PART_BYTES:
                    # One part is decompressed while the previous one is processed: they use different processors.
                    ahead = stack.enter_context(ThreadPoolExecutor(1))
                while part:
                    coming = ahead.submit(unpack) if len(part) == PART_BYTES else None
                    size += len(part)
                    yield part
                    part = coming.result() if coming else unpack()
        except BaseException as error:  # Any exception, on hostile bytes.
            if is_local_failure(error):
                raise
            raise VerificationError(f"{name} cannot be read: {str(error)[:120]}") from None
        if size != self._infos[name].file_size:
            raise VerificationError(f"{name} is not as long as the zip says")
        self.seen[name] = {"sha256": digest.hexdigest(), "size": size}

    def close(self) -> None:
        """Close the zip."""
        self._zip.close()


def _check_files(infos: list[zipfile.ZipInfo], shape: ZipShape) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    if len(infos) > MAX_FILES:
        raise VerificationError(f"holds {len(infos)} files, more than {MAX_FILES}")
    for info in infos:
        name = info.filename
        if fault := extra_fault(info.extra):
            raise VerificationError(f"{info.orig_filename[:80]!r} has {fault}")
        if info.orig_filename != name or not shape.names.fullmatch(name):
            raise VerificationError(f"holds a file that does not belong there: {name[:80]!r}")
        if name in found:
            raise VerificationError(f"holds two files of the name {name}")
        if info.comment:
            raise VerificationError(f"{name} has a comment")
        if info.flag_bits & 0x1:
            raise VerificationError(f"{name} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise VerificationError(f"{name} is packed in an unknown way")
        # Unpacking a link would create it, and later files could be written through it.
        if not stat.S_ISREG(info.external_attr >> 16) and stat.S_IFMT(info.external_attr >> 16):
            raise VerificationError(f"{name} is not a plain file")
        if (mode := stat.S_IMODE(info.external_attr >> 16)) & ~MAX_MODE:
            raise VerificationError(f"{name} has the file mode {mode:04o}, beyond {MAX_MODE:04o}")
        most, ratio = next(rest for end, *rest in SIZE_LIMITS if name.endswith(end))
        if info.file_size > min(most, ratio * info.compress_size + 4096):
            raise VerificationError(f"{name} would unpack to {info.file_size} bytes out of {info.compress_size}")
        found[name] = info
    if missing := [name for name in shape.needed if name not in found]:
        raise VerificationError(f"{missing[0]} is missing")
    if sum(name in found for name in shape.statements) != 1:
        raise VerificationError(f"it must hold either {' or '.join(shape.statements)}")
    return found


def parse_object(raw: bytes, name: str) -> dict[str, object]:
    """Parse a JSON object without duplicate keys. Raises VerificationError."""
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise VerificationError(f"{name} holds more than {MAX_VALUES} values")
    try:
        value = _STRICT_DECODER.decode(raw.decode())
        if _SURROGATE.search(raw):
            # Half of a pair of surrogates is no text, and cannot be written into another file.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{name} is not JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise VerificationError(f"{name} is not a JSON object")
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for one in level for inner in _inside(one)]
    if level:
        raise VerificationError(f"{name} is nested more than {MAX_DEPTH} deep")
    return value


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large")
    return value


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STRICT_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_constant, parse_float=_finite)
