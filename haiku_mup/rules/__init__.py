"""The rules of parametrizations and of optimizers: arithmetic alone, without JAX."""
from haiku_mup.rules.parametrization import (
    FIXED,
    HIDDEN,
    INPUT,
    LIMIT,
    ONE,
    OUTPUT,
    ROLES,
    Factors,
    Parametrization,
    Power,
    Role,
    RoleExponents,
    Row,
    rescale,
    role,
)

__all__ = ["FIXED", "HIDDEN", "INPUT", "LIMIT", "ONE", "OUTPUT", "ROLES", "Factors", "Parametrization", "Power",
           "Role", "RoleExponents", "Row", "rescale", "role"]
