"""How a network is trained, as numbers: checked before Lightning is imported."""

from dataclasses import dataclass

import torch
from torch import Tensor

from skipstone.process import ForwardProcess

_GAMMA = 5.0  # of min_snr, its authors' choice


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; conf/model sets it beside the network it suits.

    batch_size: of the global batch, over all devices.  learning_rate: the peak, after `warmup` steps of linear rise.
    decay: "cosine" falls from the peak to 0 at the last step, "constant" stays.  ema_decay: of the averaged weights,
    which are the ones that are stored.  weighting: of the squared error in ε by the signal-to-noise ratio of its t,
    SNR = ᾱ/(1−ᾱ): "none" is L_simple; "min_snr" min(SNR, 5)/SNR (Hang et al. 2023, for ε); "p2" 1/(1 + SNR)
    (Choi et al. 2022, with γ = k = 1). Both take weight from the smallest noise, where little of an image is decided.
    predicts: what the network gives, "eps", "v" or "x0", and so what the error is of. A weighting is of one error in
    x0, whichever it is: min_snr is min(SNR, 5) for x0 and min(SNR, 5)/(SNR + 1) for v, as its authors have it.
    label_dropout: the share of labels that a network with classes is not shown, so that it is also unconditional.
    optimizer: "adamw", or "muon", which orthogonalises the updates of matrices and leaves AdamW the rest.
    """

    batch_size: int
    learning_rate: float
    warmup: int
    decay: str
    weight_decay: float
    ema_decay: float
    weighting: str = "none"
    optimizer: str = "adamw"
    predicts: str = "eps"
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.weighting not in ("none", "min_snr", "p2"):
            raise ValueError(f"training.weighting={self.weighting!r} is unknown: choose none, min_snr or p2.")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"training.optimizer={self.optimizer!r} is unknown: choose adamw or muon.")
        if self.predicts not in ("eps", "v", "x0"):
            raise ValueError(f"training.predicts={self.predicts!r} is unknown: choose eps, v or x0.")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(
                f"training.label_dropout={self.label_dropout} must lie in [0, 1): the share of labels that are dropped."
            )
        if self.decay not in ("cosine", "constant"):
            raise ValueError(f"training.decay={self.decay!r} is unknown: choose cosine or constant.")
        if self.batch_size < 1:
            raise ValueError(f"training.batch_size={self.batch_size} must be at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"training.learning_rate={self.learning_rate} must be greater than 0.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"training.ema_decay={self.ema_decay} must lie in [0, 1).")

    def loss_weights(self, process: ForwardProcess, gives: str = "eps") -> Tensor | None:
        """The weight of each t: float64 [T]; None where all are 1. gives: what the error is of."""
        if self.weighting == "none" and gives == self.predicts:
            return None
        t = torch.arange(process.num_steps)
        snr = process.alpha_bar(t) / process.one_minus_alpha_bar(t)
        square = {"eps": torch.ones_like(snr), "v": 1 + 1 / snr, "x0": 1 / snr}  # of an error in each, over that in eps
        if self.weighting == "none":
            return square[self.predicts] / square[gives]
        return (snr.clamp(max=_GAMMA) / snr if self.weighting == "min_snr" else 1 / (1 + snr)) / square[gives]
