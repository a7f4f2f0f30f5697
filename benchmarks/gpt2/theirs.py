"""GPT-2 or Llama of transformers, in PyTorch."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"      # before transformers is imported

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from benchmarks.gpt2.settings import DECAY, LENGTH, LR, llama_sizes, make_tokens


def make_step(args):
    """Returns a function that makes one step, and returns the loss."""
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    others = {"bos_token_id": None, "eos_token_id": None, "use_cache": False}
    if args.model == "llama":
        model = LlamaForCausalLM(LlamaConfig(**llama_sizes(args, args.width), **others)).train()
    else:
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=args.vocab, n_positions=LENGTH, n_embd=args.width, n_layer=args.blocks,
            n_head=args.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **others)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    ids = torch.from_numpy(make_tokens(args))

    def one_step():
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss)

    return one_step
