"""Operators as sparse matrices, for the paper's program. Imported only by what asks for them, since scipy is heavy."""
