"""Allocation: decides how many units each group keeps, by a mixed-integer program."""
