"""What the system tells of its memory."""

import pytest

from dia_ort import memory


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Files of a system with 8 GB available, in a container that the test describes."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n", "ascii")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("700\n", "ascii")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 500\n", "ascii")
    return tmp_path


@pytest.mark.parametrize(
    ("most", "available"),
    [("max", 8_192_000_000), ("1000", 800), ("99999999999999", 8_192_000_000), ("150", 1)],
)
def test_a_container_s_limit_counts(system, most, available):
    """What it has cached of files can be given back."""
    (system / "memory.max").write_text(f"{most}\n", "ascii")
    assert memory.available_memory() == available


def test_a_system_without_containers(system):
    assert memory.available_memory() == 8_192_000_000
