"""The part of NVIDIA apex that vitscale uses."""
