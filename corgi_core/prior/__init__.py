"""The prior: from a caption to a CLIP image embedding."""
