"""Graph attention of haiku-geometric: scores are a product with vectors that the layer keeps for each head."""
from benchmarks.zoo.network import Network, Package

TABLE = """
gat_conv/~/linear/w       input    0    0  0  1
gat_conv_1/~/linear/w     hidden  -1/2  0 -1  0
*scoring_fn_*             output   0   -1  0  1
readout/w                 output   0   -1  0  1
readout/b                 fixed    -    0  0  0
"""


def networks() -> list[Network]:
    """Returns two layers and a readout; the heads' size grows, and their number doesn't."""
    import jax
    import jax.numpy as jnp
    from haiku_geometric.nn import GATConv

    import haiku_mup

    senders, receivers = jnp.array([0, 1, 2, 3, 4, 5, 0, 2]), jnp.array([1, 2, 3, 4, 5, 0, 3, 5])

    def make(width):
        def function(nodes):
            for _ in range(2):
                nodes = jax.nn.relu(GATConv(width // 2, heads=2)(nodes, senders, receivers))
            return haiku_mup.Readout(3)(nodes)
        return function

    scores = ((2,), (0, 1))
    return [Network(
        name="GATConv", make=make, inputs=lambda: (jax.random.normal(jax.random.key(0), (6, 5)),), table=TABLE,
        declarations={"readouts": "*/scoring_fn_*", "fans": {"*/scoring_fn_*": scores}}, seeds=10)]


PACKAGE = Package("haiku-geometric", "0.0.5", networks, requires=(
    "jraph==0.0.6.dev0", "numba==0.68.1", "pandas==3.1.1", "tqdm==4.70.1", "requests==2.34.2"))
