from torch import nn

class Float8LinearConfig:
    @staticmethod
    def from_recipe_name(recipe_name: str) -> Float8LinearConfig: ...

def convert_to_float8_training(module: nn.Module) -> nn.Module: ...
