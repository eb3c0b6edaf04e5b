"""How well every decoder draws, from every kind of embedding: the paper's tables 1 and 2."""
