import math

import pytest
import torch

from skipstone import rng
from skipstone.rng import Stream


def test_words_are_those_of_the_published_generator():
    """Known answers of Philox-4x32-10 (Random123, kat_vectors)."""
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in cases:
        words = rng.philox(tuple(torch.tensor([c]) for c in counter), key)
        assert tuple(int(word) for word in words) == expected


def test_normals_have_the_moments_of_a_normal():
    z = rng.normal(0, Stream.START, torch.arange(1000), (1000,), dtype=torch.float64)
    n = z.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean().item() - moment) < 4 * math.sqrt(variance / n)
    correlation = torch.corrcoef(z[:50])
    assert (correlation - torch.eye(50)).abs().max() < 5 / math.sqrt(1000)


def test_a_sample_is_a_function_of_its_address_alone():
    """Whatever else is drawn beside it, of whatever shape: bit for bit."""
    shape = (3, 7, 5)
    all_of_them = rng.normal(7, Stream.STEP, torch.arange(64), shape, step=3)
    for index in ([5], [63, 5, 1], list(range(33))):
        assert torch.equal(rng.normal(7, Stream.STEP, torch.tensor(index), shape, step=3), all_of_them[index])
    for other in (
        rng.normal(8, Stream.STEP, torch.tensor([5]), shape, step=3),
        rng.normal(7, Stream.START, torch.tensor([5]), shape, step=3),
        rng.normal(7, Stream.STEP, torch.tensor([5]), shape, step=4),
        rng.normal(7 + 2**32, Stream.STEP, torch.tensor([5]), shape, step=3),
    ):
        assert (other - all_of_them[5]).abs().mean() > 0.5


def test_uniforms_fill_their_range():
    u = rng.uniform(0, Stream.TRAIN_T, torch.arange(100_000))
    assert u.min() > 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 1e5)
    uniform = rng.uniform(0, Stream.TRAIN_T, torch.arange(100_000))
    counts = torch.bincount((uniform * 10).long(), minlength=10)
    assert ((counts - 10_000).abs() < 4 * math.sqrt(9000)).all()


def test_folded_seeds_differ_by_step_and_stream():
    seeds = {rng.fold(0, stream, step) for stream in Stream for step in range(100)}
    assert len(seeds) == 100 * len(Stream)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, 5 + 2**40])
@pytest.mark.parametrize("step", [0, 3, 800_000, 2**33])
def test_a_folded_seed_is_the_streams_own_first_words(seed, step):
    """Made of plain integers, it is what the tensors would give: models are keyed by seeds, and their orders fold."""
    high, low = rng.words(seed, Stream.TRAIN_ORDER, torch.zeros(1, dtype=torch.int64), step, 2)[0].tolist()
    assert rng.fold(seed, Stream.TRAIN_ORDER, step) == (high << 32 | low) >> 1
