"""RAM: what is free, and what nested control groups of both versions leave of it."""

import pytest
from rivulet.model_patches.plan.ram import free_ram_bytes, within_groups

GB = 1 << 30


@pytest.fixture
def machine(tmp_path):
    """A machine with 64 GB free; groups: their paths with limit, use and files that can be given up."""

    def make(own, groups, version=2):
        (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {64 << 20} kB\n")
        (tmp_path / "own").write_text(own)
        root = tmp_path / "cgroup" / ("memory" if version == 1 else "")
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for path, (limit, used, files) in groups.items():
            folder = root / path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / names[0]).write_text(f"{limit}\n")
            (folder / names[1]).write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {files}\n{names[2]}_more 7\n")
        return tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "own"

    return make


@pytest.mark.parametrize(
    ("version", "own"), [(2, "0::/pod/box\n"), (1, "9:name=systemd:/x\n4:cpu,memory:/pod/box\n0::/\n")]
)
def test_the_tightest_group_on_the_way_up_counts(machine, version, own):
    free = "max" if version == 2 else 2**63 - 4096
    inner = {"pod/box": (8 * GB, 5 * GB, 1 * GB), "pod": (free, 30 * GB, 0), "": (free, 90 * GB, 0)}
    assert free_ram_bytes(*machine(own, inner, version)) == 4 * GB
    outer = {**inner, "pod": (6 * GB, 5 * GB, GB // 2)}
    assert free_ram_bytes(*machine(own, outer, version)) == 3 * GB // 2
    beyond = {**inner, "pod/box": (8 * GB, 9 * GB, 0)}
    assert free_ram_bytes(*machine(own, beyond, version)) == 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_own_group_as_the_root(machine, version):
    own = "0::/\n" if version == 2 else "4:memory:/docker/0123\n"
    assert free_ram_bytes(*machine(own, {"": (16 * GB, 4 * GB, 0)}, version)) == 12 * GB


def test_without_a_limit_what_is_free_counts(machine):
    assert free_ram_bytes(*machine("0::/a\n", {"a": ("max", 5 * GB, 0)})) == 64 * GB
    assert free_ram_bytes(*machine("0::/a\n", {})) == 64 * GB


def test_a_limit_that_slows_down_counts_like_one_that_kills(machine):
    places = machine("0::/a\n", {"a": (32 * GB, 5 * GB, 0)})
    (places[1] / "a" / "memory.high").write_text(f"{10 * GB}\n")
    assert free_ram_bytes(*places) == 5 * GB


def test_a_group_that_the_path_leaves_its_root_for_is_left_out(machine):
    assert free_ram_bytes(*machine("0::/../../a\n", {"a": (9 * GB, GB, 0)})) == 8 * GB


@pytest.mark.parametrize("broken", ["", "nonsense", "4:memory\n", "0::\n"])
def test_what_cannot_be_read_is_not_judged(machine, tmp_path, broken):
    meminfo, groups, own = machine(broken, {})
    assert free_ram_bytes(meminfo, groups, own) == 64 * GB
    assert free_ram_bytes(tmp_path / "absent", groups, own) is None
    assert within_groups(None, tmp_path / "absent", tmp_path / "absent") is None
    assert within_groups(5, groups, own) == 5
