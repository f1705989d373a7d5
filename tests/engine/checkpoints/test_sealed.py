"""The checksum of our own files: over every byte, those that nobody reads included."""

import pytest
import torch
from rivulet.model_patches.checkpoints.files import write_whole
from rivulet.model_patches.checkpoints.sealed import refuse_changed, seal

REMEDY = "Copy it again."


@pytest.fixture
def path(tmp_path):
    """Returns a file whose header ends in spaces, which the format allows."""
    path = tmp_path / "x.safetensors"
    for length in range(1, 9):
        about = {"text": 'a "checksum":"' + "0" * 64 + '" in a text' + "." * length}
        assert write_whole("test", path, {"x": torch.arange(9)}, about, "a test") == path.stat().st_size
        if path.read_bytes()[_header(path) - 1 : _header(path)] == b" ":
            return path
    raise AssertionError("no header with spaces")


def _header(path):
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def test_every_byte_counts(path):
    assert refuse_changed("test", path, REMEDY)
    before = path.read_bytes()
    for place, byte in enumerate(before):
        path.write_bytes(before[:place] + bytes([byte ^ 1]) + before[place + 1 :])
        try:
            sealed = refuse_changed("test", path, REMEDY)
        except ValueError as error:
            assert "test: " in str(error) and str(error).endswith(f"on the way. {REMEDY}")
        else:
            assert not sealed, place  # its own place was hit, which a file of ours must have
    space = _header(path) - 1
    path.write_bytes(before[:space] + b"\n" + before[space + 1 :])
    with pytest.raises(ValueError, match="does not agree with its bytes"):
        refuse_changed("test", path, REMEDY)


def test_a_file_that_was_meant_to_change_is_sealed_anew(path):
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    seal(path)
    assert refuse_changed("test", path, REMEDY) and path.read_bytes()[:-1] != before[:-1]


def test_a_file_of_others_has_none(tmp_path):
    path = tmp_path / "other.safetensors"
    for content in (b"", b"\xff" * 8, b"\x10" + b"\0" * 7 + b"{}", b"a" * 100):
        path.write_bytes(content)
        assert not refuse_changed("test", path, REMEDY)
