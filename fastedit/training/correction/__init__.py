"""Training of a correction head on the errors of the frozen model below it (arXiv 2601.06428).

| module | what is in it |
|---|---|
| `options` | every knob of it, with its default |
| `samples` | which tokens the model writes, and which of them the head is asked about |
| `loss` | weighted binary cross entropy, whose weights follow from the whole step |
| `detection` | how well scores tell wrong tokens from right ones |
| `step` | the step around model and head |
"""
