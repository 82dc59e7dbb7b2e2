"""Muon against the singular value decomposition, torch's own, and AdamW."""

import copy
import dataclasses

import lightning
import pytest
import tiny
import torch
from torch import nn

from skipstone.training import optimizers

MUON = dataclasses.replace(tiny.RECIPE, optimizer="muon", weight_decay=0.1)


@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16), (1, 8, 8)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = optimizers.orthogonalised(1e-6 * matrices)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    values = u.mT @ found @ v.mT  # diagonal, had it been computed exactly
    diagonal = values.diagonal(dim1=1, dim2=2)
    kept = s > 0.05 * s.amax(dim=1, keepdim=True)
    assert kept.float().mean() > 0.8
    assert diagonal[kept].min() > 0.6
    assert diagonal[kept].max() < 1.25
    assert (values - torch.diag_embed(diagonal)).abs().max() < 0.05  # bfloat16


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-25, 1e-20])
def test_a_matrix_without_a_gradient_to_speak_of_stays(size):
    """Averages fade to such sizes where gradients are zero, and their squares underflow."""
    torch.manual_seed(0)
    assert optimizers.orthogonalised(size * torch.randn(2, 4, 6)).abs().max() < 1e-4


def test_matrices_move_as_by_the_muon_of_torch_and_the_rest_as_by_adamw():
    torch.manual_seed(0)
    nets = [tiny.build().to(memory_format=torch.channels_last)]
    with torch.no_grad():
        for parameter in nets[0].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    nets += [copy.deepcopy(nets[0])]
    ours = optimizers.build(nets[0], MUON, fused=False)
    flat = [p for name, p in nets[1].named_parameters() if p.ndim in (2, 4) and not name.startswith("conv_")]
    rest = [p for name, p in nets[1].named_parameters() if p.ndim == 1 or name.startswith("conv_")]
    views = [nn.Parameter(p.detach().permute(0, 2, 3, 1).flatten(1) if p.ndim == 4 else p.detach()) for p in flat]
    theirs = [
        torch.optim.Muon(views, MUON.learning_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, MUON.learning_rate, weight_decay=0.1, betas=(0.9, 0.99)),
    ]
    assert all(view.data_ptr() == p.data_ptr() for view, p in zip(views, flat, strict=True))  # so torch's moves them
    for _ in range(3):
        for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for view, p in zip(views, flat, strict=True):
            view.grad = p.grad.permute(0, 2, 3, 1).flatten(1) if p.ndim == 4 else p.grad
        ours.step()
        for their in theirs:
            their.step()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        # steps of 0.2 · rate · √columns; orthogonalised in bfloat16, whose roundings differ
        moved = 1e-7 if a.ndim == 1 or name.startswith("conv_") else 0.03 * 3 * MUON.learning_rate
        torch.testing.assert_close(a, b, rtol=0, atol=moved, msg=lambda said, name=name: f"{name}: {said}")


def test_a_training_goes_on_where_it_was_stopped(tmp_path):
    """The averages of gradients are in the checkpoint, and it is found to fit."""

    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 3:
                raise KeyboardInterrupt

    whole = tiny.train(tmp_path / "whole", recipe=MUON)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path / "cut", recipe=MUON, callbacks=(Stop(),))
    resumed = tiny.train(tmp_path / "cut", recipe=MUON)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    plain = tiny.train(tmp_path / "plain")
    assert not torch.equal(whole.middle1.conv1.weight, plain.middle1.conv1.weight)
