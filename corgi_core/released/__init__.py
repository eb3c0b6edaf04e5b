"""The released model: what a person samples from before anything is trained here."""
