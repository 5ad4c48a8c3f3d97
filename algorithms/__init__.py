"""What Sluice computes: pure functions and sans-IO generators, importable anywhere.

One file is one idea. Nothing here knows Ray, vLLM, the network, files or global state, so everything
is tested with a table of numbers.

    chains         a question, its steps, its answer; splitting, and which step states the answer
    formats        one input record of a corpus -> a Chain, or the reason why it is none
    prefix_forest  token sequences that share prefixes, flattened for one forward pass
    perplexity     which tokens count, and the exponential of their mean loss
    refinement     SPIRIT-FT as a generator: yields what it must know, returns a Refinement
    word_problems  generated multi-step arithmetic problems with redundant steps

To add an algorithm that needs a model: write a generator that yields requests (see `refinement`) and let
an actor answer them. To add a corpus format: one function and one entry in `formats.FORMATS`.
"""
