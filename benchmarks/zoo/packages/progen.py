"""ProGen, a language model of proteins: local attention, gated layers, spatial gating units."""
from benchmarks.zoo.network import Network, Package

TABLE = """
*/embed/embeddings      input    0    0  0  1
*/attn*/layer_norm/scale input   -    0  0  1
*/attn*/linear/w        hidden  -1/2  0 -1  0
*/attn*/linear_1/w      hidden  -1/2  0 -1  0
*/attn*/linear_1/b      input    -    0  0  1
*/ff*/layer_norm/scale  input    -    0  0  1
*/ff*/linear*/w         hidden  -1/2  0 -1  0
*/ff*/linear*/b         input    -    0  0  1
*/sgu/spatial_weights   fixed    0    0  0  0
*/sgu/spatial_biases    fixed    -    0  0  0
*/layer_norm/scale      input    -    0  0  1
*/linear/w              output   0   -1  0  1
*/linear/b              fixed    -    0  0  0
"""


def networks() -> list[Network]:
    """Returns the model, whose heads grow in number; its vocabulary and its length are fixed."""
    import jax
    from progen_transformer.progen import ProGenBase

    def make(width):
        return lambda ids: ProGenBase(num_tokens=23, dim=width, seq_len=16, depth=2, window_size=8,
                                      global_mlp_depth=1, heads=width // 8, dim_head=8, ff_mult=2)(ids)

    return [Network(
        name="ProGenBase", make=make, inputs=lambda: (jax.random.randint(jax.random.key(0), (16,), 0, 23),),
        table=TABLE, declarations={"readouts": "pro_gen_base/~/linear"})]


PACKAGE = Package("progen-transformer", "0.0.36", networks, requires=("einops==0.8.1", "jmp==0.0.4"))
