"""Trains GPT-2, Llama, BERT or RoBERTa on text, in μP relative to a base; goes on where it was interrupted."""
