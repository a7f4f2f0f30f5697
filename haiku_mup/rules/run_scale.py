"""`RunScale`: how an optimizer's constants change with the batch size and the length of training.

A run is measured against the base's: m_B = batch / base batch, m_D = examples seen / base examples (or tokens,
if these are what both are counted in). It so has m_D / m_B times the base's steps. The ratio κ = m_B / m_D is
that of one step's share of the run.

Theory: where noise dominates Adam's gradients, training follows a stochastic differential equation in which a
step takes the time lr² (Malladi et al., arXiv 2205.10287). So lr² · steps should stay, averages should remember
the same share of the run, and ε should keep its size beside the gradients:

    lr × √κ,   1 − β₁ and 1 − β₂ × κ,   ε × 1 / √κ,   λ × √κ

These are the rules for batch size and duration of Complete(d)P (Mlodozeniec et al., arXiv 2512.22382). λ
follows from the rest: what the decay takes over the whole run, lr · λ · steps, stays.

Measured: the exponent of the examples is less sure than that of the batch. Recipes of large runs have m_D^-0.3
(set) and m_D^-0.28 (fitted) in place of m_D^-½ (marin-community/marin, issue 4225), and on few data that are
seen many times no such law holds. Runs of some hundred steps end with a higher loss if the memory of averages
grows with them (docs/evidence/atlas.rst). So the exponents are parameters.
"""
import dataclasses
import enum
import math
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.rules.optimizer_constants import check_constants


class BetaScaling(enum.StrEnum):
    """The way in which averages keep what they remember, as a share of the run.

    Attributes:
      LINEAR: 1 − β is multiplied by κ, the paper's rule; it fails where that exceeds 1.
      HALF_LIFE: β^κ, whose half-life is exactly the same share of the run. Where 1 − β is small, the two agree.

    With other exponents, ``betas_batch`` and ``betas_tokens``, `RunScale` puts that power of the ratios in κ's
    place.
    """

    LINEAR = "linear"
    HALF_LIFE = "half_life"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunScale:
    """The batch size and the length of a run, relative to the base's, and the constants that follow.

    An optimizer's own constants must change, so no wrap can do it from outside: give the optimizer what the
    methods return, and `Mup.wrap_optimizer` the value itself, which it keeps. `haiku_mup.adamw` does both.
    Clips by the gradients' norm, schedules' numbers of steps and warm-ups are the user's: `steps` converts
    numbers of steps.

    Attributes:
      batch_ratio: m_B, batch / base batch.
      tokens_ratio: m_D, examples (or tokens) seen / those that the base saw.
      lr_batch: exponent of m_B in Adam's learning rate: ½ in theory.
      lr_tokens: exponent of m_D in every learning rate: -½ in theory; -0.28 to -0.3 in recipes of large runs.
      sgd_lr_batch: exponent of m_B in SGD's learning rate: 1, the linear scaling rule.
      eps_batch: exponent of m_B in Adam's ε: -½, as of the gradients' noise.
      eps_tokens: exponent of m_D in Adam's ε: ½ in the paper's table.
      betas: "linear" or "half_life", see `BetaScaling`.
      betas_batch: exponent of m_B in 1 − β: 1 in the paper's table.
      betas_tokens: exponent of m_D in 1 − β: -1 in the paper's table; with 0 the length leaves β unchanged.
      critical_batch_ratio: the batch_ratio above which larger batches no longer save steps, if it is known;
        beyond it `doubts` says so. All these laws are for batches below.

    >>> scale = haiku_mup.RunScale(batch_ratio=4, tokens_ratio=16)
    >>> scale.adamw(1e-3, b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.1)      # doctest: +NORMALIZE_WHITESPACE
    {'learning_rate': 0.0005, 'b1': 0.975, 'b2': 0.995, 'eps': 2e-08, 'eps_root': 0.0, 'weight_decay': 0.05}
    >>> scale.steps(1000)
    4000
    """

    batch_ratio: float = 1.0
    tokens_ratio: float = 1.0
    lr_batch: float = 0.5
    lr_tokens: float = -0.5
    sgd_lr_batch: float = 1.0
    eps_batch: float = -0.5
    eps_tokens: float = 0.5
    betas: BetaScaling | str = BetaScaling.LINEAR
    betas_batch: float = 1.0
    betas_tokens: float = -1.0
    critical_batch_ratio: float | None = None

    def __post_init__(self) -> None:
        """Raises MupError for a ratio that is not above 0, a wrong exponent, or unknown `betas`."""
        for field in ("batch_ratio", "tokens_ratio", "critical_batch_ratio"):
            value = getattr(self, field)
            if not (_is_number(value) and value > 0 or value is None and field == "critical_batch_ratio"):
                raise MupError(f"RunScale: {field}={value!r}: give a number above 0, target / base")
        for field in ("lr_batch", "lr_tokens", "sgd_lr_batch", "eps_batch", "eps_tokens",
                      "betas_batch", "betas_tokens"):
            if not _is_number(getattr(self, field)):
                raise MupError(f"RunScale: {field}={getattr(self, field)!r}: give an exponent, such as 0.5")
        if self.betas not in list(BetaScaling):
            raise MupError(f"RunScale: betas={self.betas!r}: give 'linear' or 'half_life'")
        object.__setattr__(self, "betas", BetaScaling(self.betas))

    # --- factors ---

    @property
    def kappa(self) -> float:
        """Computes κ = m_B / m_D, the ratio of one step's share of the run.

        >>> haiku_mup.RunScale(batch_ratio=4, tokens_ratio=16).kappa
        0.25
        """
        return self.batch_ratio / self.tokens_ratio

    @property
    def adam_lr(self) -> float:
        """Computes the factor of Adam's learning rate, in theory √(m_B / m_D).

        >>> haiku_mup.RunScale(batch_ratio=4).adam_lr, haiku_mup.RunScale(tokens_ratio=4).adam_lr
        (2.0, 0.5)
        """
        return self._power(self.lr_batch, self.lr_tokens)

    @property
    def sgd_lr(self) -> float:
        """Computes the factor of SGD's lr / (1 − momentum), in theory m_B / √m_D.

        SGD's steps take the time lr, and add noise of variance lr² / batch. A batch that is m_B times as large
        so has the same limit with m_B times the rate (the linear scaling rule; Goyal et al., arXiv 1706.02677).
        For m_D no paper's table has SGD. The factor m_D^-½ keeps what noise adds over the whole run, as Adam's
        does: lr² · steps / batch.

        >>> haiku_mup.RunScale(batch_ratio=4).sgd_lr, haiku_mup.RunScale(tokens_ratio=4).sgd_lr
        (4.0, 0.5)
        """
        return self._power(self.sgd_lr_batch, self.lr_tokens)

    @property
    def eps(self) -> float:
        """Computes the factor of Adam's ε, in the paper's table √(m_D / m_B).

        >>> haiku_mup.RunScale(batch_ratio=4).eps
        0.5
        """
        return self._power(self.eps_batch, self.eps_tokens)

    @property
    def one_minus_beta(self) -> float:
        """Computes the factor of 1 − β of averages, in the paper's table κ.

        >>> haiku_mup.RunScale(batch_ratio=4, tokens_ratio=16, betas_tokens=0).one_minus_beta
        4.0
        """
        return self._power(self.betas_batch, self.betas_tokens)

    @property
    def decay(self) -> float:
        """Computes the factor of AdamW's λ, which is κ over the learning rate's factor.

        What is lost in the whole run, lr · λ · steps, so stays, whatever the exponents; in theory it is √κ.
        With it the time that AdamW averages over stays the same share of the run (Wang & Aitchison, arXiv
        2405.13698).

        >>> haiku_mup.RunScale(batch_ratio=4).decay
        2.0
        """
        return self.kappa / self.adam_lr

    @property
    def step_decay(self) -> float:
        """Computes κ, the factor of a decay that no learning rate multiplies.

        >>> haiku_mup.RunScale(batch_ratio=4).step_decay
        4.0
        """
        return self.kappa

    def beta(self, beta: float, name: str = "beta") -> float:
        """Returns the decay rate of an average, such as Adam's β₂ or a momentum, at this batch and length.

        Args:
          beta: at the base.
          name: of the constant, for the error.

        Raises:
          MupError: at the base it is outside [0, 1), or would be below 0 here.

        >>> haiku_mup.RunScale(batch_ratio=2).beta(0.98)
        0.96
        >>> haiku_mup.RunScale(batch_ratio=2, betas="half_life").beta(0.5)
        0.25
        """
        if not _is_number(beta) or not 0 <= beta < 1:
            raise MupError(f"RunScale: {name}={beta!r}: give a number from 0 to below 1")
        factor = self.one_minus_beta
        if factor == 1 or beta == 0:
            return beta
        if self.betas == BetaScaling.HALF_LIFE:
            return float(beta**factor)
        found = 1 - (1 - beta) * factor
        if found < 0:
            least = math.ceil(1e4 * (1 - 1 / factor)) / 1e4         # rounded up, so that it is right
            raise MupError(
                f"RunScale: batch_ratio={self.batch_ratio:g} and tokens_ratio={self.tokens_ratio:g} make "
                f"1 - {name} = {1 - beta:.4g} × {factor:.4g} = {1 - found:.4g}, which is above 1: the "
                "average would have to forget faster than in one step; give RunScale(betas='half_life'), a "
                f"smaller batch, or tune the base with {name}={least:.4g} or more")
        return found

    def steps(self, base_steps: int) -> int:
        """Returns the number of steps, m_D / m_B times the base's: for schedules and warm-ups.

        >>> haiku_mup.RunScale(batch_ratio=4).steps(1000)
        250
        """
        return max(1, round(base_steps / self.kappa))

    # --- an optimizer's constants ---

    def adamw(self, learning_rate: Any, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
              eps_root: float = 0.0, weight_decay: Any = 1e-4) -> dict[str, Any]:
        """Returns arguments for `optax.adamw`, or for others that have these, such as optax.nadamw.

        Args:
          learning_rate, weight_decay: numbers or schedules at the base; of a schedule the values are
            multiplied.
          b1, b2, eps, eps_root: as in optax.adamw, at the base.

        Raises:
          MupError: a β that `beta` refuses, or another constant that can't be.

        >>> plain = optax.adamw(**haiku_mup.RunScale(batch_ratio=4).adamw(3e-4, b1=0.9, b2=0.99))
        """
        check_constants("RunScale", weight_decay=weight_decay)
        return self.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root) | {
            "weight_decay": scaled_rate(weight_decay, self.decay)}

    def adam(self, learning_rate: Any, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
             eps_root: float = 0.0) -> dict[str, Any]:
        """Returns arguments for `optax.adam`, as `adamw` does.

        >>> haiku_mup.RunScale(batch_ratio=4).adam(1e-3, b1=0.875)["b1"]
        0.5
        """
        check_constants("RunScale", learning_rate=learning_rate, eps=eps, eps_root=eps_root)
        return {"learning_rate": scaled_rate(learning_rate, self.adam_lr), "b1": self.beta(b1, "b1"),
                "b2": self.beta(b2, "b2"), "eps": eps * self.eps, "eps_root": eps_root * self.eps**2}

    def sgd(self, learning_rate: Any, *, momentum: float | None = None) -> dict[str, Any]:
        """Returns arguments for `optax.sgd`.

        A momentum remembers the same share of the run, like Adam's β₁. optax.sgd adds gradients up, which makes
        the rate lr / (1 − momentum); that is what `sgd_lr` multiplies.

        Args:
          learning_rate: a number or a schedule, at the base.
          momentum: at the base; None for none.

        Raises:
          MupError: a momentum that `beta` refuses, or a learning rate that can't be.

        >>> haiku_mup.RunScale(batch_ratio=2).sgd(0.25, momentum=0.75)
        {'learning_rate': 1.0, 'momentum': 0.5}
        """
        check_constants("RunScale", learning_rate=learning_rate)
        if momentum is None:
            return {"learning_rate": scaled_rate(learning_rate, self.sgd_lr), "momentum": None}
        beta = self.beta(momentum, "momentum")
        share = (1 - beta) / (1 - momentum) if beta != momentum else 1.0
        return {"learning_rate": scaled_rate(learning_rate, self.sgd_lr * share), "momentum": beta}

    # --- for people ---

    @property
    def doubts(self) -> list[str]:
        """Returns what speaks against these laws here, a sentence each; empty if nothing is known to.

        >>> print(*haiku_mup.RunScale(batch_ratio=64, critical_batch_ratio=16).doubts)      # doctest: +ELLIPSIS
        the batch is 64 times the base's, beyond the critical one of 16 times: ...
        """
        critical = self.critical_batch_ratio
        if critical is None or self.batch_ratio <= critical:
            return []
        return [f"the batch is {self.batch_ratio:g} times the base's, beyond the critical one of {critical:g} "
                "times: there noise no longer dominates gradients, larger batches save few steps, and the "
                "learning rate should grow less than these laws say; take a smaller batch, or tune at this one"]

    def __str__(self) -> str:
        """Returns the ratios and the factors of Adam's constants in a line.

        >>> print(haiku_mup.RunScale(batch_ratio=4, tokens_ratio=16))
        batch × 4, tokens × 16: Adam lr × 0.5, 1 - β × 0.25, ε × 2, λ × 0.5, SGD lr × 1
        """
        betas = "1 - β × " if self.betas == BetaScaling.LINEAR else "β ^ "
        return (f"batch × {self.batch_ratio:g}, tokens × {self.tokens_ratio:g}: Adam lr × {self.adam_lr:.4g}, "
                f"{betas}{self.one_minus_beta:.4g}, ε × {self.eps:.4g}, λ × {self.decay:.4g}, "
                f"SGD lr × {self.sgd_lr:.4g}")

    def _power(self, batch: float, tokens: float) -> float:
        """Computes m_B ** batch · m_D ** tokens."""
        return float(self.batch_ratio**batch * self.tokens_ratio**tokens)


def scaled_rate(rate: Any, factor: float) -> Any:
    """Returns a number, an array or a schedule times a factor; the very same if the factor is 1.

    >>> scaled_rate(0.5, 2.0), scaled_rate(lambda step: 0.1 * step, 2.0)(5)
    (1.0, 1.0)
    """
    if factor == 1:
        return rate
    return (lambda step: rate(step) * factor) if callable(rate) else rate * factor


def _is_number(x: Any) -> bool:
    """Returns whether x is a finite int or float."""
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
