"""The contract in closed form, in float64 numpy: no autograd, and no code of the packages but names of cases."""
