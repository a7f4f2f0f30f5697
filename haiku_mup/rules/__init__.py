"""The rules of parametrizations and of optimizers: arithmetic, without JAX.

- exponents: roles, and the exponents of width ratios in each of their factors.
- parametrization: `Parametrization`, a table of exponents, and the `Factors` that follow from it.
- tables: standard, neural tangent, and μP in its forms.
- per_layer: learning rates by layer, for any parametrization and alignment.
- optimizer_constants: checks learning rates, decays and the like.
- run_scale: `RunScale`, the constants of optimizers at another batch size or length of training.
- rule_registry: `OptimizerRule`, the record of a kind of optimizer; how rules are registered and chosen.
- optimizers: the rules themselves, each with its derivation.
"""
from haiku_mup.rules.exponents import (
    FIXED,
    HIDDEN,
    INPUT,
    LIMIT,
    ONE,
    OUTPUT,
    ROLES,
    Power,
    Role,
    RoleExponents,
    Row,
)
from haiku_mup.rules.parametrization import Factors, Parametrization, rescale, role

__all__ = ["FIXED", "HIDDEN", "INPUT", "LIMIT", "ONE", "OUTPUT", "ROLES", "Factors", "Parametrization", "Power",
           "Role", "RoleExponents", "Row", "rescale", "role"]
