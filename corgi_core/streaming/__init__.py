"""Images for models while these are trained and evaluated: read or decoded, and scaled."""
