"""A small, untrained CLIP text encoder of transformers' own classes, and its tokenizer."""

from __future__ import annotations

from string import ascii_lowercase

from transformers import CLIPTextConfig, CLIPTokenizer

TOKENS = 8  # of a text, its start and end among them


def tiny_tokenizer() -> CLIPTokenizer:
    """A token for each letter."""
    words = ["<|startoftext|>", "<|endoftext|>", *ascii_lowercase]
    words += [f"{letter}</w>" for letter in ascii_lowercase]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)


def tiny_text_config(width: int) -> CLIPTextConfig:
    """Of a text tower with tokens and embeddings of a width."""
    return CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=TOKENS, projection_dim=width,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
