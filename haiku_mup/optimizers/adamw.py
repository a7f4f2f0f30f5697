"""AdamW in μP: factors, ε, decay, schedule and clip in the right order."""
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import jax
import optax

from haiku_mup.errors import MupError
from haiku_mup.rules.exponents import ONE
from haiku_mup.rules.optimizer_constants import check_constants
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.run_scale import RunScale, scaled_rate

Rate: TypeAlias = float | jax.Array | Callable[[Any], Any]      # a number, or a schedule


class OptimizerWrapper(Protocol):
    """A captured model that wraps optimizers: `haiku_mup.Mup`, which is above this module."""

    @property
    def parametrization(self) -> Parametrization:
        """Returns the model's parametrization."""

    @property
    def run_scale(self) -> RunScale | None:
        """Returns the batch size and the length of the run, if it knows them."""

    def wrap_optimizer(self, optimizer: optax.GradientTransformation, *, scale_eps: bool = False,
                       lr_mults: Mapping[str, float] | None = None, run_scale: RunScale | None = None,
                       ) -> optax.GradientTransformationExtraArgs:
        """Wraps an optimizer of Adam's kind; see `haiku_mup.Mup.wrap_optimizer`."""


def adamw(mup: OptimizerWrapper, learning_rate: Rate, b1: float = 0.9, b2: float = 0.999,
          eps: float = 1e-8, weight_decay: Rate = 1e-4, *, eps_root: float = 0.0,
          mu_dtype: Any = None, mask: Any = None, nesterov: bool = False, clip: float | None = None,
          decay_follows_lr: bool = True, scale_eps: bool = True,
          lr_mults: Mapping[str, float] | None = None, batch_ratio: float | None = None,
          tokens_ratio: float | None = None, run_scale: RunScale | None = None,
          ) -> optax.GradientTransformationExtraArgs:
    """Returns `optax.adamw` in μP: bit for bit the same at base width, and tuned alike at every other width.

    A parameter loses in a step what it loses at the base: lr · weight_decay · p, with the learning rate of this
    step. With decay_follows_lr=False it loses weight_decay · p, whatever the learning rate and its schedule
    (Loshchilov & Hutter, arXiv 1711.05101, tune the two separately; `weight_decay` may have a schedule of its
    own). Adam's ε acts as at the base: gradients are made as large as there, behind the clip, which sees them
    as they are.

    Where the batch size or the number of examples differs from the base's, too, say so: the constants given
    here are the base's, and change by the rules of `RunScale` (Complete(d)P, arXiv 2512.22382). A schedule's
    number of steps does not: `RunScale.steps` converts it.

    Args:
      mup: a `Mup` that has captured the target.
      learning_rate: a number or a schedule.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in optax.adamw.
      weight_decay: a number or a schedule.
      mask: which parameters decay, as in optax.adamw.
      clip: the largest global norm of the gradients; None for no limit.
      decay_follows_lr: whether the decay is multiplied by the learning rate, as in optax.adamw.
      scale_eps: whether ε acts as at the base.
      lr_mults: see `Mup.wrap_optimizer`. A decay that follows the learning rate is multiplied, too.
      batch_ratio: batch size / that of the base.
      tokens_ratio: number of examples (or tokens) seen in training / that of the base.
      run_scale: a `RunScale`, in place of the two ratios, for other exponents. If none of the three is given,
        it is the `Mup`'s own, which `Mup.save` keeps.

    Returns:
      An optax transformation.

    Raises:
      MupError: what `Mup.wrap_optimizer` raises; a constant that can't be, such as a negative clip; ratios
        together with run_scale; a batch so large that an average with b1 or b2 would have to forget faster than
        in one step; decay_follows_lr=False in a parametrization whose decay has a factor of its own.

    Warns:
      MupWarning: a batch beyond the critical one that run_scale names.

    After the example of `Mup`, with a warm-up:

    >>> schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-4, 100, 1000)
    >>> optimizer = haiku_mup.adamw(mup, schedule, weight_decay=0.1, clip=1.0)
    >>> state = optimizer.init(params)

    With 4 times the batch and 16 times the examples of the base, in 4 times the steps:

    >>> optimizer = haiku_mup.adamw(mup, 3e-4, weight_decay=0.1, batch_ratio=4, tokens_ratio=16)
    >>> print(mup.summary().splitlines()[-1])
    batch × 4, tokens × 16: Adam lr × 0.5, 1 - β × 0.25, ε × 2, λ × 0.5, SGD lr × 1
    """
    check_constants("adamw", learning_rate=learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root,
                    weight_decay=weight_decay, **({} if clip is None else {"clip": clip}))
    if not decay_follows_lr and mup.parametrization.step_decay != ONE:
        raise MupError(f"adamw: decay_follows_lr=False: in {mup.parametrization.name} the decay of hidden "
                       "weights has its own factor, and must follow the learning rate; leave out "
                       "decay_follows_lr")
    scale = _run_scale(mup, batch_ratio, tokens_ratio, run_scale)
    if scale is not None:
        adam = scale.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
        weight_decay = scaled_rate(weight_decay, scale.decay if decay_follows_lr else scale.step_decay)
    else:
        adam = {"learning_rate": learning_rate, "b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root}
    adam |= {"mu_dtype": mu_dtype, "nesterov": nesterov}
    inner = (optax.adamw(**adam, weight_decay=weight_decay, mask=mask) if decay_follows_lr
             else optax.adam(**adam))
    chain: list[optax.GradientTransformation] = [
        mup.wrap_optimizer(inner, scale_eps=scale_eps, lr_mults=lr_mults, run_scale=scale)]
    if clip is not None:
        chain.insert(0, optax.clip_by_global_norm(clip))
    if not decay_follows_lr:
        chain.append(optax.add_decayed_weights(_negative(weight_decay), mask))
    return optax.with_extra_args_support(optax.chain(*chain) if len(chain) > 1 else chain[0])


def _run_scale(mup: OptimizerWrapper, batch_ratio: float | None, tokens_ratio: float | None,
               run_scale: RunScale | None) -> RunScale | None:
    """Returns the batch size and the length of the run: those given, or else the Mup's own."""
    if batch_ratio is None and tokens_ratio is None:
        return mup.run_scale if run_scale is None else run_scale
    if run_scale is not None:
        raise MupError("adamw: run_scale already has a batch_ratio and a tokens_ratio; give either run_scale "
                       "or the two ratios")
    return RunScale(batch_ratio=1.0 if batch_ratio is None else batch_ratio,
                    tokens_ratio=1.0 if tokens_ratio is None else tokens_ratio)


def _negative(rate: Any) -> Any:
    """Returns minus a number, or minus a schedule: behind the learning rate updates are added."""
    return (lambda step: -rate(step)) if callable(rate) else -rate
