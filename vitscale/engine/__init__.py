"""What runs an optimizer step: plain torch (the reference) and DeepSpeed ZeRO."""
