"""Other names of options, as released code and other projects spell them; all doors take them."""

ALIASES = {
    "gen_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "block_size": "block_length",
    "edit_threshold": "editing_threshold",
    "max_post_edit_steps": "max_post_steps",
    "mask_id": "mask_token_id",
    "eos_id": "eos_token_id",
}
