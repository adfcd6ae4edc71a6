"""Forwards of a step: noisy copies beside the clean half.

| module | what is in it |
|---|---|
| `layout` | who sees whom, and the choice of blocks |
| `passes` | the clean half computed once, or in every pass |
| `sharing` | when once is enough |
"""
