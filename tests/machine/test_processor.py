import pytest

from jvpsvd.machine import processor_maker

ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n"
INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(("text", "maker"), [(INTEL, "GenuineIntel"), (ARM, None), ("", None)])
def test_the_maker_is_what_linux_lists(text, maker, tmp_path):
    listing = tmp_path / "cpuinfo"
    listing.write_text(text)
    assert processor_maker(listing) == maker


def test_a_system_without_a_list_names_none(tmp_path):
    assert processor_maker(tmp_path / "missing") is None
