"""Everything around the science: settings, resources, automation and the command line."""
