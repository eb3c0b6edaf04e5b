"""All decoders on all kinds of embeddings: the paper's tables 1 and 2."""
