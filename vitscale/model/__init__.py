"""The Vision Transformer: patches, positions, encoder, head, initial values, closed forms."""
