"""Forwards of a step: noisy copies beside the clean half.

| module | what is in it |
|---|---|
| `layout` | who sees whom, and the choice of blocks |
| `passes` | the clean half computed once, in every pass, or not at all |
| `sharing` | when once is enough |
"""
