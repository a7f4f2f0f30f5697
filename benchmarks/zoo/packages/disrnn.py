"""Disentangled RNNs: a recurrent core whose networks keep all of their weights as parameters of their own."""
from benchmarks.zoo.network import Network, Package

TABLE = """
*/input_weights         input    0    0  0  1
*/input_biases          input    -    0  0  1
*/layer_*_weights       hidden  -1/2  0 -1  0
*/layer_*_biases        input    -    0  0  1
*/output_weights        output   0   -1  0  1
*/output_biases         fixed    -    0  0  0
*_multipliers           fixed    -    0  0  0
*                       fixed    0    0  0  0
"""


def networks() -> list[Network]:
    """Returns the core, unrolled; its networks are as wide as we like, its latents and outputs are few."""
    import haiku as hk
    import jax
    from disentangled_rnns.library import disrnn

    def make(width):
        config = disrnn.DisRnnConfig(
            obs_size=2, output_size=2, latent_size=3, update_net_n_units_per_layer=width,
            choice_net_n_units_per_layer=width, noiseless_mode=True)

        def function(x):
            core = disrnn.HkDisentangledRNN(config)
            return hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))[0]
        return function

    return [Network(
        name="HkDisentangledRNN", make=make, inputs=lambda: (jax.random.normal(jax.random.key(0), (4, 8, 2)),),
        table=TABLE, declarations={"readouts": "*/output_weights"}, outputs=lambda found: found[..., :-1],
        failure="the penalty, the sum of all squares of hidden weights, grows with the width")]


PACKAGE = Package("disentangled-rnns", "0.1.8", networks, requires=(
    "chex==0.1.92", "matplotlib==3.11.2", "pandas==3.1.1", "tqdm==4.70.1"))
