"""What merges two steps of a chain: a language model behind an engine.

protocol   what the Refiner asks of a merger
build      picklable factories: the scorer's own model, or an endpoint
merger     drives an engine; a failing endpoint leaves the merge out, and loses no row
cache      replies on the run's storage, so that a resumed run asks for nothing twice
"""
