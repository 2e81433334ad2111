"""Fingerprints change with any entry of a tensor, whatever its dtype and layout."""

import pytest
import torch

from jvpsvd.operators.function.fingerprint import fingerprint, sample_fingerprint

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.complex64, torch.int32, torch.bool]


def numbers(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return (10 * torch.randn(*shape, generator=generator)).to(dtype)


def change_one(t):
    t.view(torch.uint8).flatten()[t.numel() // 3] ^= 1


def change_last(t):
    t.view(torch.uint8).flatten()[-1] ^= 1


def negate(t):
    t.neg_()


def negate_two(t):
    t.flatten()[:2].neg_()


def exchange_two(t):
    t.flatten()[1:3] = t.flatten()[1:3].flip(0).clone()


def exchange_rows(t):
    t[[0, 1]] = t[[1, 0]]


def zero(t):
    t.zero_()


CHANGES = [change_one, change_last, negate, negate_two, exchange_two, exchange_rows, zero]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_seen(change, dtype):
    if dtype is torch.bool and change in (negate, negate_two):
        pytest.skip("a truth value has no sign")
    t = numbers(301, 7, dtype=dtype)
    if dtype is torch.bool:
        t[0], t[1] = False, True
        t[0, 2] = True
    before, copy = fingerprint(t), t.clone()
    assert torch.equal(fingerprint(copy), before)
    change(t)
    assert not torch.equal(t, copy)
    assert not torch.equal(fingerprint(t), before)


@pytest.mark.parametrize("change", [exchange_rows, negate, zero])
def test_more_words_than_are_taken_at_once(change):
    t = numbers(4, 1 << 17, dtype=torch.float64)
    before = fingerprint(t)
    change(t)
    assert not torch.equal(fingerprint(t), before)


def transposed(t):
    return t.t()


def part(t):
    return t[1:, 1:]


def unaligned(t):
    return t.flatten()[1:]


def repeated(t):
    return t[0].expand(5, -1)


def scalar(t):
    return t[0, 1]


@pytest.mark.parametrize("view", [transposed, part, unaligned, repeated, scalar])
def test_views_have_the_fingerprint_of_their_own_entries(view):
    t = numbers(6, 5)
    of_view = view(t)
    before = fingerprint(of_view)
    assert torch.equal(fingerprint(of_view), before)
    t.data[0, 1] = 3.0  # the first three views do not all have it
    seen = not torch.equal(fingerprint(of_view), before)
    assert seen == (view is not part)


@pytest.mark.parametrize("size", [1, 5, 1000, 100_000])
@pytest.mark.parametrize("change", [negate, zero])
def test_a_sample_sees_what_changes_everywhere(size, change):
    t = numbers(size)
    before = sample_fingerprint(t)
    change(t)
    assert not torch.equal(sample_fingerprint(t), before)


def test_nothing_is_always_the_same():
    assert torch.equal(fingerprint(torch.empty(0, 3)), fingerprint(torch.empty(0)))
    assert torch.equal(sample_fingerprint(torch.empty(0)), sample_fingerprint(torch.empty(0)))
