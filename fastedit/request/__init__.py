"""A request: what a call asks for, and how far it is.

`prepare` makes a `Request` of a prompt and its settings (`configs`, `settled`). `slots` is the
state of all that decode now, on the device; `Request.follow` repeats on the host what a `Record`
says that a step did, and `recorder` keeps it, where the request is traced.
"""
