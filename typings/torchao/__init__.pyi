"""The part of torchao that vitscale uses."""
