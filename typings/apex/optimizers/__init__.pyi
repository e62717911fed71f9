from typing import Any

import torch

class FusedAdam(torch.optim.Optimizer):
    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float = ...,
        bias_correction: bool = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        adam_w_mode: bool = ...,
    ) -> None: ...
    def step(self) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]
