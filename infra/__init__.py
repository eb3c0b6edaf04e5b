"""Configuration of the services that Corgi runs on."""
