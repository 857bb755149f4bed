"""Models as graphs of operations, and where quantizers stand in them."""
