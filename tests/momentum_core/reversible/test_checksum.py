import pytest
import torch

from momentum_core.reversible.checksum import checksum

DTYPES = (torch.int32, torch.int16, torch.uint8, torch.float32, torch.bfloat16, torch.float64)


def _values(dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 200, (3, 5, 7, 11), generator=generator)
    return values.to(dtype)


def test_it_is_the_sum_of_words_and_their_weighted_sum_by_hand():
    # Words 1 and 2^32 (two int32 each, the low one first), and a last element of bytes 3, 1, 0, 0.
    values = torch.tensor([1, 0, 0, 1, 259], dtype=torch.int32)
    assert checksum(values).tolist() == [1 + 2**32 + 3 + 1, 1 + 2 * 2**32 + 3 * 3 + 4 * 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_single_element_counts(dtype):
    values = _values(dtype)
    before = checksum(values)
    assert torch.equal(checksum(values.clone()), before)
    for index in range(values.numel()):
        changed = values.clone()
        changed.view(-1)[index] += 1
        assert not torch.equal(checksum(changed), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_places_count(dtype):
    values = torch.arange(1, 200, dtype=torch.int64).repeat(40).to(dtype)
    assert not torch.equal(checksum(values), checksum(values.roll(2048)))
    assert not torch.equal(checksum(values), checksum(values.flip(0)))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[1:],
        lambda x: x.transpose(0, 3),
        lambda x: x[..., ::2],
        lambda x: x[:1, :1, :1, :1].expand(2, 3, 2, 2),
        lambda x: x[0, 0, 0, 1],
        lambda x: x[:0],
    ],
    ids=["channels last", "offset", "transposed", "strided", "expanded", "one number", "empty"],
)
def test_any_layout_can_be_read(view):
    values = view(_values(torch.int16))
    before = checksum(values)
    assert before.shape == (2,)
    assert torch.equal(checksum(values), before)
    if values.numel():
        assert not torch.equal(checksum(values + 1), before)
