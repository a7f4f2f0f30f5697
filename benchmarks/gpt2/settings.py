"""The data and the optimizer, which all sides share."""
import numpy as np

BATCH, LENGTH, STEPS, LR, DECAY = 8, 128, 4, 3e-4, 0.1


def make_tokens(args):
    """Returns ids [BATCH, LENGTH]."""
    return np.random.default_rng(0).integers(0, args.vocab, (BATCH, LENGTH))


def llama_sizes(args, width):
    """Returns the sizes of a Llama's configuration: two heads a group, 8/3 of the width in the middle."""
    return {"vocab_size": args.vocab, "max_position_embeddings": LENGTH, "hidden_size": width,
            "intermediate_size": 64 * -(-width // 24), "num_hidden_layers": args.blocks,
            "num_attention_heads": args.heads, "num_key_value_heads": args.heads // 2,
            "tie_word_embeddings": True}
