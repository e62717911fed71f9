from dataclasses import dataclass

from torch import nn

@dataclass(frozen=True)
class Float8LinearConfig:
    emulate: bool = False
    @staticmethod
    def from_recipe_name(recipe_name: str) -> Float8LinearConfig: ...

def convert_to_float8_training(
    module: nn.Module, *, config: Float8LinearConfig | None = ...
) -> nn.Module: ...
