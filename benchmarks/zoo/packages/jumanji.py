"""Jumanji's agent for the connector game: convolutions, a transformer, and a head; given as init and apply."""
from benchmarks.zoo.network import Network, Package, stubs

TABLE = """
*_torso/~/conv2_d/w         input    0    0   0  1
*conv2_d*/w                 hidden  -1/2  0  -1  0
*conv2_d*/b                 input    -    0   0  1
*/layer_norm*               input    -    0   0  1
*policy_head/~/linear_1/w   output   0   -1   0  1
*policy_head/~/linear_1/b   fixed    -    0   0  0
*/w                         hidden  -1/2  0  -1  0
*/b                         input    -    0   0  1
"""


def networks() -> list[Network]:
    """Returns the actor, whose function Haiku keeps; channels and the number of heads grow."""
    import jax
    import jax.numpy as jnp

    from haiku_mup.tracing.haiku_internals import original_function
    with stubs("distrax", "esquilax", "esquilax.transforms", "esquilax.utils", "huggingface_hub",
               "requests"):
        from jumanji.environments.routing.connector.types import Observation
        from jumanji.training.networks.connector.actor_critic import make_actor_network_connector

    def make(width):
        actor = make_actor_network_connector(
            num_agents=2, num_actions=5, transformer_num_blocks=1, transformer_num_heads=width // 8,
            transformer_key_size=8, transformer_mlp_units=[width], env_time_limit=10,
            conv_n_channels=width)
        return original_function(actor.apply)

    def inputs():
        grid = jax.random.randint(jax.random.key(0), (4, 9, 9), 0, 7)
        return Observation(grid=grid, action_mask=jnp.ones((4, 2, 5), bool), step_count=jnp.arange(4)),

    return [Network(name="Connector actor", make=make, inputs=inputs, table=TABLE, seeds=8,
                    declarations={"readouts": "*policy_head/~/linear_1"})]


PACKAGE = Package("jumanji", "1.1.2", networks, requires=(
    "dm-env==1.6", "chex==0.1.92", "gymnasium==1.2.0", "matplotlib==3.11.2", "dm-tree==0.1.10",
    "tqdm==4.70.1"))
