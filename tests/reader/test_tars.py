"""The tar reader reads every dialect, and takes nothing damaged or cut short for complete."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from clip_kinetics700.streams import open_unpacked
from clip_kinetics700.tars import BLOCK, read_members
from tests.support.datasets.layouts import write_members

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
MEMBERS = [("a.npy", b"x" * 700), ("a.json", b""), ("d/é.txt", b"y" * BLOCK)]


def read_all(path: Path) -> list[tuple[str, bytes]]:
    """Return names and bytes of all members of a tar."""
    with open_unpacked(str(path)) as stream:
        return [(member.name, bytes(member.data)) for member in read_members(stream)]


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "no_suffix_gz"])
@pytest.mark.parametrize("tar_format", FORMATS)
def test_every_dialect_is_read(tmp_path: Path, tar_format: int, name: str) -> None:
    """USTAR, GNU and PAX give the members as written, gzipped or not, whatever the file's name."""
    write_members(tmp_path / name, MEMBERS, tar_format)
    assert read_all(tmp_path / name) == MEMBERS


@pytest.mark.parametrize("tar_format", FORMATS[1:])
def test_long_names_are_whole(tmp_path: Path, tar_format: int) -> None:
    """A name longer than a header's field is read from the extension before it."""
    members = [("long/" * 60 + "a.npy", b"x"), ("b.npy", b"y")]
    write_members(tmp_path / "t.tar", members, tar_format)
    assert read_all(tmp_path / "t.tar") == members


def test_links_and_directories_are_passed_over(tmp_path: Path) -> None:
    """Only files are members; what a link claims as its size is not skipped as data."""
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo("other")
            info.type = kind
            tar.addfile(info)
        info = tarfile.TarInfo("a.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    assert read_all(tmp_path / "t.tar") == [("a.txt", b"x")]


def test_offset_is_where_the_bytes_are(tmp_path: Path) -> None:
    """The offset of a member is that of its bytes in the file."""
    path = tmp_path / "t.tar"
    write_members(path, MEMBERS)
    with open_unpacked(str(path)) as stream:
        for member in read_members(stream):
            end = member.offset + len(member.data)
            assert path.read_bytes()[member.offset : end] == member.data


def test_remote_tar_is_read(tmp_path: Path) -> None:
    """A tar at an fsspec URL is read as a local one."""
    write_members(tmp_path / "t.tar", MEMBERS)
    with open_unpacked(f"file://{tmp_path}/t.tar") as stream:
        assert [member.name for member in read_members(stream)] == ["a.npy", "a.json", "d/é.txt"]


def test_empty_tar_has_no_members(tmp_path: Path) -> None:
    """A tar that holds nothing but its end mark is complete and empty."""
    write_members(tmp_path / "t.tar", [])
    assert read_all(tmp_path / "t.tar") == []


@pytest.mark.parametrize("tar_format", FORMATS)
def test_truncated_tar_never_looks_complete(tmp_path: Path, tar_format: int) -> None:
    """Cut anywhere before its end mark, also between two members, a tar raises."""
    whole = tmp_path / "t.tar"
    write_members(whole, MEMBERS, tar_format)
    data = whole.read_bytes()
    end = -(-len(data.rstrip(b"\0")) // BLOCK) * BLOCK
    for size in (*range(0, end + 1, BLOCK), 1, BLOCK + 7, end + 1):
        whole.write_bytes(data[:size])
        with pytest.raises(ValueError, match="truncated: ends at byte"):
            read_all(whole)


def test_truncated_gzip_never_looks_complete(tmp_path: Path) -> None:
    """Cut by one byte or damaged in the middle, a tar.gz raises."""
    path = tmp_path / "t.tar.gz"
    write_members(path, MEMBERS)
    data = path.read_bytes()
    for damaged in (data[:-1], data[:40], data[:-8] + bytes(8)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged gzip stream"):
            read_all(path)


def test_hole_is_not_the_end(tmp_path: Path) -> None:
    """A zeroed header in the middle of a tar is not taken for its end mark."""
    path = tmp_path / "t.tar"
    write_members(path, MEMBERS)
    data = bytearray(path.read_bytes())
    data[1536:2048] = bytes(BLOCK)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="end mark at byte 1536, but more data after it"):
        read_all(path)


def test_damaged_header_is_named(tmp_path: Path) -> None:
    """A header whose checksum is wrong raises with its place."""
    path = tmp_path / "t.tar"
    write_members(path, MEMBERS)
    data = bytearray(path.read_bytes())
    data[1536] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no tar header at byte 1536: bad checksum"):
        read_all(path)


@pytest.mark.parametrize("record", [b"999 path=x\n", b"0 path=x\n", b"nonsense", b"9 size=x\n"])
def test_damaged_pax_header_is_refused(tmp_path: Path, record: bytes) -> None:
    """A PAX record that is no record raises, and does not loop."""
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(record)
        tar.addfile(info, io.BytesIO(record))
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(ValueError, match=r"damaged PAX header|no size"):
        read_all(tmp_path / "t.tar")


def test_endless_header_is_refused(tmp_path: Path) -> None:
    """An extension header that claims gigabytes is refused before it is read."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 5_000_000_000
    (tmp_path / "t.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT))
    with pytest.raises(ValueError, match="a tar header of 5000000000 bytes at byte 0"):
        read_all(tmp_path / "t.tar")


def test_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    """A text file named `.tar`, gzipped or not, is an error."""
    path = tmp_path / "t.tar"
    for data in (b"<html>" * 200, gzip.compress(b"<html>" * 200)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="no tar header at byte 0"):
            read_all(path)
