"""A block of AlphaFold's Evoformer: attention whose weights have axes for heads, and products of features."""
from benchmarks.zoo.network import Network, Package

TABLE = """
*norm*/scale                input    -    0  0  1
*norm*/offset               input    -    0  0  1
*/outer_product_mean/output_w hidden -1   0 -2 -1
*/outer_product_mean/output_b input  -    0  0  1
*/attention/gating_w        hidden   -    0 -1  0
*/attention/gating_b        input    -    0  0  1
*/attention/output_b        input    -    0  0  1
*/attention/*_w             hidden  -1/2  0 -1  0
*/feat_2d_weights           hidden  -1/2  0 -1  0
*/weights                   hidden  -1/2  0 -1  0
*/bias                      input    -    0  0  1
linear*/w                   input    0    0  0  1
linear*/b                   input    -    0  0  1
readout*/w                  output   0   -1  0  1
readout*/b                  fixed    -    0  0  0
"""


def networks() -> list[Network]:
    """Returns a block between embeddings and readouts of our own; channels and the number of heads grow."""
    import haiku as hk
    import jax
    import jax.numpy as jnp
    from alphafold.model import config, modules

    import haiku_mup

    def make(width):
        model = config.model_config("model_1").model
        evoformer, whole = model.embeddings_and_evoformer.evoformer, model.global_config
        with whole.unlocked(), evoformer.unlocked():
            whole.zero_init, whole.deterministic = False, True
            evoformer.outer_product_mean.num_outer_channel = width // 4
            for name, part in evoformer.items():
                if "attention" in name:
                    part.num_head = width // 8
                if "multiplication" in name:
                    part.num_intermediate_channel = width

        def function(msa, pair):
            masks = {"msa": jnp.ones(msa.shape[:2]), "pair": jnp.ones(pair.shape[:2])}
            features = {"msa": hk.Linear(width)(msa), "pair": hk.Linear(width)(pair)}
            found = modules.EvoformerIteration(evoformer, whole, is_extra_msa=False)(
                features, masks, is_training=True)
            return [haiku_mup.Readout(3)(found[name]) for name in ("msa", "pair")]
        return function

    def inputs():
        keys = jax.random.split(jax.random.key(0))
        return jax.random.normal(keys[0], (3, 5, 7)), jax.random.normal(keys[1], (5, 5, 6))

    return [Network(
        name="EvoformerIteration", make=make, inputs=inputs, table=TABLE,
        declarations={"fans": {"*/attention/gating_b": ((), (0, 1)), "*/attention/gating_w": ((0,), (1, 2)),
                               "*/outer_product_mean/output_w": ((0, 1), (2,))}})]


PACKAGE = Package("alphafold-colabfold", "2.3.13", networks,
                  requires=("ml-collections==1.1.0", "dm-tree==0.1.10"))
