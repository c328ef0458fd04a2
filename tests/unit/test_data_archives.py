from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vldistill.data import archives
from vldistill.data.archives import Member, check_zip, tar_members, why_unsafe
from vldistill.errors import DataError

PLAIN = {"a.jpg": b"one", "deep/b.jpg": b"two" * 400, "empty": b""}


def write_tar(path: Path, *extra: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in PLAIN.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return path


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_where_they_are_said_to_be(tmp_path: Path, format: int):
    long = tarfile.TarInfo("folder/" + "long" * (20 if format == tarfile.USTAR_FORMAT else 60) + ".txt")
    path = write_tar(
        tmp_path / "a.tar", special("folder", tarfile.DIRTYPE), special("./x/", tarfile.DIRTYPE), long, format=format
    )
    raw = path.read_bytes()
    found = {name: raw[offset : offset + size] for name, offset, size, _ in tar_members(path)}
    assert found == PLAIN | {long.name: b""}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_tars_are_refused_with_the_remedy(tmp_path: Path, pack: Callable[[bytes], bytes]):
    packed = tmp_path / "packed"
    packed.write_bytes(pack(write_tar(tmp_path / "a.tar").read_bytes()))
    with pytest.raises(DataError, match=r"packed cannot be read.*decompress it"):
        list(tar_members(packed))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (special("2.jpg", tarfile.SYMTYPE), "a link"),
        (special("in/2.jpg", tarfile.LNKTYPE), "a link"),
        (special("2.jpg", tarfile.CHRTYPE), "device or special file"),
        (special("2.jpg", tarfile.BLKTYPE), "device or special file"),
        (special("2.jpg", tarfile.FIFOTYPE), "device or special file"),
        (tarfile.TarInfo("../2.jpg"), "leads outside"),
        (tarfile.TarInfo("a/../../2.jpg"), "leads outside"),
        (tarfile.TarInfo("..\\2.jpg"), "leads outside"),
        (special("../out", tarfile.DIRTYPE), "leads outside"),
        (tarfile.TarInfo("/2.jpg"), "absolute"),
        (special("/etc", tarfile.DIRTYPE), "absolute"),
        (tarfile.TarInfo("C:\\2.jpg"), "absolute"),
        (tarfile.TarInfo("2\n.jpg"), "control characters"),
        (tarfile.TarInfo("caf\udce9.jpg"), "not UTF-8"),
    ],
)
def test_an_unsafe_member_refuses_the_whole_archive(tmp_path: Path, member: tarfile.TarInfo, message: str):
    path = write_tar(tmp_path / "a.tar", member)
    with pytest.raises(DataError, match=rf"a\.tar is refused: its member .* is .*{message}.* Make the tar again"):
        list(tar_members(path))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar"]


def test_names_of_any_language_are_fine():
    assert [why_unsafe(name) for name in ("a b.jpg", "café/犬.jpg", "e\u0301", "..a", "a..jpg", "🐕.png")] == [""] * 6


def test_sparse_members_are_refused(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar", special("s", tarfile.GNUTYPE_SPARSE), format=tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match=r"is refused: .*sparse|cannot be read"):
        list(tar_members(path))


@pytest.mark.parametrize("where", ["in the data", "at a member", "in the end mark", "nothing"])
def test_a_tar_that_was_cut_off_is_refused(tmp_path: Path, where: str):
    path = write_tar(tmp_path / "a.tar")
    raw = path.read_bytes()
    members = list(tar_members(path))
    ends = {"in the data": members[1].offset + 600, "at a member": members[1].offset - 512, "nothing": 0}
    path.write_bytes(raw[: ends.get(where, members[-1].offset + 100)])
    with pytest.raises(DataError, match=r"cannot be read .*complete"):
        list(tar_members(path))


def test_a_damaged_header_is_no_end(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar")
    raw = bytearray(path.read_bytes())
    raw[next(m for m in tar_members(path) if m.name == "empty").offset - 500] ^= 1
    path.write_bytes(raw)
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) < len(PLAIN)  # tarfile alone loses it in silence
    with pytest.raises(DataError, match="damaged header, or no end mark, at byte"):
        list(tar_members(path))


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "raw",
    [
        header(tarfile.REGTYPE, 1 << 50),
        header(tarfile.REGTYPE, -(1 << 30)),
        header(tarfile.GNUTYPE_LONGNAME, 1 << 40),
        header(tarfile.XHDTYPE, 1 << 40),
        header(tarfile.XHDTYPE, -512),
        header(tarfile.GNUTYPE_LONGNAME, 1) * 3000,  # each is read within the one before
        (header(tarfile.GNUTYPE_LONGNAME, 512) + b"a" * 512) * 3000,
        header(tarfile.XHDTYPE, 512 << 10) + b"1" * (512 << 10) + header(tarfile.REGTYPE, 0),
        header(tarfile.XHDTYPE, 512) + b"16 size=-99999\n".ljust(512, b"\0") + header(tarfile.REGTYPE, 9),
    ],
    ids=lambda raw: f"{len(raw)} bytes",
)
def test_headers_made_to_hurt(tmp_path: Path, raw: bytes):
    path = tmp_path / "a.tar"
    path.write_bytes(raw + bytes(2048))
    start = time.process_time()
    with pytest.raises(DataError, match=r"cannot be read|is refused"):
        list(tar_members(path))
    assert time.process_time() - start < 5


def test_a_packed_bomb_is_refused_unread(tmp_path: Path):
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb") as out:
        out.write(header(tarfile.REGTYPE, 1 << 33))
        out.write(bytes(1 << 24))
    with pytest.raises(DataError, match="cannot be read"):
        list(tar_members(path))


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "MEMBERS", 2)
    with pytest.raises(DataError, match="more than 2 members"):
        list(tar_members(write_tar(tmp_path / "a.tar")))


def test_an_empty_tar_has_no_members(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    assert list(tar_members(tmp_path / "a.tar")) == []
    assert Member("a", 1, 2) == ("a", 1, 2, 0)


def test_zips(tmp_path: Path):
    path = tmp_path / "a.zip"

    def write(name: str, content: bytes, mode: int = 0o100644, method: int = zipfile.ZIP_STORED) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, method
            archive.writestr(info, content)

    write("fine/a.txt", b"x" * 1000)
    check_zip(path, "file", ratio=1)
    for name in ("../a", "/a", "C:\\a"):
        write(name, b"x")
        with pytest.raises(DataError, match=r"file .*a\.zip is refused: its member"):
            check_zip(path, "file")
    write("a", b"/etc/passwd", mode=0o120777)
    with pytest.raises(DataError, match="a link or device"):
        check_zip(path, "file")
    write("a", bytes(10_000_000), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"unpack to 10.0 MB, from 9\.\d kB"):
        check_zip(path, "file")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read"):
        check_zip(path, "file")
