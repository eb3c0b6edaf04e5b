"""What assets ask for by name: compute, trainer, tracking, registry, DVC and IO managers."""
