"""Operations with more than one implementation, and the decision which one runs."""
