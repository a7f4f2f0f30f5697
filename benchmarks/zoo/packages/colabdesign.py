"""ProteinMPNN of ColabDesign: message passing over residues, and an embedding of its own."""
from benchmarks.zoo.network import Network, Package

TABLE = """
*/embedding_linear/w    fixed    0    0  0  0
*/embedding_linear/b    fixed    -    0  0  0
*/edge_embedding/w      input    0    0  0  1
*/norm_edges/*          input    -    0  0  1
*/embed_token/W_s       input    0    0  0  1
*_norm*/*               input    -    0  0  1
*/W_out/w               output   0   -1  0  1
*/W_out/b               fixed    -    0  0  0
*/w                     hidden  -1/2  0 -1  0
*/b                     input    -    0  0  1
"""


def networks() -> list[Network]:
    """Returns the model, all of whose feature sizes grow; letters and neighbours are fixed."""
    import jax
    import jax.numpy as jnp
    jax.tree_map = jax.tree.map     # JAX had it when this version was written
    from colabdesign.mpnn.modules import ProteinMPNN

    def make(width):
        def function(atoms, letters):
            number = jnp.arange(len(letters))
            net = ProteinMPNN(num_letters=21, node_features=width, edge_features=width, hidden_dim=width,
                              num_encoder_layers=1, num_decoder_layers=1, k_neighbors=6, augment_eps=0.0,
                              dropout=0.0)
            return net.score({"X": atoms, "mask": jnp.ones(len(letters)), "residue_idx": number,
                              "chain_idx": 0 * number, "S": letters, "decoding_order": number})["logits"]
        return function

    def inputs():
        keys = jax.random.split(jax.random.key(0))
        return 5 * jax.random.normal(keys[0], (12, 4, 3)), jax.random.randint(keys[1], (12,), 0, 21)

    return [Network(name="ProteinMPNN", make=make, inputs=inputs, table=TABLE, seeds=8,
                    declarations={"readouts": "protein_mpnn/~/W_out"})]


PACKAGE = Package("colabdesign", "1.1.1", networks, requires=(
    "joblib==1.4.2", "matplotlib==3.11.2", "ml-collections==1.1.0", "dm-tree==0.1.10", "chex==0.1.92",
    "biopython==1.88"))
