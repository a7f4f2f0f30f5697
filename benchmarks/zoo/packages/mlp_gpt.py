"""gMLP as a language model, with tiny attention: a head of one size at every width."""
from benchmarks.zoo.network import Network, Package

TABLE = """
*/embed/embeddings        input    0    0  0  1
*/layer_norm/*            input    -    0  0  1
*/attention/~/linear/w    output   0   -1  0  1
*/attention/~/linear/b    fixed    -    0  0  0
*/attention/~/linear_1/w  input    0    0  0  1
*/attention/~/linear_1/b  input    -    0  0  1
*/sgu/spatial_weights     fixed    0    0  0  0
*/sgu/spatial_biases      fixed    -    0  0  0
*/gmlp*/linear*/w         hidden  -1/2  0 -1  0
*/gmlp*/linear*/b         input    -    0  0  1
*/linear/w                output   0   -1  0  1
*/linear/b                fixed    -    0  0  0
"""


def networks() -> list[Network]:
    """Returns the model; its vocabulary, its length and its head's size are fixed."""
    import jax
    from mlp_gpt_jax.mlp_gpt_jax import MLPGpt

    def make(width):
        return lambda ids: MLPGpt(num_tokens=23, dim=width, seq_len=16, depth=2, ff_mult=2, attn_dim=8)(ids)

    return [Network(
        name="MLPGpt", make=make, inputs=lambda: (jax.random.randint(jax.random.key(0), (16,), 0, 23),),
        table=TABLE, declarations={"readouts": ["mlp_gpt/~/linear", "*/attention/~/linear"]},
        check_widths=(64, 128, 256), seeds=6)]


PACKAGE = Package("mlp-gpt-jax", "0.0.20", networks, requires=("einops==0.8.1",))
