"""Networks as integer programs, as an accelerator without floating point runs them."""
