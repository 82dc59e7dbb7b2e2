"""The forward process q(x_t | x_0) of DDPM, shared by training and by every sampler.

Notation: `alpha_bar`, ᾱ_t, is the product of α_0 … α_t (Ho et al. 2020). The DDIM paper writes α_t for it. ᾱ_{−1} = 1
is clean data. All coefficients are computed in float64 and cast once, at the end.

The process has T steps. Between two of them log ᾱ is interpolated linearly, as in DPM-Solver's code for a network of
discrete steps (Lu et al. 2022), so that a sampler may visit real times. There is a kink at every step: a solver keeps
its order down to errors of about 1e-7 at T = 1000, and loses it below. `EDM` has none above t = 0: its σ(t) is a closed
form. So whoever integrates over time asks the process: `kinks` and `slope`.
"""

import math

import torch
from torch import Tensor

from skipstone.checked import checked, plain, require, require_length


class ForwardProcess:
    """A Gaussian diffusion of `num_steps` steps.

    betas: float [T], each in (0, 1): see `skipstone.noise`. Raises ValueError for others, and where ᾱ of the last step
           is 0 in float32.
    Attributes `betas`, `alphas` and `alpha_bars` are float64 [T] on the CPU.
    """

    def __init__(self, betas: Tensor) -> None:
        if not isinstance(betas, Tensor):
            raise ValueError(f"betas must be a torch.Tensor, got {type(betas).__name__}: use torch.as_tensor(betas).")
        betas = betas.detach().to("cpu", torch.float64)
        if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError("betas must be a one-dimensional tensor of numbers in (0, 1).")
        self.betas = betas
        self.alphas = 1 - betas
        # log ᾱ keeps both ᾱ and 1 − ᾱ = −expm1(log ᾱ) accurate where the other is close to 1. Row t+1 holds step t.
        self._log_alpha_bars = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])
        self.alpha_bars = self._log_alpha_bars[1:].exp()
        if self.alpha_bars[-1].float() == 0:
            raise ValueError(
                "these betas end in alpha_bar = 0 in float32, at which no image is left: use smaller or fewer betas."
            )
        self._logs: dict[torch.device, Tensor] = {}
        self._roots: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return len(self.betas)

    def log_alpha_bar(self, t: float | Tensor) -> Tensor:
        """log ᾱ_t: float64, of the shape of `t`; t in −1 … T−1, integer or real."""
        try:
            t = torch.as_tensor(t, device="cpu", dtype=torch.float64 if isinstance(t, float) else None)
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: what it has no type for
            raise ValueError(f"t={t!r} is not allowed: t must be a number or a tensor of numbers.") from None
        if not t.is_floating_point():
            return self._log_alpha_bars[self._steps(t) + 1]
        if not bool(((t >= -1) & (t <= self.num_steps - 1)).all()):
            raise ValueError(f"t must lie within -1 ... {self.num_steps - 1} (-1 is clean data), got {t.tolist()}.")
        return self._real(t)

    def alpha_bar(self, t: float | Tensor) -> Tensor:
        """ᾱ_t: float64, of the shape of `t`; t in −1 … T−1, and ᾱ_{−1} = 1."""
        return self.log_alpha_bar(t).exp()

    def one_minus_alpha_bar(self, t: float | Tensor) -> Tensor:
        """1 − ᾱ_t without cancellation: float64, of the shape of `t`; t in −1 … T−1."""
        return -torch.expm1(self.log_alpha_bar(t))

    def roots(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1−ᾱ_t) of real t, not checked: float64, of its shape and on its device, without a wait for it."""
        log_alpha_bar = self._real(t)
        return torch.exp(0.5 * log_alpha_bar), torch.sqrt(-torch.expm1(log_alpha_bar))

    def _real(self, t: Tensor) -> Tensor:
        """log ᾱ of real t, linear between two steps: float64, on the device of t."""
        if t.device not in self._logs:
            self._logs[t.device] = self._log_alpha_bars.to(t.device)
        t = t.double()
        before = t.floor().long().clamp(max=self.num_steps - 2)  # T−1 is an end, too, of the last piece
        ends = (self._logs[t.device][before + row] for row in (1, 2))  # row t+1 holds step t
        return torch.lerp(*ends, t - before)

    def slope(self, t: Tensor) -> Tensor:
        """d log ᾱ/dt at real t off the kinks: float64, of the shape of `t`; t in −1 … T−1."""
        before = t.double().floor().long().clamp(max=self.num_steps - 2)
        return self._log_alpha_bars[before + 2] - self._log_alpha_bars[before + 1]  # row t+1 holds step t

    def kinks(self, low: float, high: float) -> Tensor:
        """The t between low and high at which log ᾱ has a kink: float64, ascending. Here they are the steps."""
        return torch.tensor(range(math.floor(low) + 1, math.ceil(high)), dtype=torch.float64)

    @checked
    def step_at(self, log_alpha_bar: Tensor) -> Tensor:
        """The real t of this log ᾱ, the inverse of `log_alpha_bar`: float64 in −1 … T−1, of the argument's shape.

        What lies beyond the process's own ends is put there.
        """
        if bool(log_alpha_bar.isnan().any()):
            raise ValueError("log_alpha_bar must be numbers, and nan is none.")
        falling = -self._log_alpha_bars
        wanted = -log_alpha_bar.double()
        after = torch.searchsorted(falling, wanted.contiguous()).clamp(1, self.num_steps)  # rows: row t+1 holds step t
        low, high = falling[after - 1], falling[after]
        return ((wanted - low) / (high - low)).clamp(0, 1) + (after - 2)

    def start_scale(self, t: float) -> float:
        """The standard deviation of the noise from which samples start at step t: 1, as in the papers on DDPM."""
        return 1.0

    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """A draw from q(x_t | x_0) (Ho et al. 2020, Eq. 4): √ᾱ_t x0 + √(1−ᾱ_t) eps, like x0.

        x0:  float [N, …], in the [−1, 1] scale.
        t:   int64 [N] in −1 … T−1, on the device of x0; −1 is clean data.
        eps: standard normal noise, like x0.
        Raises ValueError for another t and for images of integers; on a GPU another t is the device's own error.
        """
        signal, noise = self._signal_and_noise(x0, t, eps)
        return signal * x0 + noise * eps

    def predict_x0(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The clean image that (x_t, eps) implies (Song et al. 2021, Eq. 9). Shapes as for `diffuse`."""
        signal, noise = self._signal_and_noise(x_t, t, eps)
        return (x_t - noise * eps) / signal

    def predict_eps(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The noise that (x_t, x0) implies: `predict_x0` solved for eps. Shapes as for `diffuse`; t in 0 … T−1."""
        signal, noise = self._signal_and_noise(x_t, t, x0)
        if t.device.type == "cpu" and bool((t < 0).any()):
            raise ValueError("t=-1 is clean data, which holds no noise to predict: t must be in 0 ... T-1.")
        return (x_t - signal * x0) / noise

    def _signal_and_noise(self, x: Tensor, t: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1−ᾱ_t) as [N, 1, …] of x's dtype. Each device keeps both, so that no gather waits for the host.

        other: what is mixed with x, and must be like it.
        """
        if not (isinstance(x, Tensor) and isinstance(t, Tensor) and isinstance(other, Tensor)):
            kinds = ", ".join(type(each).__name__ for each in (x, t, other))
            raise ValueError(f"images, t and what is mixed with them must be tensors, got {kinds}.")
        if other.shape != x.shape or t.shape != x.shape[:1]:
            raise ValueError(
                f"images and what is mixed with them must have one shape, and t one number an image, got shapes "
                f"{tuple(x.shape)}, {tuple(other.shape)} and {tuple(t.shape)}."
            )
        if not x.is_floating_point():
            raise ValueError(f"images must be float in the [-1, 1] scale, got {x.dtype}: use x / 127.5 - 1 for bytes.")
        if t.is_floating_point() or t.dtype == torch.bool:
            raise self._wrong(t)
        t = t.long()  # in which t + 1 does not wrap
        if x.device not in self._roots:
            roots = (torch.exp(0.5 * self._log_alpha_bars), torch.sqrt(-torch.expm1(self._log_alpha_bars)))
            self._roots[x.device] = (roots[0].to(x.device), roots[1].to(x.device))
        shape = (-1,) + (1,) * (x.ndim - 1)
        try:  # row t+1 holds step t; index_select, unlike [], takes no negative row, and nothing waits to find out
            signal, noise = (root.index_select(0, (t + 1).reshape(-1)) for root in self._roots[x.device])
        except (IndexError, RuntimeError) as error:
            raise self._wrong(t) from error
        return signal.to(x.dtype).view(shape), noise.to(x.dtype).view(shape)

    def _steps(self, t: Tensor) -> Tensor:
        """t as int64. Raises ValueError unless every t is a step of this process, or −1."""
        if t.is_complex() or t.dtype == torch.bool:
            raise self._wrong(t)
        steps = t.long()  # in which t + 1 does not wrap, nor does T
        if bool(((steps < -1) | (steps >= self.num_steps)).any()):
            raise self._wrong(t)
        return steps

    def _wrong(self, t: Tensor) -> ValueError:
        return ValueError(f"t must be integers in -1 ... {self.num_steps - 1} (-1 is clean data), got {t.tolist()}.")


class EDM(ForwardProcess):
    """EDM's process (Karras et al. 2022) in our scale: ᾱ = 1/(1 + σ²), and x_EDM = √(1 + σ²) x.

    σ(t) = (σ_min^(1/ρ) + t/(T−1) (σ_max^(1/ρ) − σ_min^(1/ρ)))^ρ (their Eq. 5) for real t in 0 … T−1. So evenly spaced
    real times (`schedules.TimeUniform`) are EDM's steps. t = −1 is clean data, and log ᾱ is linear between −1 and 0.
    Samples start from σ(t) z there, which is √(1−ᾱ) z here.

    num_steps: T, 2 … 1,000,000. It numbers the levels that training draws from; sampling may visit any real t.
    sigma_min: σ at t = 0, above 0.
    sigma_max: σ at t = T−1, above sigma_min.
    rho:       at least 1: the larger, the more of the levels lie near the data.
    Raises ValueError for others.
    """

    def __init__(
        self, num_steps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> None:
        require_length("noise.num_steps", num_steps)
        for name, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max), ("rho", rho)):
            require(f"noise.{name}", value, float)
        num_steps, sigma_min, sigma_max, rho = map(plain, (num_steps, sigma_min, sigma_max, rho))
        if not (0 < sigma_min < sigma_max < math.inf and 1 <= rho < math.inf):
            raise ValueError(
                f"noise.sigma_min={sigma_min}, noise.sigma_max={sigma_max} and noise.rho={rho} are not allowed: they "
                "must satisfy 0 < sigma_min < sigma_max and rho >= 1."
            )
        self._rho = rho
        self._low, self._high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        self._last = num_steps - 1
        logs = -torch.log1p(self._sigma(torch.arange(num_steps, dtype=torch.float64)) ** 2)
        super().__init__(-torch.expm1(logs.diff(prepend=logs.new_zeros(1))))
        self._log_alpha_bars[1:] = logs  # as they are, not as a sum over β
        self.alpha_bars = logs.exp()
        self._first = float(logs[0])

    def _sigma(self, t: Tensor) -> Tensor:
        return (self._low + t / self._last * (self._high - self._low)) ** self._rho

    def _real(self, t: Tensor) -> Tensor:
        t = t.double()
        return torch.where(t < 0, (t + 1) * self._first, -torch.log1p(self._sigma(t.clamp(min=0)) ** 2))

    def slope(self, t: Tensor) -> Tensor:
        """d log ᾱ/dt, as for ForwardProcess."""
        t = t.double()
        sigma, width = self._sigma(t.clamp(min=0)), (self._high - self._low) / self._last
        sigma_slope = self._rho * width * sigma ** (1 - 1 / self._rho)
        return torch.where(t < 0, self._first, -2 * sigma * sigma_slope / (1 + sigma**2))

    def kinks(self, low: float, high: float) -> Tensor:
        """t = 0, if it lies between low and high: above it σ(t) is smooth, and below it log ᾱ is linear."""
        return torch.zeros(int(low < 0 < high), dtype=torch.float64)

    def step_at(self, log_alpha_bar: Tensor) -> Tensor:
        """The real t of this log ᾱ, as for ForwardProcess."""
        wanted = log_alpha_bar.double()
        root = torch.sqrt(torch.expm1(-wanted)) ** (1 / self._rho)
        t = (root - self._low) / (self._high - self._low) * self._last
        return torch.where(wanted > self._first, wanted / self._first - 1, t.clamp(0, self._last))

    def start_scale(self, t: float) -> float:
        """√(1−ᾱ_t): the start is noise alone."""
        return math.sqrt(float(self.one_minus_alpha_bar(t)))


def process_of(noise: Tensor | ForwardProcess) -> ForwardProcess:
    """The process that conf/noise describes: by its β, float [T], or itself."""
    return noise if isinstance(noise, ForwardProcess) else ForwardProcess(noise)
