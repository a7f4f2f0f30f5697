"""The rules of parametrizations and of optimizers: arithmetic, without JAX."""
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
