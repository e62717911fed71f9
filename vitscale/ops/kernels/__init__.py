"""Our Triton kernels: each with an operator of torch, an autograd.Function and a plain twin it is tested against."""
