"""EDICT: the paper's coupled step, and the way back without a fixed point."""

from itertools import pairwise

import pytest
import torch

from skipstone import engine, schedules, solvers
from skipstone.solvers import EDICT


def the_papers(process, model, times, x, y, mix):
    """Eq. 14 and 15, from x and y at the first of these times down to the last."""
    for t, p in pairwise(times):
        a = (process.alpha_bar(p) / process.alpha_bar(t)).sqrt()
        b = process.one_minus_alpha_bar(p).sqrt() - a * process.one_minus_alpha_bar(t).sqrt()
        at = torch.full((len(x),), t)
        x_inter = a * x + b * model(y, at)
        y_inter = a * y + b * model(x_inter, at)
        x = mix * x_inter + (1 - mix) * y_inter
        y = mix * y_inter + (1 - mix) * x
    return x, y


@pytest.mark.parametrize("to_data", [True, False])
@pytest.mark.parametrize("mix", [0.93, 0.8, 1.0])
def test_rows_are_the_papers(process, two_peaks, mix, to_data):
    steps = schedules.Exp(12)(1000)
    table = EDICT(mix, to_data=to_data).table(process, steps)
    times = [*steps[::-1], *([-1] if to_data else [])]
    assert table.nfe == 2 * (len(times) - 1)
    start = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    y, x_inter = engine.sample_pair(two_peaks, table, start, dtype=torch.float64)
    expected_x, expected_y = the_papers(process, two_peaks, times, start, start, mix)
    tolerance = 1e-12 * table.largest_weight * table.nfe
    torch.testing.assert_close(y, expected_y, rtol=tolerance, atol=tolerance)
    x = (mix**2 * x_inter + (1 - mix) * y) / (mix + (1 - mix) ** 2)
    torch.testing.assert_close(x, expected_x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("count", [10, 20, 50])
@pytest.mark.parametrize("kind", [schedules.Polynomial, schedules.Linspace])
def test_images_come_back_from_their_latents(process, two_peaks, count, kind):
    signs = torch.randint(2, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    image = (signs + 0.3 * torch.randn(signs.shape, generator=torch.Generator().manual_seed(1))).double()
    steps = kind(count)(1000)
    for to_data in (True, False):
        edict = EDICT(to_data=to_data)
        up, down = edict.encode_table(process, steps), edict.return_table(process, steps)
        assert up.nfe == down.nfe == 2 * (count - 1 + to_data)
        x, y = engine.sample_pair(two_peaks, up, image, dtype=torch.float64)
        back, _ = engine.sample_pair(two_peaks, down, y, x, dtype=torch.float64)
        assert (back - image).abs().max() < 1e-10


def test_the_way_up_ends_where_the_papers_way_down_began(process, two_peaks):
    """Not only our own table undoes it: the paper's step leads from both latents to the image."""
    steps, edict = schedules.Linspace(8)(1000), EDICT()
    image = torch.rand(2, 1, 3, 3, dtype=torch.float64) * 2 - 1
    x, y = engine.sample_pair(two_peaks, edict.encode_table(process, steps), image, dtype=torch.float64)
    x, y = the_papers(process, two_peaks, [*steps[::-1], -1], x, y, edict.mix)
    torch.testing.assert_close(x, image, rtol=0, atol=1e-9)
    torch.testing.assert_close(y, image, rtol=0, atol=1e-9)


def test_edict_is_packed_like_any_table(process, two_peaks):
    table = EDICT().table(process, schedules.Linspace(6)(1000))
    tables = [table, solvers.DDIM().table(process, (0, 999))]
    packed, _ = engine.sample_many(two_peaks, tables, 5, (1, 4, 4), batch_size=3, dtype=torch.float64)
    torch.testing.assert_close(packed, engine.sample(two_peaks, table, 5, (1, 4, 4), dtype=torch.float64))


@pytest.mark.parametrize("mix", [0, 1.5, True, "half", float("nan")])
def test_impossible_settings_are_refused(mix):
    with pytest.raises(ValueError, match=r"mix (is a number above 0 and at most 1|must be a number)"):
        EDICT(mix)
    with pytest.raises(ValueError, match="clip_x0=true is not allowed with EDICT"):
        EDICT(clip_x0=True)
