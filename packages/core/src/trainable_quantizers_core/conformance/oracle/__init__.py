"""The contract in closed form, in float64 numpy: no autograd, and of the packages only the names of cases."""
