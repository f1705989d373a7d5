import mmap

from rivulet.pocket.ram import peak_bytes, resident_bytes


def test_memory_that_is_taken_and_touched_is_seen():
    size = 64 << 20
    before, peak = resident_bytes(), peak_bytes()
    with mmap.mmap(-1, size) as taken:
        taken.write(b"\1" * size)
        # half: the system may count pages late or take others back meanwhile
        assert resident_bytes() - before > size / 2
        assert peak_bytes() >= max(peak, before + size / 2)
    assert peak_bytes() >= max(peak, before + size / 2)
