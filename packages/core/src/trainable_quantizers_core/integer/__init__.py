"""Networks as programs of integer operations: what an accelerator without floating point computes."""
