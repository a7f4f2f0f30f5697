"""CLRS: an encoder, a processor of graphs and decoders, for algorithms; here with triplets and gates."""
import collections
import dataclasses

from benchmarks.zoo.network import Network, Package, stubs

TABLE = """
*_enc_linear*/w                     input    0    0  0  1
*_dec_linear_3/w                    output   0   -1  0  1
*_dec_linear_3/b                    fixed    -    0  0  0
*reach_h_dec_linear/w               output   0   -1  0  1
*reach_h_dec_linear/b               fixed    -    0  0  0
*_processor/linear_6/w              output   0   -1  0  1
*_processor/linear_6/b              fixed    -    0  0  0
*_processor/linear_7/w              output   0   -1  0  1
*_processor/linear_7/b              fixed    -    0  0  0
*_processor/linear_8/w              output   0   -1  0  1
*_processor/linear_8/b              fixed    -    0  0  0
*_processor/linear_9/w              output   0   -1  0  1
*_processor/linear_9/b              fixed    -    0  0  0
*_processor/linear_10/w             output   0   -1  0  1
*_processor/linear_10/b             fixed    -    0  0  0
*_processor/linear_11/w             output   0   -1  0  1
*_processor/linear_11/b             fixed    -    0  0  0
*_processor/linear_12/w             output   0   -1  0  1
*_processor/linear_12/b             fixed    -    0  0  0
*_processor/linear_13/w             input    0    0  0  1
*/layer_norm/*                      input    -    0  0  1
*/w                                 hidden  -1/2  0 -1  0
*/b                                 input    -    0  0  1
"""


def networks() -> list[Network]:
    """Returns the network for breadth-first search."""
    with stubs("tensorflow", "tensorflow_datasets") as modules:
        core = modules["tensorflow_datasets"].core
        core.BuilderConfig = dataclasses.make_dataclass("BuilderConfig", [("name", str, "")])
        core.GeneratorBasedBuilder = modules["tensorflow"].Tensor = type("Stub", (), {})
        import clrs
        from clrs._src import nets

    sampler, spec = clrs.build_sampler("bfs", num_samples=4, length=5, seed=0)
    features = sampler.next(2).features

    def make(width):
        def function(inputs, hints, lengths):
            net = nets.Net(
                spec=[spec], hidden_dim=width, encode_hints=True, decode_hints=True,
                processor_factory=clrs.get_processor_factory("triplet_gmpnn", use_ln=True, nb_triplet_fts=4,
                                                             nb_heads=1),
                use_lstm=False, encoder_init="default", dropout_prob=0.0, hint_teacher_forcing=0.0,
                hint_repred_mode="soft", nb_dims=[collections.Counter()])
            found = clrs._src.samplers.Features(inputs=inputs, hints=hints, lengths=lengths)
            return net([found], repred=False, algorithm_index=0, return_hints=False,
                       return_all_outputs=False)[0]
        return function

    return [Network(name="Net", make=make, inputs=lambda: tuple(features), table=TABLE, seeds=8,
                    declarations={"readouts": [
                        "*_dec_linear_3", "*reach_h_dec_linear", "*_processor/linear_[6-9]",
                        "*_processor/linear_1[0-2]"]})]


PACKAGE = Package("dm-clrs", "2.0.3", networks, requires=(
    "chex==0.1.92", "absl-py==2.5.1", "toolz==1.2.0", "attrs==26.1.0",
    "ml-collections==1.1.0", "tqdm==4.70.1"))
