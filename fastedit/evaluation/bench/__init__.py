"""The decision step beside its peers, in one process and on the same inputs; `fastedit bench`.

| module | what is in it |
|---|---|
| `case` | inputs: blocks in the middle of decoding; logits, some peaked and some flat |
| `peers` | who takes part: fastedit's back ends, the plain rule, SGLang, diffusers |
| `sglang_step` | SGLang's decision files, run without the server around them |
| `clock` | one timed step: wall time, or the replay of a CUDA graph |
| `measure` | the rounds: equal outputs first, then medians and ratios |
"""
