"""What decodes: requests come in, blocks are drafted and edited, requests leave.

`engine` is the loop over `slots` (the state on the device), `plans` (the rows of a forward) and
`kv` (keys and values); `record` is how the host follows; `request` is what comes in and out.
"""
