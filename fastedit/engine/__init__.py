"""What decodes: requests come in, blocks are drafted and edited, requests leave.

`engine` is the loop. A step (`step`, from a graph where there is one: `graphs`) is a forward, a
decision and an advance of all requests of a `lane`; `scheduler` and `store` say who comes in, and
where its positions are.
"""
