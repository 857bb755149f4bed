"""Self-check and verification of models, and the sensitivity of their outputs to each quantizer."""
