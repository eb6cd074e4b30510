# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import io
import stat
import tarfile
import zipfile

import pytest

from modeling_cssfe.data.builders import archives
from modeling_cssfe.data.builders.archives import FolderTree, JoinedTree, open_archive


FILES = {"VOC/a.xml": b"<a/>", "VOC/images/b.jpg": bytes(range(256)) * 40, "VOC/empty": b""}


def write_tar(path, members):
    """Write members: (name, content) for files, or a TarInfo."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


WRITERS = {"tar": write_tar, "zip": write_zip}


@pytest.fixture(params=WRITERS)
def archive(request, tmp_path):
    return WRITERS[request.param](tmp_path / f"set.{request.param}", FILES.items())


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_files_are_read_by_name(archive):
    with open_archive(archive) as tree:
        assert set(tree) == set(FILES)
        assert {name: tree.read(name) for name in reversed(FILES)} == FILES
        assert "VOC/none" not in tree
        with pytest.raises(FileNotFoundError, match="no file 'VOC/none'"):
            tree.read("VOC/none")


def test_names_that_begin_with_a_dot_and_folders_are_ordinary(tmp_path):
    folder = special("./VOC", tarfile.DIRTYPE)
    with open_archive(write_tar(tmp_path / "a.tar", [folder, ("./VOC/a.xml", b"x")])) as tree:
        assert list(tree) == ["VOC/a.xml"]


@pytest.mark.parametrize("name", ["../out.txt", "VOC/../../out.txt", "/etc/out.txt", "C:\\out.txt", "VOC\\..\\..\\out"])
@pytest.mark.parametrize("kind", WRITERS)
def test_names_that_lead_out_are_refused(kind, name, tmp_path):
    path = WRITERS[kind](tmp_path / f"bad.{kind}", [*FILES.items(), (name, b"x")])
    with pytest.raises(ValueError, match="leads out of the archive"):
        open_archive(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize(
    "member",
    [
        special("VOC/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("VOC/link", tarfile.SYMTYPE, "../../out"),
        special("VOC/link", tarfile.SYMTYPE, "a.xml"),
        special("VOC/link", tarfile.LNKTYPE, "/etc/passwd"),
        special("VOC/null", tarfile.CHRTYPE),
        special("VOC/disc", tarfile.BLKTYPE),
        special("VOC/pipe", tarfile.FIFOTYPE),
    ],
    ids=["absolute link", "link out", "link inside", "hard link", "character device", "block device", "pipe"],
)
def test_links_and_devices_are_refused(member, tmp_path):
    with pytest.raises(ValueError, match=f"holds {member.name!r}, a link, device or pipe"):
        open_archive(write_tar(tmp_path / "bad.tar", [*FILES.items(), member]))


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("VOC/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="'VOC/link', a link, device or pipe"):
        open_archive(tmp_path / "bad.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", WRITERS)
def test_two_files_of_one_name_are_refused(kind, tmp_path):
    with pytest.raises(ValueError, match=r"two files named 'VOC/a\.xml'"):
        open_archive(WRITERS[kind](tmp_path / "bad", [*FILES.items(), ("VOC/a.xml", b"other")]))


# Tar: in the last block, between two files (where Python sees a whole archive), within a file, and within a header.
@pytest.mark.parametrize("kept", [-1, 512 * 2, 512 * 10, 512 * 2 + 100, 512 // 2, 0])
def test_a_truncated_tar_is_found(kept, tmp_path):
    path = write_tar(tmp_path / "set.tar", FILES.items())
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match="download it again"):
        open_archive(path)


@pytest.mark.parametrize("kept", [-1, 100, 0])
def test_a_truncated_zip_is_found(kept, tmp_path):
    path = write_zip(tmp_path / "set.zip", FILES.items())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="download it again"):
        open_archive(path)


def test_a_damaged_file_in_a_zip_is_named(tmp_path):
    path = write_zip(tmp_path / "set.zip", [("a.txt", b"abcdefgh" * 100)])
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF
    path.write_bytes(content)
    with open_archive(path) as tree, pytest.raises(ValueError, match=r"'a\.txt' is damaged"):
        tree.read("a.txt")


def test_a_file_that_unpacks_to_more_than_any_real_one_is_not_read(archive, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    with open_archive(archive) as tree:
        assert tree.read("VOC/a.xml") == b"<a/>"
        with pytest.raises(ValueError, match="10240 bytes unpacked, more than the 1000"):
            tree.read("VOC/images/b.jpg")


@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_compressed_tars_are_refused_with_the_mend(compression, tmp_path):
    path = tmp_path / f"set.tar.{compression}"
    with tarfile.open(path, f"w:{compression}"):
        pass
    with pytest.raises(ValueError, match="unpack it if it is compressed otherwise"):
        open_archive(path)


def test_an_absent_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no archive '.*none\.tar'"):
        open_archive(tmp_path / "none.tar")


def test_a_folder_tree_stays_in_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"a")
    (tmp_path / "out.txt").write_bytes(b"secret")
    (tmp_path / "in" / "link.txt").symlink_to(tmp_path / "out.txt")
    tree = FolderTree(tmp_path / "in", "VOC/")
    assert tree.read("VOC/a.txt") == b"a"
    assert "a.txt" not in tree
    for name in ("VOC/../out.txt", "VOC/link.txt", f"VOC/{tmp_path / 'out.txt'}"):
        with pytest.raises(ValueError, match=r"leads out of|is absolute"):
            tree.read(name)
    with pytest.raises(FileNotFoundError, match=r"no file 'none\.txt'"):
        tree.read("VOC/none.txt")


def test_joined_trees_answer_for_their_prefixes(archive, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    with open_archive(archive) as packed:
        tree = JoinedTree({"VOC/": packed, "other/": FolderTree(tmp_path, "other/")})
        assert (tree.read("VOC/a.xml"), tree.read("other/a.txt")) == (b"<a/>", b"a")
        assert "a.txt" not in tree
        with pytest.raises(FileNotFoundError, match="begins with none of VOC/, other/"):
            tree.read("a.txt")
