import pytest

from jvpsvd.errors import ArgumentError
from jvpsvd.machine import in_words, parse_memory


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        ((1 << 30) - 1, "1024.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_sizes_in_words(size, text):
    assert in_words(size) == text


@pytest.mark.parametrize("memory", [1e9, 1_000_000_000, "1000000000"])
def test_whole_numbers_are_bytes(memory):
    assert parse_memory(memory) == 1_000_000_000


@pytest.mark.parametrize("memory", [3.5, float("nan"), float("inf"), 0.0, -1e9, True])
def test_other_numbers_are_no_size(memory):
    with pytest.raises(ArgumentError, match="is not a size; write bytes or text like '4GiB'"):
        parse_memory(memory)
