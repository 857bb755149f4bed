"""Models as graphs of operations, and the places of quantizers in them."""
